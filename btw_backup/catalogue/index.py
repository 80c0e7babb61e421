"""What the catalogue holds of one installation: brought up to date with the files, and asked."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, select

from btw_backup import records, regular
from btw_backup.catalogue import journal
from btw_backup.catalogue.database import note, state, writing
from btw_backup.catalogue.journal import Run
from btw_backup.catalogue.tables import BACKUPS, DAMAGE, RUNS
from btw_backup.records import DAMAGED, FOLDER, Backup

_BATCH = 500
"""Rows that are written at once. With the names of one dst, that bounds the memory."""

_MOST = (1 << 63) - 1


class Catalogue:
    """The rows of `installation` in the database that `connection` leads to."""

    def __init__(self, connection: Connection, installation: str) -> None:
        self._connection = connection
        self._installation = installation

    def take_backups(self, dst: str, folder: Path, found: Iterable[Backup]) -> None:
        """Bring the rows of `dst`, whose folder is `folder`, up to date with `found`, its backups without records.

        Only records whose file is another than before are read.
        """
        table, key = BACKUPS, _text(dst)
        seen = _seen(folder)
        there = {_text(backup.name): backup for backup in found}
        rows = self._select(select(table.c.name, table.c.seen), table, table.c.dst == key)
        known = {row.name: row.seen for row in rows}
        fresh = [b for name, b in there.items() if known.get(name) != seen.get(b.stamp, "")]
        gone = [name for name in known if name not in there]
        if fresh or gone:
            with writing(self._connection):
                self._remove_backups(key, [*gone, *(_text(backup.name) for backup in fresh)])
                rows = (self._row(key, b, seen.get(b.stamp, "")) for b in records.joining(fresh, folder))
                self._insert(table, rows)

    def _remove_backups(self, dst: str, names: Sequence[str]) -> None:
        for batch in _batches(iter(names)):
            self._delete(BACKUPS, BACKUPS.c.dst == dst, BACKUPS.c.name.in_(batch))

    def _row(self, dst: str, backup: Backup, seen: str) -> dict[str, Any]:
        record = backup.record
        known = asdict(record) if record else {}
        return {
            "dst": dst,
            "name": _text(backup.name),
            "stamp": backup.stamp,
            "full_stamp": backup.full,
            "keeper": backup.keeper,
            "kind": _text(record.kind if record else backup.kind),
            "valid": backup.valid,
            **{name: _text(known.get(name, "")) for name in ("uid", "source", "started", "finished", "sha256")},
            **{name: _number(known.get(name, 0)) for name in ("length", "stored", "status")},
            "record": json.dumps(known, ensure_ascii=True) if record else "",
            "seen": seen,
        }

    def forget_other_dsts(self, dsts: Iterable[str]) -> None:
        """Remove the rows of all dsts but `dsts`."""
        there = set(map(_text, dsts))
        known = {row.dst for row in self._select(select(BACKUPS.c.dst).distinct(), BACKUPS)}
        if gone := known - there:
            with writing(self._connection):
                for dst in sorted(gone):
                    self._delete(BACKUPS, BACKUPS.c.dst == dst)

    def take_runs(self, config_dir: Path) -> None:
        """Bring the runs up to date with the journal: all of it is read if it was added to."""
        now = journal.state(config_dir)
        if state(self._connection, self._installation, "journal") == now:
            return
        with writing(self._connection):
            self._delete(RUNS)
            rows = ({"number": n, **_fitting(run)} for n, run in enumerate(journal.read(config_dir)))
            self._insert(RUNS, rows)
            note(self._connection, self._installation, "journal", now)

    def take_damage(self, folder: Path) -> None:
        """Bring the bad chunks up to date with the reports in `folder`."""
        now = {path.name.split(".")[0]: path for path in sorted(folder.glob("*")) if path.name[:1] not in ("", ".")}
        known = {row.chunk for row in self._select(select(DAMAGE.c.chunk), DAMAGE)}
        if known == now.keys():
            return
        with writing(self._connection):
            self._delete(DAMAGE)
            self._insert(DAMAGE, ({"chunk": _text(name), **_report(folder, name)} for name in now))

    def runs(self, *, dst: str | None = None, failed: bool = False, most: int) -> list[Run]:
        """The last runs, oldest first; with `dst` only those, with `failed` only those of another status than 0."""
        wanted = [RUNS.c.dst == _text(dst)] if dst is not None else []
        wanted += [RUNS.c.status != 0] if failed else []
        names = [RUNS.c[name] for name in (field.name for field in fields(Run))]
        rows = self._select(select(*names).order_by(RUNS.c.number.desc()).limit(most), RUNS, *wanted)
        return [Run(**row._mapping) for row in reversed(list(rows))]

    def backups_of(self, uid: str) -> list[tuple[str, str]]:
        """The dst and stamp of every backup whose uid begins with `uid`."""
        found = select(BACKUPS.c.dst, BACKUPS.c.stamp).order_by(BACKUPS.c.dst, BACKUPS.c.stamp)
        return [
            (row.dst, row.stamp) for row in self._select(found, BACKUPS, BACKUPS.c.uid.startswith(uid, autoescape=True))
        ]

    def last_scrub(self) -> str:
        """When the last scrub ended; "" if none is known."""
        question = select(func.max(RUNS.c.finished)).where(RUNS.c.kind == "scrub")
        return str(self._select(question, RUNS).scalar() or "")

    def counts(self) -> Mapping[str, int]:
        """How many rows there are of each sort."""
        invalid = select(func.count()).select_from(BACKUPS).where(BACKUPS.c.valid.is_(False))
        return {
            "dsts": self._count(select(func.count(BACKUPS.c.dst.distinct())), BACKUPS),
            "backups": self._count(select(func.count()).select_from(BACKUPS), BACKUPS),
            "invalid": self._count(invalid, BACKUPS),
            "runs": self._count(select(func.count()).select_from(RUNS), RUNS),
            "damaged chunks": self._count(select(func.count()).select_from(DAMAGE), DAMAGE),
        }

    def _count(self, question: Any, table: Table) -> int:
        return int(self._connection.execute(question.where(table.c.installation == self._installation)).scalar() or 0)

    def clear(self) -> None:
        """Remove everything of this installation."""
        with writing(self._connection):
            for table in (BACKUPS, RUNS, DAMAGE):
                self._delete(table)
            note(self._connection, self._installation, "journal", "")

    def _select(self, question: Any, table: Table, *wanted: Any) -> Any:
        return self._connection.execute(question.where(table.c.installation == self._installation, *wanted))

    def _delete(self, table: Table, *wanted: Any) -> None:
        self._connection.execute(delete(table).where(table.c.installation == self._installation, *wanted))

    def _insert(self, table: Table, rows: Iterator[dict[str, Any]]) -> None:
        for batch in _batches({"installation": self._installation, **row} for row in rows):
            self._connection.execute(insert(table), batch)


def _batches(things: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(islice(things, _BATCH)):
        yield batch


def _seen(folder: Path) -> dict[str, str]:
    """What tells by stamp whether a record or a mark is another one: name, mtime and size."""
    found: dict[str, str] = {}
    try:
        with os.scandir(folder / FOLDER) as entries:
            for entry in entries:
                stamp, _, ending = entry.name.rpartition(".")
                if ending in ("json", DAMAGED[1:]):
                    status = entry.stat(follow_symlinks=False)
                    found[stamp] = "".join(
                        sorted([found.get(stamp, ""), f"{ending} {status.st_mtime_ns} {status.st_size};"])
                    )
    except (FileNotFoundError, NotADirectoryError):
        pass
    return found


def _fitting(run: Run) -> dict[str, Any]:
    return {name: _number(v) if isinstance(v, int) else _text(v) for name, v in asdict(run).items()}


def _report(folder: Path, chunk: str) -> dict[str, str]:
    """What was reported of a bad chunk; "" where nothing was, or what was cannot be read."""
    try:
        report = json.loads(regular.read(folder / f"{chunk}.json"))
        return {"found": _text(str(report.get("found", ""))), "report": json.dumps(report, ensure_ascii=True)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {"found": "", "report": ""}


def _text(text: str) -> str:
    """`text` as every database takes it: names that are no UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _number(number: int) -> int:
    return max(-_MOST, min(number, _MOST))
