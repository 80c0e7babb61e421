"""A PostgreSQL server of its own, with a database of 450 MB, and who keeps its dump.

Half of the dump is random text, which nobody changes; the other half is that of pgbench. The change is 2,000
transactions of pgbench, all over its largest table.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import measure
from contenders import RESTIC, Contender

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
SCALE = 21
RANDOM = """
    CREATE TABLE archive AS SELECT n, (SELECT string_agg(md5(random()::text || n || m), '')
    FROM generate_series(1, 32) AS m) AS text
    FROM generate_series(1, 217000) AS n
"""
DUMP = f"{PROGRAMS}/pg_dump -Fc -Z0 bench"
SCENARIOS = ("first", "unchanged", "2,000 transactions", "restore")


def ours(keeper: str) -> Contender:
    """The program of this checkout, as it is installed."""
    run = '"$BTW_BACKUP" -q --config-dir "$STORE/config"'
    prepare = f"""
        mkdir -p "$STORE/config" "$STORE/backups"
        printf 'ROOT_PATH = "%s"\\nOFFSITE = {{}}\\n' "$STORE/backups" >"$STORE/config/config.py"
        echo 'TYPE = "{keeper}"' >"$STORE/config/bench.py\""""
    return Contender(f"btw-backup {keeper}", prepare, f"{run} db bench bench", f'{run} restore bench "$TARGET"', "all")


def borg(name: str, program: str, compression: str) -> Contender:
    """Borg, fed through a pipe."""
    run = f'BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_BASE_DIR="$STORE/base" "{program}"'
    return Contender(
        name,
        f'{run} init -e none "$STORE/repository"',
        f'{DUMP} | {run} create -C {compression} "$STORE/repository::$(date +%s%N)" -',
        f'{run} extract --stdout "$STORE/repository::$({run} list --last 1 --short "$STORE/repository")" >"$TARGET"',
        "all",
    )


CONTENDERS = (
    ours("chunks"),
    ours("file"),
    ours("rdiff"),
    Contender(
        "pg_dump | zstd",
        "",
        f'{DUMP} | zstd -q -T2 -o "$STORE/$(date +%s%N).zst"',
        'zstd -q -d -c "$(ls "$STORE"/*.zst | tail -n 1)" >"$TARGET"',
        "nothing",
    ),
    Contender(
        "restic 0.14",
        f"{RESTIC} init --repository-version 2",
        f"{DUMP} | {RESTIC} backup --stdin --stdin-filename bench.dump",
        f'{RESTIC} dump latest bench.dump >"$TARGET"',
        "all",
    ),
    borg("borg 1.2 lz4", "borg", "lz4"),
    borg("borg 1.2 zstd", "borg", "zstd,3"),
    borg("borg 1.4 lz4", "$NEWER_BORG", "lz4"),
    borg("borg 1.4 zstd", "$NEWER_BORG", "zstd,3"),
)
LIMITS = (("btw-backup chunks", "first", 1.10, "pg_dump | zstd", "first"),)
"""As in `contenders.LIMITS`."""

ADDED_LIMIT = 0.33
"""What the transactions add to ours, at most how many times what they add to that of any other."""


@contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """A server in `folder` while the block lasts; the environment that leads to it. PostgreSQL refuses to run as root."""
    folder.mkdir(mode=0o755)
    shutil.chown(folder, "nobody", "nogroup")
    options = {"user": "nobody", "group": "nogroup", "extra_groups": [], "cwd": "/", "stdout": subprocess.DEVNULL}
    initdb = [PROGRAMS / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "--locale=C.UTF-8"]
    subprocess.run([*initdb, "--no-sync"], check=True, **options)  # type: ignore[call-overload]
    with open(folder / "data" / "postgresql.conf", "a") as file:
        file.write("listen_addresses = ''\nshared_buffers = 128MB\nsynchronous_commit = off\nautovacuum = off\n")
    command = [PROGRAMS / "postgres", "-D", folder / "data", "-k", folder]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    try:
        while subprocess.run([PROGRAMS / "pg_isready", "-q", "-h", folder], check=False).returncode:
            time.sleep(0.1)
        yield {"PGHOST": str(folder), "PGUSER": "postgres"}
    finally:
        process.send_signal(3)
        process.wait()


def fill(environment: dict[str, str]) -> None:
    """Make the database."""
    client = {**os.environ, **environment}
    subprocess.run([PROGRAMS / "createdb", "bench"], check=True, env=client)
    quiet = {"check": True, "env": client, "stderr": subprocess.DEVNULL}
    subprocess.run([PROGRAMS / "pgbench", "-q", "-i", "-s", str(SCALE), "bench"], **quiet)  # type: ignore[call-overload]
    subprocess.run([PROGRAMS / "psql", "-Xq", "-d", "bench", "-c", RANDOM], check=True, env=client)
    subprocess.run([PROGRAMS / "psql", "-Xq", "-d", "bench", "-c", "VACUUM ANALYZE"], check=True, env=client)


def change(environment: dict[str, str]) -> None:
    """2,000 transactions."""
    command = [PROGRAMS / "pgbench", "-n", "-c", "2", "-t", "1000", "bench"]
    subprocess.run(command, check=True, env={**os.environ, **environment}, capture_output=True)


def size_of(folder: str) -> int:
    """What a store takes on the disk."""
    return int(subprocess.run(["du", "-s", "-B1", folder], check=True, capture_output=True).stdout.split()[0])


class DatabaseBench:
    """One run: a server, a store for each contender, and what was measured."""

    def __init__(self, top: Path, contenders: list[Contender], client: dict[str, str]) -> None:
        self.top = top
        self.contenders = contenders
        self.client = client
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.processor: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.sizes: dict[tuple[str, str], int] = {}
        self.memory: dict[str, int] = defaultdict(int)

    def environment(self, contender: Contender) -> dict[str, str]:
        """What the commands of `contender` get to see."""
        store = self.top / "stores" / str(CONTENDERS.index(contender))
        places = {"STORE": str(store), "TARGET": str(self.top / "target"), "HOME": str(self.top), "LC_ALL": "C.UTF-8"}
        return {**os.environ, **self.client, **places}

    def time(self, contender: Contender, scenario: str, script: str) -> None:
        """Run one command, and note what it took."""
        (self.top / "target").unlink(missing_ok=True)
        environment = self.environment(contender)
        try:
            measured = measure.run(script, environment, self.top / "log")
        except subprocess.CalledProcessError as error:
            sys.exit(f"{contender.name}, {scenario}, ended with {error.returncode}:\n{error.stderr}")
        self.seconds[contender.name, scenario].append(measured.seconds)
        self.processor[contender.name, scenario].append(measured.processor)
        self.sizes[contender.name, scenario] = size_of(environment["STORE"])
        self.memory[contender.name] = max(self.memory[contender.name], measured.memory)
        told = f"{measured.seconds:8.2f} s ({measured.processor:6.2f}) {self.sizes[contender.name, scenario] / 1e6:8.2f} MB"
        print(f"{scenario:20} {contender.name:20} {told}", file=sys.stderr, flush=True)

    def round(self) -> None:
        """All contenders, one scenario after the other; what comes back has to be a dump."""
        for contender in self.contenders:
            environment = self.environment(contender)
            shutil.rmtree(environment["STORE"], ignore_errors=True)
            os.makedirs(environment["STORE"])
            prepare = ["bash", "-euo", "pipefail", "-c", contender.prepare]
            subprocess.run(prepare, check=True, env=environment, stdout=subprocess.DEVNULL)
            self.time(contender, "first", contender.backup)
        for contender in self.contenders:
            self.time(contender, "unchanged", contender.backup)
        change(self.client)
        for contender in self.contenders:
            self.time(contender, "2,000 transactions", contender.backup)
        for contender in self.contenders:
            self.time(contender, "restore", contender.restore)
            restored = [PROGRAMS / "pg_restore", "-f", "/dev/null", self.top / "target"]
            subprocess.run(restored, check=True)

    def median(self, name: str, scenario: str) -> float:
        """The median time of a contender."""
        return statistics.median(self.seconds[name, scenario])

    def table(self) -> None:
        """The medians in seconds, with those of processors (the server's not among them), the first size, what the
        others added, in MB, and the highest memory."""
        heads = "".join(f"{scenario:>20}" for scenario in SCENARIOS)
        print(f"{'':20}{heads}{'MB':>8}{'+ 0':>8}{'+ 2,000':>8}{'memory':>8}")
        for name in (contender.name for contender in self.contenders):
            first, unchanged, changed = (self.sizes[name, scenario] / 1e6 for scenario in SCENARIOS[:3])
            times = "".join(
                f"{self.median(name, scenario):11.2f} ({statistics.median(self.processor[name, scenario]):6.2f})"
                for scenario in SCENARIOS
            )
            sizes = f"{first:8.1f}{unchanged - first:8.1f}{changed - unchanged:8.1f}{self.memory[name] / 1e6:8.0f}"
            print(f"{name:20}{times}{sizes}")

    def holds(self) -> bool:
        """Print whether the limits hold."""
        held = []
        for name, scenario, limit, peer, theirs in LIMITS:
            if {name, peer} <= {contender.name for contender in self.contenders}:
                ratio = self.median(name, scenario) / self.median(peer, theirs)
                held.append(ratio <= limit)
                print(f"{'PASS' if held[-1] else 'FAIL'}  {name}, {scenario}: {ratio:.2f} <= {limit} x {peer}")
        added = {
            one.name: self.sizes[one.name, SCENARIOS[2]] - self.sizes[one.name, SCENARIOS[1]] for one in self.contenders
        }
        for name, size in added.items():
            if "btw-backup chunks" in added and name.startswith(("restic", "borg")):
                ratio = added["btw-backup chunks"] / size
                held.append(ratio <= ADDED_LIMIT)
                print(f"{'PASS' if held[-1] else 'FAIL'}  btw-backup chunks adds {ratio:.2f} <= {ADDED_LIMIT} x {name}")
        return all(held)


def run(top: Path, options: Namespace) -> bool:
    """Make the server and its database, run the rounds, print the table; whether the limits hold."""
    contenders = [one for one in CONTENDERS if not options.only or one.name.startswith(tuple(options.only))]
    with server(top / "server") as client:
        fill(client)
        bench = DatabaseBench(top, contenders, client)
        for _ in range(options.rounds):
            bench.round()
    bench.table()
    return bench.holds()
