"""The first minutes: init, what it prints, fs-init."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from btw_backup.configuration import config
from tests.conftest import REPOSITORY, Installation, tree_differences


@pytest.fixture
def new(tmp_path: Path) -> Installation:
    """A machine that has no configuration yet."""
    return Installation(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_writes_what_works_as_it_stands(new: Installation) -> None:
    ended = new("init", "--root", new.root)
    written = new.config_dir / "config.py"
    assert ended.out.startswith(f"btw_backup: created {written}\nbtw_backup: created {new.root}\n")
    assert ended.err == ""
    assert [mode(path) for path in (new.config_dir, written, new.root)] == [0o700, 0o600, 0o700]
    found = config.load(written, config.GENERAL)
    assert (found["ROOT_PATH"], dict(found["OFFSITE"])) == (new.root, {})
    assert new("config", "check").out == "btw_backup: 1 file, no problem\n"
    assert new("doctor").err == ""


def test_init_is_private_whatever_the_umask(new: Installation) -> None:
    before = os.umask(0)
    try:
        new("init", "--root", new.root)
    finally:
        os.umask(before)
    loose = [path for top in (new.config_dir, new.root) for path in (top, *top.rglob("*")) if mode(path) & 0o077]
    assert loose == []


def test_what_init_prints_leads_to_a_first_backup_and_restore(new: Installation) -> None:
    """Every indented line up to the crontab's is run by a shell as it stands."""
    printed = new("init", "--root", new.root).out
    commands = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    assert [command.split()[-1] for command in commands[:3]] == ["etc", "etc", "etc"]
    environment = {**os.environ, "HOME": str(new.top), "PYTHONPATH": str(REPOSITORY)}
    for command in commands[:4]:
        subprocess.run(["sh", "-c", command], check=True, env=environment, cwd=new.top, stdin=subprocess.DEVNULL)
    assert tree_differences(Path("/etc"), new.top / "restored-etc") == ""
    minute, hour, *days, rest = commands[4].split(None, 5)
    assert (minute, hour, days) == ("30", "1", ["*", "*", "*"])
    subprocess.run(["sh", "-c", rest], check=True, env={**environment, "PATH": "/usr/bin:/bin"}, cwd="/")
    assert len(json.loads(new("list", "--json").out)) == 1


def test_init_takes_old_backups_as_they_are(new: Installation) -> None:
    (new.root / "www").mkdir(parents=True)
    (new.root / "www" / "2016-01-01T12:00:00.tbz").write_bytes(b"old")
    new("init", "--root", new.root)
    assert (new.root / "www" / "2016-01-01T12:00:00.tbz").read_bytes() == b"old"


def test_init_overwrites_nothing(new: Installation) -> None:
    new("init", "--root", new.root)
    before = (new.config_dir / "config.py").read_bytes()
    ended = new("init", "--root", new.top / "other", status=1)
    assert ended.out == ""
    assert ended.err.startswith(f"btw_backup: there is already a configuration: {new.config_dir}/config.py\n")
    assert (new.config_dir / "config.py").read_bytes() == before
    assert not (new.top / "other").exists()


def test_init_does_not_write_through_a_dangling_link(new: Installation) -> None:
    new.config_dir.mkdir()
    (new.config_dir / "config.py").symlink_to(new.top / "elsewhere")
    new("init", "--root", new.root, status=1)
    assert not (new.top / "elsewhere").exists()


def test_init_refuses_a_place_where_others_can_write(new: Installation) -> None:
    new.config_dir.mkdir(mode=0o700)
    new.config_dir.chmod(0o777)
    ended = new("init", "--root", new.root, status=1)
    assert f"{new.config_dir} can be changed by others" in ended.err
    assert list(new.config_dir.glob("*.py")) == []


def test_init_for_programs_and_quietly(new: Installation) -> None:
    found = json.loads(new("init", "--root", new.root, "--json").out)
    assert found == {"config": str(new.config_dir / "config.py"), "root": str(new.root)}
    (new.config_dir / "config.py").unlink()
    assert new("-q", "init", "--root", new.root).out == ""


def test_init_with_odd_paths_prints_lines_for_a_shell(tmp_path: Path) -> None:
    new = Installation(tmp_path / 'it\'s a "place" $HOME')
    new.top.mkdir()
    printed = new("init", "--root", new.root).out
    command = next(line for line in printed.splitlines() if " fs-init " in line)
    environment = {**os.environ, "HOME": str(new.top), "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(["sh", "-c", command], check=True, env=environment)
    assert config.load(new.config_dir / "config.py", config.GENERAL)["ROOT_PATH"] == new.root


# fs-init


@pytest.mark.parametrize(
    ("type_", "lines"),
    [("tar", ['TYPE="tar"']), ("rdiff", ['TYPE="rdiff"', "MAX_INCREMENTAL_COUNT=10", 'MAX_INCREMENTAL_SPAN="24h"'])],
)
def test_fs_init_makes_what_the_old_one_made(btw: Installation, type_: str, lines: list[str]) -> None:
    """A05."""
    ended = btw("fs-init", f"--type={type_}", "/a/b", "test")
    made = btw.config_dir / "test.tZj__w"
    assert (ended.out, ended.err) == (f"btw_backup: created {made}\n", "")
    assert os.readlink(made / "src") == "/a/b"
    written = (made / "config.py").read_text().splitlines()
    assert written[: len(lines)] == lines
    assert all(line.startswith("# ") or not line for line in written[len(lines) :])
    assert btw("config", "check").out == "btw_backup: 2 files, no problem\n"


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [((), "--type, src, name"), ((".",), "--type, name"), (("/", "test"), "--type")],
)
def test_fs_init_says_what_is_missing(btw: Installation, arguments: tuple[str, ...], missing: str) -> None:
    ended = btw("fs-init", *arguments, status=2)
    assert ended.err == (
        "usage: btw_backup fs-init [-h] --type {rdiff,tar,chunks} src name\n"
        f"btw_backup fs-init: error: the following arguments are required: {missing}\n"
    )


def test_fs_init_refuses(btw: Installation) -> None:
    assert btw("fs-init", "--type=rdiff", ".", "test", status=1).err == "btw_backup: the source path must be absolute\n"
    btw("fs-init", "--type=rdiff", "/a/b", "test")
    for source in ("/a/b", "/a/b/"):
        ended = btw("fs-init", "--type=tar", source, "test2", status=1)
        assert (ended.out, ended.err) == ("", "btw_backup: there is already a directory for this path\n")


def test_fs_init_needs_root_path_and_nothing_else(btw: Installation) -> None:
    (btw.config_dir / "config.py").write_text("")
    ended = btw("fs-init", "--type=rdiff", "/srv", "test", status=1)
    assert ended.err == "btw_backup: you must specify ROOT_PATH in the general configuration\n"
    btw.configure("")
    btw("fs-init", "--type=rdiff", "/srv", "test")


def test_fs_init_quietly_and_for_programs(btw: Installation) -> None:
    assert btw("-q", "fs-init", "--type=tar", "/a", "a").out == ""
    found = json.loads(btw("fs-init", "--type=tar", "/a/b", "b", "--json").out)
    assert found == {"created": str(btw.config_dir / "b.tZj__w")}


def test_a_source_that_is_no_utf8_is_kept_as_it_is(btw: Installation) -> None:
    btw("fs-init", "--type=tar", b"/caf\xe9", "cafe")
    (made,) = btw.config_dir.glob("cafe.*")
    assert os.readlink(os.fsencode(made / "src")) == b"/caf\xe9"
    assert btw("config", "check").out == "btw_backup: 2 files, no problem\n"
    assert json.loads(btw("config", "show", "--json").out)[-1]["job"] == "cafe"


def test_without_a_command_the_usage_is_printed(btw: Installation) -> None:
    ended = btw(status=2)
    assert ended.out == ""
    assert ended.err.startswith("usage: btw_backup [-h] [-q] [--config-dir CONFIG_DIR]")


@pytest.mark.parametrize("command", ["init", "fs-init", "config", "doctor"])
def test_the_examples_of_the_help_work(new: Installation, command: str) -> None:
    """Each is run as it stands, in a home directory of its own; --root is led into it."""
    shown = new(command, "--help").out
    lines = [
        line.split()[1:] for line in shown.partition("example:")[2].splitlines() if line.startswith("  btw-backup")
    ]
    assert lines
    for number, line in enumerate(lines):
        here = Installation(new.top / str(number))
        here.top.mkdir()
        if command != "init":
            here("init", "--root", here.root)
        words = [word.replace("/mnt/backups", str(here.root)) for word in line]
        if words == ["init"]:
            words += ["--root", str(here.root)]
        assert here(*words).err == ""
