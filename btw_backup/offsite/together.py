"""Several things at once, each in a thread of its own."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def begun(job: Callable[[], Result]) -> Callable[[], Result]:
    """Begin `job` in a thread. What is given back waits for its end: what it gave, or raised."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(job())
        except BaseException as error:  # noqa: BLE001 - as below
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def ended() -> Result:
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    return ended


def together(jobs: Sequence[Callable[[], Result]], most: int) -> list[Result]:
    """What `jobs` give, in their order; at most `most` at a time, and all of them, whatever one raises. Raises the
    first error.

    The threads are not waited for if we are interrupted: what they started dies with them.
    """
    if len(jobs) <= 1:
        return [job() for job in jobs]
    results: dict[int, Result] = {}
    errors: dict[int, BaseException] = {}
    waiting = list(enumerate(jobs))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                number, job = waiting.pop(0)
            try:
                results[number] = job()
            except BaseException as error:  # noqa: BLE001 - raised where the threads are waited for
                errors[number] = error

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(most, len(jobs)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(jobs))]
