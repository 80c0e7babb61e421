"""Running one command with a cold cache: how long it took, and how much memory all its processes had at once."""

import os
import resource
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Measured:
    """Seconds; those of processors, which others on the machine disturb less; the highest sum of the resident memory of
    all processes, and of the largest single one, both sampled.

    Not `ru_maxrss`: it begins with the memory of the process that forked, which was this one, and said 109 MB for tar.
    """

    seconds: float
    processor: float
    memory: int
    largest: int


def drop_caches() -> None:
    """Make the next command read from the disk."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def run(script: str, environment: dict[str, str], log: Path) -> Measured:
    """Run `script` with bash; its output goes to `log`. Raises CalledProcessError with the end of that."""
    drop_caches()
    used = processor_time()
    with open(log, "ab") as out:
        began = time.perf_counter()
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
        )
        peak = [0, 0]
        ended = threading.Event()
        sampler = threading.Thread(target=sample, args=(process.pid, peak, ended))
        sampler.start()
        process.wait()
        seconds = time.perf_counter() - began
        ended.set()
        sampler.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, script, stderr=log.read_text(errors="replace")[-2000:])
    return Measured(seconds, processor_time() - used, *peak)


def processor_time() -> float:
    """Seconds that our children, and theirs, have computed; of those only who were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def sample(top: int, peak: list[int], ended: threading.Event) -> None:
    """Note the highest memory of `top` and its descendants until `ended`, 30 times a second; that costs all the same."""
    while not ended.wait(0.03):
        sizes = memory_of(top)
        peak[:] = max(peak[0], sum(sizes)), max(peak[1], *sizes)


def memory_of(top: int) -> list[int]:
    """The resident memory of `top` and all its descendants; pages that they share are counted for each."""
    sizes, family = [], [f"{top}"]
    for pid in family:
        try:
            sizes.append(int(Path("/proc", pid, "statm").read_text().split()[1]) * PAGE)
            for thread in os.listdir(f"/proc/{pid}/task"):
                family += Path("/proc", pid, "task", thread, "children").read_text().split()
        except OSError:
            pass  # it has gone
    return sizes or [0]
