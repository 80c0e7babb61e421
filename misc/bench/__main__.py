"""Measures ourselves and our peers side by side, and prints medians, ratios, and whether the limits hold.

Each command starts with a cold cache. Contenders take turns (A B A B), so that whatever else the machine does hits
all of them. What they give back is compared with the source, which is not timed.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import databases
import measure
import trees
from contenders import CONTENDERS, LIMITS, MEMORY_LIMIT, SCENARIOS, Contender
from measure import Measured

RECENT = 360
"""Seconds for which ext4 does not give an inode away again that was freed, and walks over all such whenever it looks for
one (``recently_deleted`` in fs/ext4/ialloc.c): after 90,000 files were removed that is a third of a restore's time."""

Results = dict[tuple[str, str], list[Measured]]


class Bench:
    """One run: a tree, a store for each contender, and what was measured."""

    def __init__(self, top: Path, contenders: list[Contender]) -> None:
        self.top = top
        self.tree = top / "tree"
        self.contenders = contenders
        self.results: Results = defaultdict(list)
        self.sizes: dict[str, list[int]] = defaultdict(list)
        self.grown: dict[str, list[int]] = defaultdict(list)
        self.back: dict[str, int] = {}
        self.removed = time.monotonic() - RECENT

    def environment(self, contender: Contender) -> dict[str, str]:
        """What the commands of `contender` get to see."""
        store = self.top / "stores" / str(CONTENDERS.index(contender))
        places = {"TREE": str(self.tree), "STORE": str(store), "TARGET": str(self.target(contender))}
        return {**os.environ, **places, "HOME": str(self.top), "LC_ALL": "C.UTF-8"}

    def target(self, contender: Contender) -> Path:
        """Where `contender` restores to. Each has its own, and they are removed after the last one: else who restores
        next would be measured with what that costs."""
        return self.top / "targets" / str(CONTENDERS.index(contender))

    def prepare(self, contender: Contender) -> None:
        """Give `contender` an empty store."""
        environment = self.environment(contender)
        shutil.rmtree(environment["STORE"], ignore_errors=True)
        os.makedirs(environment["STORE"])
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", contender.prepare],
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
        )

    def time(self, contender: Contender, scenario: str, script: str) -> None:
        """Run one command of `contender` and note what it took."""
        try:
            measured = measure.run(script, self.environment(contender), self.top / "log")
        except subprocess.CalledProcessError as error:
            sys.exit(f"{contender.name}, {scenario}, ended with {error.returncode}:\n{error.stderr}")
        self.results[contender.name, scenario].append(measured)
        say(f"{scenario:12} {contender.name:25} {measured.seconds:8.2f} s {measured.memory / 1e6:7.0f} MB")

    def round(self, number: int, scenarios: tuple[str, ...]) -> None:
        """All contenders, one scenario after the other."""
        for contender in self.contenders:
            self.prepare(contender)
            self.time(contender, "first", contender.backup)
        self.measure_stores(self.sizes)
        for contender in self.contenders:
            self.time(contender, "unchanged", contender.backup)
        if "1 % changed" in scenarios:
            trees.change(self.tree, number)
            for contender in self.contenders:
                self.time(contender, "1 % changed", contender.backup)
            self.measure_stores(self.grown)
        if "restore" in scenarios:
            (self.top / "targets").mkdir()
            time.sleep(max(0, self.removed + RECENT - time.monotonic()))
            for contender in self.contenders:
                self.time(contender, "restore", contender.restore)
                self.back[contender.name] = self.differences(contender)
            shutil.rmtree(self.top / "targets")
            self.removed = time.monotonic()

    def measure_stores(self, sizes: dict[str, list[int]]) -> None:
        """Note in `sizes` what the stores hold now, on the disk."""
        for contender in self.contenders:
            du = ["du", "-s", "-B1", "--exclude=stage", self.environment(contender)["STORE"]]
            sizes[contender.name].append(
                int(subprocess.run(du, check=True, capture_output=True).stdout.split()[0])
            )

    def differences(self, contender: Contender) -> int:
        """In how many entries the restored tree is not the source."""
        command = ["rsync", "-aHAXn", "--numeric-ids", "--delete", "-i", f"{self.tree}/", f"{self.target(contender)}/"]
        return len(subprocess.run(command, check=True, capture_output=True).stdout.splitlines())

    def median(self, name: str, scenario: str) -> float:
        """The median time of a contender."""
        return statistics.median(one.seconds for one in self.results[name, scenario])

    def peak(self, name: str) -> int:
        """The most memory that a contender ever had."""
        return max(one.memory for (who, _), measured in self.results.items() for one in measured if who == name)

    def largest(self, name: str) -> int:
        """The most memory that a single process of a contender ever had."""
        return max(one.largest for (who, _), measured in self.results.items() for one in measured if who == name)


def say(line: str) -> None:
    """What goes on meanwhile."""
    print(line, file=sys.stderr, flush=True)


def table(bench: Bench, scenarios: tuple[str, ...]) -> None:
    """The medians."""
    print(
        "\nmedian seconds, cold cache; MB stored after the first backup and after the third; peak MB of all processes, "
        "and of the largest\n"
    )
    print(
        f"{'':25}"
        + "".join(f"{scenario:>13}" for scenario in scenarios)
        + f"{'stored':>9}{'third':>7}{'peak':>7}{'largest':>9}  restored     synced at the end"
    )
    for contender in bench.contenders:
        name = contender.name
        times = "".join(f"{bench.median(name, scenario):13.2f}" for scenario in scenarios)
        third = f"{statistics.median(bench.grown[name]) / 1e6:7.0f}" if bench.grown[name] else " " * 7
        sizes = f"{statistics.median(bench.sizes[name]) / 1e6:9.0f}{third}{bench.peak(name) / 1e6:7.0f}{bench.largest(name) / 1e6:9.0f}"
        back = {0: "equal"}.get(bench.back.get(name, -1), f"{bench.back.get(name, 0)} differ")
        print(f"{name:25}{times}{sizes}  {back:12} {contender.syncs}")


def verdicts(bench: Bench) -> bool:
    """Each limit beside what was measured, as far as both sides were; whether all hold."""
    print()
    held = []
    for name, scenario, limit, other, other_scenario in LIMITS:
        if bench.results.get((name, scenario)) and bench.results.get((other, other_scenario)):
            ratio = bench.median(name, scenario) / bench.median(other, other_scenario)
            held.append(ratio <= limit)
            print(f"{verdict(held[-1])}  {name}, {scenario}: {ratio:.2f} <= {limit:.2f} x {other}, {other_scenario}")
    for contender in bench.contenders:
        if contender.name.startswith(("restic", "borg")) and bench.grown.get("btw-backup chunks"):
            ours, theirs = (statistics.median(bench.grown[name]) for name in ("btw-backup chunks", contender.name))
            held.append(ours <= theirs)
            print(f"{verdict(held[-1])}  btw-backup chunks, size after three: {ours / theirs:.2f} <= 1.00 x {contender.name}")
    for contender in bench.contenders:
        if contender.name.startswith("btw-backup"):
            limit = MEMORY_LIMIT[contender.name]
            held.append(bench.peak(contender.name) <= limit * 1e6)
            print(
                f"{verdict(held[-1])}  {contender.name}, peak memory: {bench.peak(contender.name) / 1e6:.0f} <= {limit} MB"
            )
    return all(held)


def verdict(holds: bool) -> str:
    """PASS or FAIL."""
    return "PASS" if holds else "FAIL"


def arguments() -> argparse.Namespace:
    """The options."""
    names = ", ".join(contender.name for contender in CONTENDERS)
    parser = argparse.ArgumentParser(prog="misc/bench/run", description=__doc__, epilog="Contenders: " + names)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each is measured (3)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="measure contenders whose name begins so; may be repeated",
    )
    parser.add_argument("--files", type=int, default=30_000, metavar="N", help="files of the tree (30000)")
    parser.add_argument("--megabytes", type=int, default=1500, metavar="M", help="size of the tree (1500)")
    parser.add_argument(
        "--million", action="store_true", help="instead: 1,000,000 small files, first and unchanged, one round"
    )
    parser.add_argument("--database", action="store_true", help="instead: a database of 450 MB, and who keeps its dump")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work in DIR, use the tree that is there, and leave all behind"
    )
    return parser.parse_args()


def main() -> int:
    """Run the bench; 1 if a limit does not hold."""
    options = arguments()
    contenders = [one for one in CONTENDERS if not options.only or one.name.startswith(tuple(options.only))]
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        return bench_in(options.keep.resolve(), contenders, options)
    with tempfile.TemporaryDirectory(prefix="btw-bench-", dir="/var/tmp") as top:
        if options.database:
            os.chmod(top, 0o755)
            return 0 if databases.run(Path(top), options) else 1
        return bench_in(Path(top), contenders, options)


def bench_in(top: Path, contenders: list[Contender], options: argparse.Namespace) -> int:
    """Make the tree if there is none, run the rounds, and print the tables."""
    bench = Bench(top, contenders)
    scenarios = SCENARIOS[:2] if options.million else SCENARIOS
    if not bench.tree.exists():
        say("making the tree")
        if options.million:
            trees.make_many(bench.tree, 1_000_000)
        else:
            trees.make(bench.tree, options.files, options.megabytes * 1_000_000)
        time.sleep(2)  # or the youngest entries would not be believed to be unchanged
    for number in range(1 if options.million else options.rounds):
        bench.round(number, scenarios)
    table(bench, scenarios)
    return 0 if verdicts(bench) else 1


if __name__ == "__main__":
    sys.exit(main())
