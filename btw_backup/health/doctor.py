"""What could keep the next backup, or a restore, from working: one finding for each thing looked at.

Nothing is changed by looking, but for a torn sync state, which is mended by whoever reads it.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from btw_backup import locks, places, process
from btw_backup.clock import moment_of
from btw_backup.configuration import config, jobs
from btw_backup.configuration.addresses import Address
from btw_backup.configuration.jobs import Job
from btw_backup.errors import FatalUserError, NoCatalogue
from btw_backup.health import object_locks, privacy
from btw_backup.health.findings import ERROR, OK, WARNING, Finding, judge_clock, judge_space
from btw_backup.health.patient import Patient
from btw_backup.inventory import overview
from btw_backup.offsite import removals, sync
from btw_backup.sources.command import source_of

VERSION_LIMIT = 30.0


def examine(config_dir: Path, now: datetime) -> Iterator[Finding]:
    """Look at everything; a check that cannot be made is an error of that check."""
    patient = Patient(config_dir, now)
    for what, check in CHECKS.items():
        try:
            yield from check(patient)
        except FatalUserError as error:
            yield Finding(ERROR, what, error.message, error.hint)
        except OSError as error:
            yield Finding(ERROR, what, f"{error.filename or ''}: {error.strerror}".lstrip(": "))


def _configuration(patient: Patient) -> Iterator[Finding]:
    found = dict(jobs.examined(patient.config_dir))
    problems = [problem for of_file in found.values() for problem in of_file]
    for problem in problems:
        yield Finding(ERROR, "configuration", problem.message, problem.hint)
    if not problems:
        yield Finding(OK, "configuration", f"{patient.config_dir}, {len(found)} files without a problem")


def _user(patient: Patient) -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield Finding(OK, "user", "root, who can read everything")
    else:
        yield Finding(WARNING, "user", "not root: what you may not read is not backed up", "run it as root")


def _programs(patient: Patient) -> Iterator[Finding]:
    databases = (jobs.database_job(patient.config_dir, name) for name in patient.databases)
    rdiff = any(job.keeper == "rdiff" for job in (*patient.trees, *databases))
    wanted = {
        "tar": ("every filesystem", True),
        "setpriv": ("every program that is started", True),
        "rdiff-backup": ("type rdiff", rdiff),
        "ps": ("rdiff-backup", rdiff),
        "s3cmd": ("S3_URI_PREFIX", patient.uses_s3),
    }
    for program, (purpose, needed) in wanted.items():
        yield _program(program, purpose, needed)
    yield _clients(bool(patient.databases))


def _program(program: str, purpose: str, needed: bool) -> Finding:
    try:
        said = process.run([program, "--version"], timeout=VERSION_LIMIT).decode("utf-8", "replace")
    except FatalUserError as error:
        return _lacking(program, purpose, needed, error)
    version = said.strip().partition("\n")[0]
    if program == "tar" and "GNU tar" not in version:
        return Finding(ERROR, program, f"not GNU tar: {version}", "apt-get install tar")
    return Finding(OK, program, f"{version}, {process.locate(program)}")


def _clients(needed: bool) -> Finding:
    from btw_backup.sources import postgres_client  # noqa: PLC0415 - not every patient has databases

    what = "PostgreSQL clients"
    try:
        found = postgres_client.installed()
    except FatalUserError as error:
        return _lacking(what, "databases", needed, error)
    return Finding(OK, what, ", ".join(f"{client} in {client.folder}" for client in found))


def _lacking(what: str, purpose: str, needed: bool, error: FatalUserError) -> Finding:
    why = f"needed for {purpose}" if needed else f"{purpose} would need it; there is no such job here"
    return Finding(ERROR if needed else WARNING, what, f"{error.message}: {why}", error.hint)


def _clock(patient: Patient) -> Iterator[Finding]:
    stamps = {f"{dst}@{stamp}": stamp for dst, (stamp, _) in patient.newest.items()}
    youngest = max(stamps, key=lambda address: stamps[address], default=None)
    yield judge_clock(patient.now, youngest, moment_of(stamps[youngest]) if youngest else None)


def _root(patient: Patient) -> Iterator[Finding]:
    root: Path | None = patient.general["ROOT_PATH"]
    if root is None:
        return  # the check of the configuration says it
    known = places.has_identity(root, patient.config_dir)
    if not os.access(root, os.W_OK | os.X_OK):
        yield Finding(ERROR, "ROOT_PATH", f"{root} cannot be written", "is its filesystem mounted read-only?")
        return
    if why := locks.why_none(root):
        hint = "backups cannot be made safely there: take another filesystem, such as ext4 or XFS"
        yield Finding(ERROR, f"filesystem of {root}", f"it has no locks (flock): {why}", hint)
    if known:
        yield Finding(OK, "ROOT_PATH", f"{root} is the one of this configuration, and holds {_dsts(patient)}")
    else:
        yield Finding(OK, "ROOT_PATH", f"{root}, which holds {_dsts(patient)}; the next backup marks it as ours")


def _dsts(patient: Patient) -> str:
    count = len(patient.newest)
    return f"{count} dst{'s' if count != 1 else ''}"


def _space(patient: Patient) -> Iterator[Finding]:
    newest = [record for _, record in patient.newest.values() if record]
    if patient.root:
        largest = max((record.stored for record in newest), default=0)
        yield judge_space(f"space in {patient.root}", *_free(patient.root), largest)
    if patient.config_dir.is_dir():  # archives and dumps for rdiff-backup lie there, whole, for a while
        largest = max((record.length for record in newest if record.keeper == "rdiff"), default=0)
        yield judge_space(f"space in {patient.config_dir}", *_free(patient.config_dir), largest)


def _free(folder: Path) -> tuple[int, int, bool]:
    status = os.statvfs(folder)
    return (
        status.f_bavail * status.f_frsize,
        status.f_blocks * status.f_frsize,
        not status.f_files or status.f_favail > 0,
    )


def _permissions(patient: Patient) -> Iterator[Finding]:
    for folder in filter(None, (patient.config_dir, patient.root)):
        if folder.is_dir():
            yield privacy.of(folder)
    if patient.root:
        yield from privacy.within(patient.root)
    if not any(config.shortcomings(patient.general)):
        for credentials in sorted({address.s3cmd_config for address in sync.targets(patient.general)} - {""}):
            if Path(credentials).expanduser().exists():
                yield privacy.of(Path(credentials).expanduser())


def _sources(patient: Patient) -> Iterator[Finding]:
    for job in patient.trees:
        what = f"job {job.name}"
        if not os.path.exists(job.source):
            yield Finding(ERROR, what, f"its source {job.source} is missing", "is it mounted?")
        elif os.path.isdir(job.source) and not job.settings["ALLOW_EMPTY"] and not os.listdir(job.source):
            yield Finding(ERROR, what, f"its source {job.source} is empty", "is it mounted? if so, ALLOW_EMPTY = True")
        else:
            yield Finding(OK, what, f"{job.source}, type {job.keeper}")
    for job in patient.commands:
        yield _command(job)


def _command(job: Job) -> Finding:
    what = f"command {job.name}"
    try:
        source_of(job).fingerprint()
    except FatalUserError as error:
        return Finding(ERROR, what, error.message, error.hint)
    return Finding(OK, what, f"{job.settings['URL'] or job.settings['COMMAND'][0]}, type {job.keeper}")


def _postgresql(patient: Patient) -> Iterator[Finding]:
    usual = jobs.database_job(patient.config_dir, jobs.GLOBALS).settings["CONNECTION"]
    wanted: dict[str, list[str]] = {}
    for name in patient.databases:
        own = jobs.database_job(patient.config_dir, name).settings["CONNECTION"]
        wanted.setdefault(own or usual, []).append(name)
    for connection, names in wanted.items():
        yield from _server(connection, names)


def _server(connection: str, wanted: list[str]) -> Iterator[Finding]:
    """Whether the server answers, whether a client suits it, and whether it still has the databases `wanted`."""
    from btw_backup.sources import postgres_server  # noqa: PLC0415 - psycopg takes 0.1 s to load

    what = f"PostgreSQL for {', '.join(wanted)}"  # not the connection: it may hold a password, though it must not
    try:
        server = postgres_server.reach(connection)
        yield Finding(OK, what, f"version {server.version} answers, and pg_dump {server.client()} suits it")
        there = {jobs.GLOBALS, *postgres_server.databases(connection)}
    except FatalUserError as error:
        yield Finding(ERROR, what, error.message, error.hint)
        return
    for name in wanted:
        if name not in there:
            yield Finding(
                WARNING, f"database {name}", "it is backed up, or has a file, and the server does not have it"
            )


def _offsite(patient: Patient) -> Iterator[Finding]:
    if any(config.shortcomings(patient.general)):
        return  # the check of the configuration says it
    targets = sync.targets(patient.general)
    if not targets:
        yield Finding(OK, "off-site", "nowhere: backups stay on this machine only, as OFFSITE = {} says")
    for address in targets:
        yield _target(patient, address)
        if address.object_lock:
            yield from object_locks.looked_at(address, patient.config_dir, patient.now)
        if address.place.startswith("/") and patient.root and Path(address.place).is_dir():
            yield _other_disk(patient.root, address)
        if left := len(removals.journal(patient.config_dir, address).pending()):
            count = f"{left} path{'s' if left > 1 else ''} still to be removed at {address.place}"
            yield Finding(WARNING, "removals", count, "btw-backup sync removes them; sync-state --list shows them")
        owed = len(sync.journal(patient.config_dir, address.name).pending())
        if owed:
            count = f"{owed} path{'s' if owed > 1 else ''} still to be sent to {address.place}"
            yield Finding(WARNING, "sync state", count, "btw-backup sync sends them; sync-state --list shows them")


def _target(patient: Patient, address: Address) -> Finding:
    try:
        target = sync.target_of(address, patient.general, patient.config_dir)
        target.probe()
        if address.s3cmd_config and (left := len(target.leftovers())):
            what = (
                f"{address.place} has {left} upload{'s' if left > 1 else ''} that nobody finished, and that cost room"
            )
            return Finding(WARNING, "off-site", what, "btw-backup sync --full removes them; a lifecycle rule can, too")
    except FatalUserError as error:
        return Finding(ERROR, "off-site", f"{address.place} does not answer: {error.message}", error.hint)
    if address.s3cmd_config:
        from btw_backup.offsite.s3cfg import speaks_in_clear  # noqa: PLC0415 - who keeps backups here only need not

        if speaks_in_clear(address.s3cmd_config):
            what = f"{address.place} answers, over HTTP: who is on the way reads what is not encrypted, and can lie"
            return Finding(WARNING, "off-site", what, f"use_https = True in {address.s3cmd_config}")
    sealed = "encrypted" if address.encrypt_to else "not encrypted"
    return Finding(OK, "off-site", f"{address.place} answers; what is sent there is {sealed}")


def _other_disk(root: Path, address: Address) -> Finding:
    what = f"disk of {address.place}"
    if os.stat(root).st_dev == os.stat(address.place).st_dev:
        return Finding(WARNING, what, "it is the one of ROOT_PATH: who loses one loses both", "use another disk")
    return Finding(OK, what, "another one than that of ROOT_PATH")


def _catalogue(patient: Patient) -> Iterator[Finding]:
    if "CATALOG" not in patient.general or "ROOT_PATH" not in patient.general:
        return  # a file, which is made when it is needed
    try:
        overview.probe(patient.general, patient.config_dir)
        yield Finding(OK, "catalogue", "its PostgreSQL answers")
    except NoCatalogue as error:
        yield Finding(WARNING, "catalogue", error.message, error.hint)


CHECKS: Mapping[str, Callable[[Patient], Iterator[Finding]]] = {
    "configuration": _configuration,
    "user": _user,
    "programs": _programs,
    "clock": _clock,
    "ROOT_PATH": _root,
    "space": _space,
    "permissions": _permissions,
    "jobs": _sources,
    "PostgreSQL": _postgresql,
    "off-site": _offsite,
    "catalogue": _catalogue,
}
