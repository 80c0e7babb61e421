"""The command line as a whole: help, statuses, and outputs that nobody reads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from btw_backup import cli
from btw_backup.commands import NAMES
from tests.conftest import Installation, tree_differences


def test_A01_help_names_every_command(btw: Installation) -> None:
    text = btw("--help").out
    for name in ("fs", "fs-init", "list", "db", "sync", "sync-state", *NAMES):
        assert f"    {name} " in text
    assert "exit status:" in text and "6  kept here" in text


def test_A01_version(btw: Installation) -> None:
    assert btw("--version").out == "btw_backup 3.0.0\n"


def test_X6_a_bare_call_prints_the_usage(btw: Installation) -> None:
    ended = btw(status=2)
    assert ended.err.startswith("usage: btw_backup ") and ended.out == ""


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(btw: Installation, name: str) -> None:
    text = btw(name, "--help").out
    assert "example:\n  btw-backup " in text, text


def test_A03_the_default_configuration_directory(btw: Installation, source: Path) -> None:
    btw.config_dir.rename(btw.top / ".btw-backup")
    btw.config_dir.symlink_to(btw.top / "nowhere")
    environment = {**os.environ, "HOME": str(btw.top), "PYTHONPATH": str(Path(__file__).parent.parent)}
    ended = subprocess.run(
        [sys.executable, "-m", "btw_backup", "list"], env=environment, capture_output=True, check=True, cwd=btw.top
    )
    assert ended.stdout == b"" and (btw.top / ".btw-backup" / "btw-backup.log").exists()


def test_L04_every_answer_as_json_and_as_lines(btw: Installation, source: Path) -> None:
    btw.tree(source)
    btw("fs", source, "D")
    [row] = json.loads(btw("list", "D", "--json").out)
    assert row["status"] == 0 and row["dst"] == "D"
    assert btw("-m", "list", "D").out.count("\t") == len(row) - 1
    assert btw("list", "D", "--fields", "uid").out == f"{row['uid']}\n"
    assert "the fields are" in btw("list", "D", "--fields", "nonsense", status=2).err
    for words in (["sync-state", "--list"], ["config", "show"], ["explain", source], ["doctor"], ["config", "check"]):
        json.loads(btw(*words, "--json", status=None).out)


def test_F09_nobody_reads(btw: Installation, source: Path) -> None:
    btw.tree(source)
    with open("/dev/full", "wb") as full:
        run = btw.start("fs", source, "D", stdout=full, stderr=full)
        assert run.wait() == 0
        run = btw.start("list", "D", stdout=full)
        _, err = run.communicate()
        assert run.returncode == 1 and b"Traceback" not in err
    reader, writer = os.pipe()
    os.close(reader)
    run = btw.start("list", "D", stdout=writer)
    _, err = run.communicate()
    assert b"Traceback" not in err and b"Exception" not in err
    command = f"exec {' '.join(map(str, run.args))} >&- 2>&-"  # type: ignore[attr-defined, union-attr]
    ended = subprocess.run(["sh", "-c", command], env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)})
    assert ended.returncode in (0, 1)


def test_a_name_that_looks_like_an_option_is_a_name(btw: Installation) -> None:
    top = btw.top / "-rf"
    top.mkdir()
    (top / "--help").write_text("x")
    btw.tree(top)
    btw("fs", top, "D")
    btw("restore", "D", btw.top / "out")
    assert (btw.top / "out" / "--help").read_text() == "x"


def test_hostile_names_do_not_reach_the_terminal(btw: Installation, source: Path) -> None:
    ended = btw("list", "no\x1b[31msuch", status=1)
    assert "\x1b" not in ended.err


def test_t7_hostile_names_do_not_reach_the_terminal_as_answers(btw: Installation, source: Path) -> None:
    btw.tree(source)
    btw("fs", source, "a\x1b[31m")
    (source / "\x1b[31mred").write_text("red")
    for words in (
        ("list",),
        ("list", "a\x1b[31m"),
        ("list", "--sizes"),
        ("explain", source / "\x1b[31mred"),
        ("runs",),
    ):
        assert "\x1b" not in btw(*words).out
    assert "a\\x1b[31m" in btw("list").out


@pytest.mark.parametrize("keeper", ["tar", "rdiff", "chunks"])
def test_f67_arguments_that_are_no_utf8(btw: Installation, tmp_path: Path, keeper: str) -> None:
    odd = os.fsdecode(b"s\xff")
    top = tmp_path / odd
    top.mkdir()
    (top / odd).write_text("content")
    (top / "other").write_text("other")
    btw.tree(top, keeper)
    for number in range(2):
        (top / "number").write_text(str(number))
        btw("fs", top, f"dst-{odd}")
    btw("scrub")
    btw("restore", f"dst-{odd}", tmp_path / f"back-{odd}")
    assert tree_differences(top, tmp_path / f"back-{odd}") == ""
    btw("restore", f"dst-{odd}", tmp_path / "one", "--path", odd)
    assert [path.name for path in (tmp_path / "one").iterdir()] == [odd]
    assert "s\\xff" in btw("find", odd).out


@pytest.mark.parametrize("keeper", ["tar", "rdiff", "chunks"])
def test_f09_nobody_reads_the_progress(btw: Installation, source: Path, keeper: str) -> None:
    btw.tree(source, keeper)
    with open("/dev/full", "w") as full:
        btw("--json-progress", "fs", source, "D", stderr=full)
    assert btw("list", "D").out.count("\n") == 1


def test_options_before_the_command_do_not_hide_it(btw: Installation) -> None:
    """Only the command that is called is loaded; what stands before it may look like another one."""
    (btw.top / "list").symlink_to(btw.config_dir)
    for options in (("--lock-wait", "0"), ("-q",), ("--fields", "fs"), ("--config-dir", "list")):
        assert btw(*options, "fs-init", status=2).err.startswith("usage: btw_backup fs-init ")
    everything = btw("nonsense", status=2).err
    assert "invalid choice: 'nonsense'" in everything and "'fs-init'" in everything and "'doctor'" in everything


def test_each_run_of_a_process_is_logged_once(btw: Installation) -> None:
    code = "import sys; from btw_backup import cli; [cli.main(['--config-dir', sys.argv[1], 'list']) for _ in range(3)]"
    subprocess.run([sys.executable, "-c", code, btw.config_dir], check=True, cwd=Path(__file__).parent.parent)
    log = (btw.config_dir / "btw-backup.log").read_text()
    assert (log.count("started: "), log.count("ended with 0")) == (3, 3)


def test_an_error_of_a_descriptor_is_a_line_too() -> None:
    """Its file name is a number."""
    assert cli._system_message(OSError(5, "Input/output error", 7)) == "Input/output error"
    assert cli._system_message(OSError(5, "Input/output error", b"/a")) == "/a: Input/output error"
