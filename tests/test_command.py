"""The commands command-init and command: what programs print and what comes on standard input, kept and given back."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Installation, peak_memory, random_bytes

TYPES = ("chunks", "file")


def script(btw: Installation, text: str, name: str = "program") -> Path:
    """A program that does what `text` says."""
    path = btw.top / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o700)
    return path


def command(btw: Installation, text: str, type_: str = "chunks", extra: str = "") -> None:
    """Make the command ``job``."""
    file = btw.config_dir / "command" / "job.py"
    file.unlink(missing_ok=True)
    btw("command-init", "--type", type_, "job", "--", script(btw, text))
    with open(file, "a") as opened:
        opened.write(extra)


def backups(btw: Installation, dst: str = "d") -> list[Path]:
    return sorted(path for path in (btw.root / dst).glob("2*") if path.is_file())


def nothing_is_left(btw: Installation, dst: str = "d") -> bool:
    return not backups(btw, dst) and not list(btw.root.rglob(".tmp-*")) and not list(btw.root.rglob("*.json.zst"))


def fed(btw: Installation, content: bytes, *args: object, status: int = 0) -> str:
    """Run the command with `content` on its standard input; its standard error."""
    process = btw.start(*args, stdin=subprocess.PIPE)
    _, err = process.communicate(content, timeout=PATIENCE)
    assert process.returncode == status, err
    return err.decode()


@pytest.mark.parametrize("type_", TYPES)
def test_b08_output_is_kept_and_comes_back(btw: Installation, type_: str) -> None:
    command(btw, "echo some words >&2; seq 1 300000", type_)
    ended = btw("command", "job", "d")
    assert (ended.out, ended.err) == ("", "")
    expected = "".join(f"{number}\n" for number in range(1, 300_001))
    assert btw("restore", "d", "-").out == expected
    assert btw("restore", "d", "file").out == ""
    assert (btw.top / "file").read_text() == expected
    (row,) = json.loads(btw("list", "d", "--json").out)
    assert (row["kind"], row["source"], row["keeper"], row["size"]) == ("command", "job", type_, len(expected))
    assert btw("list", "d").out == backups(btw)[0].name + "\n"
    btw("command", "job", "d")
    assert len(backups(btw)) == 1
    assert "no change in the data to be backed up" in (btw.root / "d" / "log.txt").read_text()
    command(btw, "echo another", type_)
    btw("command", "job", "d")
    assert len(backups(btw)) == 2
    assert btw("restore", "d", "-").out == "another\n"
    assert btw("restore", "d@first", "-").out == expected


def test_a_file_needs_zstd_alone_and_collides_with_nothing(btw: Installation) -> None:
    for name in ("tar", "manifest", "x.tar"):
        btw("command-init", "--type", "file", name, "--", "echo", name)
        btw("command", name, f"d/{name}")
        (path,) = backups(btw, f"d/{name}")
        assert path.name.endswith(f".{name}.out.zst")
        assert subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout == f"{name}\n".encode()
        (btw.root / f"d/{name}/.records" / f"{path.name[:19]}.json").unlink()
        (row,) = json.loads(btw("list", f"d/{name}", "--json").out)
        assert (row["keeper"], row["kind"]) == ("file", "command")
        assert btw("restore", f"d/{name}", "-").out == f"{name}\n"
        btw("command", name, f"d/{name}")  # without a record the streams are compared
        assert len(backups(btw, f"d/{name}")) == 1


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seq 100000; echo first >&2; echo last >&2; exit 3", "program exited with status 3: first; last"),
        ("seq 100000; kill -9 $$", "program was killed by SIGKILL"),
        ("kill -TERM $$", "program was killed by SIGTERM"),
        ("true", "program printed nothing"),
        ("exit 1", "program exited with status 1"),
    ],
)
def test_a_program_that_fails_is_no_backup(btw: Installation, type_: str, text: str, said: str) -> None:
    command(btw, text, type_)
    ended = btw("command", "job", "d", status=1)
    assert said in ended.err.partition("\n")[0], ended.err
    assert nothing_is_left(btw)


def test_a_failure_after_megabytes_leaves_no_chunk(btw: Installation) -> None:
    command(btw, "head -c 30000000 /dev/urandom; exit 7")
    assert "status 7" in btw("command", "job", "d", status=1).err
    assert nothing_is_left(btw) and not list((btw.root / ".store").rglob("*.zst"))


@pytest.mark.parametrize("type_", TYPES)
def test_nothing_is_something_if_it_is_said(btw: Installation, type_: str) -> None:
    command(btw, "true", type_)
    btw("command", "--allow-empty", "job", "d")
    assert btw("restore", "d", "-").out == ""
    command(btw, "true", type_, "ALLOW_EMPTY = True\n")
    btw("command", "job", "e")
    assert len(backups(btw, "e")) == 1


def test_a_program_that_hangs(btw: Installation) -> None:
    sleeping = f"sleep 1000.{os.getpid()}"  # nobody else's on this machine
    command(btw, f"echo begun; {sleeping} & wait", extra='TIMEOUT = "1s"\n')
    began = time.monotonic()
    assert "did not end within 1 s and was killed" in btw("command", "job", "d", status=1).err
    assert time.monotonic() - began < PATIENCE
    assert nothing_is_left(btw)
    assert not _running(sleeping)


def _running(command_line: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
        except OSError:
            continue
    return [line for line in found if line == command_line]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_program_dies_with_us(btw: Installation, number: signal.Signals) -> None:
    pid = btw.top / "pid"
    command(btw, f"echo $$ >{pid}; echo begun; exec sleep 1001")
    process = btw.start("command", "job", "d")
    while not (pid.exists() and pid.read_text()):
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == (143 if number == signal.SIGTERM else -9)
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid.read_text().strip()}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not backups(btw)
    command(btw, "echo fine")
    btw("command", "job", "d")
    assert btw("restore", "d", "-").out == "fine\n" and not list(btw.root.rglob(".tmp-*"))


def test_it_sees_nothing_of_ours(btw: Installation) -> None:
    command(btw, "env; cat; ps -o pgid= -p $$; echo pid $$; ls -l /proc/$$/fd | wc -l")
    secrets = {"PGPASSWORD": "s3cret-1", "AWS_SECRET_ACCESS_KEY": "s3cret-2", "RESTIC_PASSWORD": "s3cret-3"}
    btw("command", "job", "d", env=secrets)
    said = btw("restore", "d", "-").out
    assert "s3cret" not in said and "LC_ALL=C" in said
    lines = said.splitlines()
    assert lines[-3].strip() == lines[-2].removeprefix("pid "), "a process group of its own"


def test_arguments_are_what_was_given(btw: Installation) -> None:
    words = ["printf", "%s\\n", "a b", "$(id)", "'\"", "--type", "-h", "*", "ünï ☃", ""]
    btw("command-init", "job", "--", *words)
    btw("command", "job", "d")
    assert btw("restore", "d", "-").out.split("\n")[:-1] == words[2:]
    assert "no problem" in btw("config", "check").out


def test_b09_standard_input(btw: Installation) -> None:
    content = random_bytes(5_000_000)
    assert fed(btw, content, "command", "x", "d", "--stdin") == ""
    btw("restore", "d", "file")
    assert (btw.top / "file").read_bytes() == content
    fed(btw, content, "command", "x", "d", "--stdin")
    assert len(backups(btw)) == 1
    assert "standard input is empty" in fed(btw, b"", "command", "x", "e", "--stdin", status=1)
    assert nothing_is_left(btw, "e")
    fed(btw, b"", "command", "x", "e", "--stdin", "--allow-empty")
    assert btw("restore", "e", "-").out == ""


def test_standard_input_of_a_command_with_a_file(btw: Installation) -> None:
    command(btw, "echo not this", "file")
    fed(btw, b"but this", "command", "--stdin", "job", "d")
    assert btw("restore", "d", "-").out == "but this" and backups(btw)[0].name.endswith(".job.out.zst")
    (btw.config_dir / "command" / "only.py").write_text('TYPE = "file"\n')
    fed(btw, b"type alone", "command", "--stdin", "only", "o")
    assert backups(btw, "o")[0].name.endswith(".only.out.zst")
    assert "no problem" in btw("config", "check").out
    assert "sets neither COMMAND nor URL" in btw("command", "only", "o", status=1).err


def test_standard_input_that_is_none(btw: Installation) -> None:
    outer, inner = pty.openpty()
    try:
        ended = btw("command", "x", "d", "--stdin", status=2, stdin=inner)
    finally:
        os.close(outer)
        os.close(inner)
    assert "standard input is a terminal" in ended.err and "hint: " in ended.err
    process = btw.start("command", "x", "d", "--stdin")
    process.communicate()
    line = " ".join(f"'{word}'" for word in process.args)  # type: ignore[union-attr]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    closed = subprocess.run(["sh", "-c", f"{line} <&-"], check=False, capture_output=True, env=environment)
    assert closed.returncode == 2 and b"standard input is closed" in closed.stderr


def test_standard_input_that_does_not_end(btw: Installation) -> None:
    (btw.config_dir / "command").mkdir()
    (btw.config_dir / "command" / "x.py").write_text('TIMEOUT = "1s"\n')
    process = btw.start("command", "x", "d", "--stdin", stdin=subprocess.PIPE)
    assert process.stdin and process.stderr
    process.stdin.write(b"some")
    process.stdin.flush()
    assert process.wait(timeout=PATIENCE) == 1
    assert b"did not end within 1 s" in process.stderr.read()
    process.stdin.close()
    assert nothing_is_left(btw)


@pytest.mark.parametrize("type_", TYPES)
def test_c06_what_cannot_be_compressed_is_not_inflated_and_text_is_small(btw: Installation, type_: str) -> None:
    command(btw, "head -c 20000000 /dev/urandom", type_)
    btw("command", "job", "random")
    random = _stored(btw, "random")
    assert random < 20_000_000 * 1.001
    text = "".join(f"{number} {'even' if number % 2 == 0 else 'odd'} {number * 7919}\n" for number in range(400_000))
    (btw.top / "text").write_text(text)
    command(btw, f"cat {btw.top / 'text'}", type_)
    btw("command", "job", "text")
    assert _stored(btw, "text") < 0.4 * len(text)


def _stored(btw: Installation, dst: str) -> int:
    (row,) = json.loads(btw("list", dst, "--json").out)
    return int(row["stored"])


@pytest.mark.parametrize("type_", TYPES)
def test_memory_does_not_grow_with_the_stream(btw: Installation, type_: str) -> None:
    """400 MB, half of them random, there and back."""
    generator = btw.top / "generate.py"
    generator.write_text(
        "import os, sys\nfor n in range(200): sys.stdout.buffer.write(os.urandom(1 << 20) + b'%d' % n * (1 << 18))\n"
    )
    btw("command-init", "--type", type_, "job", "--", sys.executable, generator)
    process = btw.start("-q", "command", "job", "d", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert peak_memory(process) < 250_000
    process = btw.start("-q", "restore", "d", "-", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert peak_memory(process) < 250_000


@pytest.mark.parametrize("type_", TYPES)
def test_a_damaged_backup_never_gets_the_name(btw: Installation, type_: str) -> None:
    command(btw, "head -c 6000000 /dev/urandom", type_)
    btw("command", "job", "d")
    stored = backups(btw)[0] if type_ == "file" else max(btw.root.rglob("chunks/*/*.zst"))
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    ended = btw("restore", "d", "out", status=5)
    assert "is damaged" in ended.err and "out.damaged" in ended.err
    assert not (btw.top / "out").exists()


def test_what_makes_no_sense(btw: Installation) -> None:
    for args, said in (
        (("job",), "give either"),
        (("job", "--type", "file", "--", "ls"), "--type stands behind the name"),
        (("--token-file", "/x", "job", "--", "ls"), "--token-file belongs to --url"),
        (("--url", "https://x/", "job", "--", "ls"), "give either"),
    ):
        assert said in btw("command-init", *args, status=2).err
    for args, said in (
        (("a/b", "--", "ls"), "a name cannot hold a slash"),
        ((".hidden", "--", "ls"), "a name cannot hold a slash"),
        (("n" * 201, "--", "ls"), "more than 200 bytes"),
        (("--url", "ftp://x/", "job"), "URL must be a URL"),
        (("--url", "https://user:pass@x/", "job"), "URL must be a URL"),
    ):
        assert said in btw("command-init", *args, status=1).err
    assert list((btw.config_dir / "command").glob("*.py")) == []
    assert "there is no command job" in btw("command", "job", "d", status=1).err
    btw("command-init", "job", "--", "no-such-program-anywhere")
    ended = btw("command", "job", "d", status=1)
    assert "the program no-such-program-anywhere is not installed, and the command job needs it" in ended.err
    assert "there is already a command job" in btw("command-init", "job", "--", "ls", status=1).err
    (btw.config_dir / "command" / "job.py").write_text('TYPE = "tar"\n')
    assert "TYPE must be one of chunks, file, not 'tar'" in btw("command", "job", "d", status=1).err
    (btw.config_dir / "command" / "job.py").write_text('COMMAND = ["ls"]\nURL = "https://x/"\n')
    assert "sets COMMAND and URL both" in btw("config", "check", status=1).out
    (btw.config_dir / "command" / "job.py").write_text('COMMAND = ["ls"]\n')
    (btw.config_dir / "command" / "job.py").chmod(0o666)
    assert "can be changed by others" in btw("command", "job", "d", status=1).err


def test_a_stream_is_no_tree(btw: Installation, source: Path) -> None:
    command(btw, "echo x")
    btw("command", "job", "d")
    assert "--path and --into are for restoring a tree" in btw("restore", "d", "out", "--path", "x", status=2).err
    assert "is not a dump of a database" in btw("restore", "d", "--database", "x", status=1).err


@pytest.mark.parametrize("type_", TYPES)
def test_a_full_disk(btw: Installation, tmpfs: Path, type_: str) -> None:
    btw.configure(f"ROOT_PATH = {str(tmpfs)!r}\nOFFSITE = {{}}\n")
    command(btw, "head -c 200000000 /dev/urandom", type_)
    ended = btw("command", "job", "d", status=1)
    assert "No space left on device" in ended.err
    assert list(tmpfs.rglob("*.zst")) == [] and list(tmpfs.rglob(".tmp-*")) == []
    command(btw, "echo small", type_)
    btw("command", "job", "d")
    assert btw("restore", "d", "-").out == "small\n"


def test_what_is_in_force_and_what_is_missing(btw: Installation) -> None:
    btw("command-init", "fine", "--", "ls")
    btw("command-init", "gone", "--", "no-such-program-anywhere")
    rows = json.loads(btw("config", "show", "--json").out)
    (row,) = [row for row in rows if (row["job"], row["setting"]) == ("command fine", "COMMAND")]
    assert row["value"] == ["ls"] and row["from"].endswith("fine.py line 3")
    findings = {row["what"]: row for row in json.loads(btw("doctor", "--json", status=None).out)}
    assert findings["command fine"]["level"] == "ok" and findings["command gone"]["level"] == "error"
