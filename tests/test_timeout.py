"""TIMEOUT for the programs that a backup of a tree or of a database runs."""

import os
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Installation, tree_differences
from tests.servers import Postgres, postgres, shop

__all__ = ["postgres", "shop"]

SLEEPING = f"sleep 1001.{os.getpid()}"
"""Nobody else's on this machine."""


def hanging(btw: Installation, program: str) -> dict[str, str]:
    """The environment in which `program` tells its version, else begins something in its group, and never ends."""
    path = btw.top / "hang" / program
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {program} --version\n{SLEEPING} &\nwait\n')
    path.chmod(0o700)
    return {f"BTW_{program.upper().replace('-', '_')}": str(path)}


def sleeping() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
        except OSError:
            continue
    return [line for line in found if line == SLEEPING]


def killed(btw: Installation, program: str, *args: object, **env: str) -> None:
    """The command runs `program`, which hangs and is killed with its group; nothing is left of it."""
    began = time.monotonic()
    ended = btw(*args, status=1, env={**env, **hanging(btw, program)})
    assert (ended.out, ended.err) == ("", f"btw_backup: {program} did not end within 1 s and was killed\n")
    assert time.monotonic() - began < PATIENCE / 4
    assert not sleeping()
    assert not [path for top in (btw.root, btw.config_dir) for path in top.rglob(".tmp-*")]


@pytest.mark.parametrize(
    ("keeper", "program"), [("tar", "tar"), ("rdiff", "tar"), ("rdiff", "rdiff-backup"), ("chunks", "")]
)
def test_F08_a_program_of_a_tree(btw: Installation, source: Path, keeper: str, program: str) -> None:
    btw.tree(source, keeper, extra='TIMEOUT = "1s"\n')
    btw("fs", source, "first")
    if program:
        killed(btw, program, "fs", source, "D")
        killed(btw, program, "fs", source, "D")
    else:  # none is run
        btw("fs", source, "D", env={**hanging(btw, "tar"), **hanging(btw, "rdiff-backup")})
    assert btw("fs", source, "D").err == ""
    btw("restore", "D", btw.top / "out")
    assert tree_differences(source, btw.top / "out") == ""


@pytest.mark.parametrize("keeper", ["rdiff", "chunks", "file"])
def test_F08_a_program_of_a_database(btw: Installation, shop: Postgres, keeper: str) -> None:
    (btw.config_dir / "shop.py").write_text(f'TYPE = "{keeper}"\nTIMEOUT = "1s"\n')
    killed(btw, "pg_dump", "db", "shop", "D", **shop.env)
    (btw.config_dir / "shop.py").write_text(f'TYPE = "{keeper}"\n')
    assert btw("db", "shop", "D", env=shop.env).err == ""


def test_F08_globals_and_the_timeout_of_all(btw: Installation, shop: Postgres) -> None:
    (btw.config_dir / "global.py").write_text('TIMEOUT = "1s"\nEXCLUDE = ["postgres"]\n')
    killed(btw, "pg_dumpall", "db", "-g", "D", **shop.env)
    (btw.top / "hang" / "pg_dumpall").unlink()
    env = {**shop.env, **hanging(btw, "pg_dump")}
    ended = btw("db", "--all", "A", status=1, env=env)
    assert ended.err == "btw_backup: shop: pg_dump did not end within 1 s and was killed\n"
    assert not sleeping()
