"""Fixtures of the fault harness: what compiles, what runs commands quickly, and worlds with a case in them."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import s3
from tests.faults.case import Case
from tests.faults.forks import Forks
from tests.faults.sweep import SEED, Result
from tests.faults.world import World
from tests.s3 import Bucket
from tests.servers import Postgres, postgres  # noqa: F401 - a fixture

MEMORY = Path("/dev/shm")  # noqa: S108 - worlds that need no disk of their own are quicker there
MakeWorld = Callable[..., World]
Note = Callable[[Result], None]


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """What runs commands in peace."""
    with Forks() as running:
        yield running


@pytest.fixture(scope="session")
def one_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A bucket of an S3 server, in which objects can be locked."""
    with s3.running("moto", tmp_path_factory.mktemp("moto")) as server:
        bucket = Bucket(server, "faults")
        bucket.client.create_bucket(Bucket=bucket.name, ObjectLockEnabledForBucket=True)
        yield bucket


@pytest.fixture
def world_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, forks: Forks
) -> Iterator[MakeWorld]:
    """Makes a world in which a case is ready to be run, and has been saved."""
    with ExitStack() as stack:

        def make(case: Case, filesystem: str = "", alike: bool = False) -> World:
            servers: dict[str, Postgres | Bucket] = {}
            if case.needs == "postgres":
                servers["postgres"] = request.getfixturevalue("postgres")
            if case.needs == "s3":
                servers["bucket"] = request.getfixturevalue("one_bucket")
            in_memory = MEMORY if os.access(MEMORY, os.W_OK) and not filesystem else tmp_path_factory.getbasetemp()
            place = Path(tempfile.mkdtemp(prefix="faults-", dir=in_memory))
            world = World(place / "w", forks, filesystem, alike=alike, elsewhere=case.set_back, **servers)
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            stack.callback(world.close)
            case.build(world)
            world.save()
            return world

        yield make


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Note:
    """Takes down what a test found, to be shown at the end of all; and fails it if anything did not hold."""

    def take_down(result: Result) -> None:
        found = {"act": result.act, "steps": result.steps, "tried": result.tried, "broken": len(result.broken)}
        record_property("faults", {**found, "seed": SEED})
        assert not result.broken, f"{len(result.broken)} of {result.tried}:\n" + "\n".join(result.broken)

    return take_down
