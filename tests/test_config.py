"""Configuration files: what they may hold, what is said of the others, and who may write them."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from btw_backup.configuration import config, example
from btw_backup.configuration.config import DATABASE, GENERAL, TREE, Config
from btw_backup.configuration.settings import SETTINGS
from btw_backup.errors import ImproperlyConfigured
from tests.conftest import Installation

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.py"


def load(path: Path, content: str | bytes, where: str = GENERAL) -> Config:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return config.load(path, where)


def complaint(path: Path, content: str | bytes, where: str = GENERAL) -> tuple[str, str]:
    with pytest.raises(ImproperlyConfigured) as caught:
        load(path, content, where)
    return caught.value.message.removeprefix(f"{path} "), caught.value.hint


def test_it_is_python(path: Path) -> None:
    found = load(
        path,
        "import os.path\nfrom datetime import timedelta\n_hours = 2\n"
        "def below(name):\n    return os.path.join(top(), name)\n"
        "def top():\n    return '/srv'\n"
        "ROOT_PATH = below('backups')\nLOCK_WAIT = f'{_hours}h'\n",
    )
    assert found["ROOT_PATH"] == Path("/srv/backups")
    assert found["LOCK_WAIT"] == 7200
    assert found["COMPRESSION"] == "zstd"
    assert "COMPRESSION" not in found
    assert found.lines["LOCK_WAIT"] == 9


def test_what_old_files_hold_is_accepted(path: Path) -> None:
    old = 'ROOT_PATH="/r"\nAWSCLI_PROFILE=None\nS3_URI_PREFIX="s3://foo/backups/"\nS3CMD_CONFIG="/c"\n'
    assert load(path, old)["S3_URI_PREFIX"] == "s3://foo/backups/"
    rdiff = 'TYPE="rdiff"\nMAX_INCREMENTAL_COUNT=10\nMAX_INCREMENTAL_SPAN="24h"\n'
    assert load(path, rdiff + "MAX_INCREMENTAL_COUNT=1\n", TREE)["MAX_INCREMENTAL_COUNT"] == 1
    assert load(path, "MAX_INCREMENTAL_SPAN = '0s'\n", DATABASE)["MAX_INCREMENTAL_SPAN"] == 0
    assert load(path, b"ROOT_PATH = '/r'\r\n# caf\xc3\xa9\r\n")["ROOT_PATH"] == Path("/r")
    assert load(path, b"# coding: latin-1\nROOT_PATH = '/r\xe9'\n")["ROOT_PATH"] == Path("/ré")


@pytest.mark.parametrize(
    ("where", "line", "message", "hint"),
    [
        (GENERAL, "ROOT_PAHT = '/x'", "there is no setting ROOT_PAHT", "did you mean ROOT_PATH?"),
        (TREE, "MAX_INCREMENTAL_COUMT = 1", "there is no setting MAX_INC", "did you mean MAX_INCREMENTAL_COUNT?"),
        (GENERAL, "QQQQ = 1", "there is no setting QQQQ", "a variable of your own starts with _ or is in lower case"),
        (GENERAL, "ROOT_PATH = 'x'", "ROOT_PATH must be an absolute path, not 'x'", ""),
        (GENERAL, "ROOT_PATH = None", "ROOT_PATH must be an absolute path, not None", ""),
        (GENERAL, "LOCK_WAIT = 'soon'", "LOCK_WAIT must be a duration, not 'soon'", ""),
        (GENERAL, "LOCK_WAIT = '-5m'", "LOCK_WAIT must be a duration, not '-5m'", ""),
        (GENERAL, "LOCK_WAIT = '9' * 4000 + 's'", "LOCK_WAIT must be a duration, not '99999", ""),
        (GENERAL, "TYPE = 'tar'", "TYPE does not belong here, but in a filesystem's config.py", ""),
        (GENERAL, "OFFSITE = {'a-b': {}}", "OFFSITE must be a dictionary of dictionaries, not {'a-b': {}}", ""),
        (GENERAL, "COMPRESSION = ['zstd']", "COMPRESSION must be one of zstd, bzip2, gzip, xz, none, not ['zstd']", ""),
        (TREE, "TYPE = 'zip'", "TYPE must be one of tar, rdiff, chunks, not 'zip'", ""),
        (TREE, "MAX_INCREMENTAL_COUNT = True", "MAX_INCREMENTAL_COUNT must be a whole number, not True", ""),
        (TREE, "EXCLUDE = '*.tmp'", "EXCLUDE must be a list of texts, not '*.tmp'", ""),
        (TREE, "EXCLUDE = [1]", "EXCLUDE must be a list of texts, not [1]", ""),
        (TREE, "ONE_FILE_SYSTEM = 1", "ONE_FILE_SYSTEM must be True or False, not 1", ""),
        (TREE, "ALLOW_EMPTY = 10 ** 9000", "ALLOW_EMPTY must be True or False, not this int", ""),
        (GENERAL, "x = 1 / 0", "ZeroDivisionError: division by zero", ""),
        (GENERAL, "raise SystemExit(0)", "SystemExit: 0", ""),
        (GENERAL, "if True", "expected ':'", ""),
        (GENERAL, "def f(): return f()\nf()", "RecursionError: ", ""),
    ],
)
def test_mistakes_are_named_with_their_line(path: Path, where: str, line: str, message: str, hint: str) -> None:
    said, advice = complaint(path, f"# a comment\n\n{line}\n", where)
    assert said.startswith(f"line 3: {message}")
    assert "\n" not in said
    assert advice == hint


@pytest.mark.parametrize("prefix", ["foo", "s3://", "s3:///x", "https://s3/x", 3])
def test_the_prefix_is_s3s(path: Path, prefix: object) -> None:
    said, _ = complaint(path, f"S3CMD_CONFIG = '/c'\nS3_URI_PREFIX = {prefix!r}\n")
    assert said == f"line 2: S3_URI_PREFIX must be s3://BUCKET/PATH, not {prefix!r}"


def test_of_a_bad_prefix_alone_the_missing_other_is_said(path: Path) -> None:
    said, _ = complaint(path, "ROOT_PATH = '/r'\nS3_URI_PREFIX = 'q'\n")
    assert said == "you must specify S3CMD_CONFIG in the general configuration"


def test_what_is_required_is_named(path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^you must specify ROOT_PATH in the general configuration$"):
        load(path, "").required("ROOT_PATH")
    with pytest.raises(ImproperlyConfigured, match=f"^you must specify TYPE in {path}$"):
        load(path, "", TREE).required("TYPE")


@pytest.mark.parametrize(
    ("lines", "problems"),
    [
        ("ROOT_PATH='/r'; OFFSITE={}", []),
        ("ROOT_PATH='/r'; S3_URI_PREFIX='s3://b'; S3CMD_CONFIG='c'", []),
        ("ROOT_PATH='/r'; S3_URI_PREFIX='s3://b'; S3CMD_CONFIG='c'; OFFSITE={}", []),
        ("ROOT_PATH='/r'", ["S3_URI_PREFIX"]),
        ("ROOT_PATH='/r'; S3CMD_CONFIG='c'; OFFSITE={}", ["S3_URI_PREFIX"]),
        ("S3_URI_PREFIX='s3://b'", ["ROOT_PATH", "S3CMD_CONFIG"]),
    ],
)
def test_shortcomings(path: Path, lines: str, problems: list[str]) -> None:
    said = [problem.message for problem in config.shortcomings(load(path, lines))]
    assert said == [f"you must specify {name} in the general configuration" for name in problems]


# Who may write them


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640, 0o755])
def test_readable_by_others_is_fine(path: Path, mode: int) -> None:
    path.touch()
    path.chmod(mode)
    path.parent.chmod(0o755)
    assert config.load(path, GENERAL)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(path: Path, mode: int) -> None:
    path.write_text(f"open({str(path.parent / 'executed')!r}, 'w')\n")
    path.chmod(mode)
    with pytest.raises(ImproperlyConfigured) as caught:
        config.load(path, GENERAL)
    assert caught.value.message.startswith(f"{path} can be changed by others (owner 0, mode 0{mode:o})")
    assert caught.value.hint == f"chmod go-w {path}"
    assert not (path.parent / "executed").exists()


def test_a_file_of_another_is_refused(path: Path) -> None:
    path.touch()
    os.chown(path, NOBODY, 0)
    with pytest.raises(ImproperlyConfigured, match=f"{path} can be changed by others .owner {NOBODY}, "):
        config.load(path, GENERAL)


@pytest.mark.parametrize("case", ["mode", "owner"])
def test_a_folder_above_that_others_can_write_is_refused(tmp_path: Path, case: str) -> None:
    above = tmp_path / "above"
    (above / "cfg").mkdir(parents=True)
    (above / "cfg" / "config.py").touch()
    if case == "mode":
        above.chmod(0o777)
    else:
        os.chown(above, NOBODY, 0)
    with pytest.raises(ImproperlyConfigured, match=f"^{above} can be changed by others"):
        config.load(above / "cfg" / "config.py", GENERAL)
    above.chmod(0o1777)
    os.chown(above, 0, 0)
    assert config.load(above / "cfg" / "config.py", GENERAL)


def test_a_link_is_followed_if_it_and_its_way_are_ours(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.py").write_text("ROOT_PATH = '/r'\n")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(tmp_path / "real")
    path = tmp_path / "one" / "config.py"
    assert config.load(path, GENERAL)["ROOT_PATH"] == Path("/r")
    os.chown(tmp_path / "two", NOBODY, 0, follow_symlinks=False)
    with pytest.raises(ImproperlyConfigured, match=f"^{tmp_path}/two can be changed by others"):
        config.load(path, GENERAL)


def test_the_way_behind_a_link_counts_too(tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    (loose / "real").mkdir(parents=True)
    (loose / "real" / "config.py").touch()
    loose.chmod(0o777)
    (tmp_path / "cfg").symlink_to("loose/real")
    with pytest.raises(ImproperlyConfigured, match=f"^{loose} can be changed by others"):
        config.load(tmp_path / "cfg" / "config.py", GENERAL)


def test_a_fifo_a_folder_and_nothing_are_said(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(ImproperlyConfigured, match="is not a regular file"):
        config.load(path, GENERAL)
    with pytest.raises(ImproperlyConfigured, match="is not a regular file"):
        config.load(path.parent, GENERAL)
    with pytest.raises(ImproperlyConfigured, match=r"cannot read the configuration .*: No such file") as caught:
        config.load(path.with_name("absent"), GENERAL)
    assert "init makes a first configuration" in caught.value.hint


def test_a_huge_file_is_refused(path: Path) -> None:
    said, _ = complaint(path, b"#" * (1 << 20) + b"#")
    assert "too big" in said


# Whatever the bytes are

TEXTS = st.lists(
    st.sampled_from(
        ["ROOT_PATH", "OFFSITE", "TYPE", "=", "'", '"', "(", "[", "{", "\n", " ", "\t", "1", ":", "def ", "lambda ",
         "import os\n", "# coding: ", "latin-1", "\0", "\ufeff", "raise ", "SystemExit", "-", "*", "1e999", "é", "\x0c"]
    ),
    max_size=30,
).map("".join)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[*HealthCheck])
@given(content=st.one_of(st.binary(max_size=200), TEXTS.map(str.encode), TEXTS.map(lambda t: t.encode("utf-16"))))
def test_any_bytes_give_a_configuration_or_one_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for where in (GENERAL, TREE, DATABASE):
        try:
            assert isinstance(config.load(path, where), Config)
        except ImproperlyConfigured as error:
            assert str(path) in error.message or "general configuration" in error.message


@pytest.mark.parametrize(
    "content",
    [b"\0", b"\xff\xfe\0", b"(" * 9999, b"-" * 99999 + b"1", b"x=" + b"-" * 3000 + b"1", b"a" + b".b" * 99999,
     b"# coding: utf-16\n1", b"# coding: nonsense\n", b"x = '\xed\xa0\x80'", b"not " * 9999 + b"1", b"if 1:", b"\x1a",
     b"raise BaseException", b"raise GeneratorExit", b"[0]" * 99999, b"+".join([b"1"] * 99999)],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_bytes_that_hurt_the_compiler(path: Path, content: bytes) -> None:
    assert "line" in complaint(path, content)[0]


# The commands


@pytest.mark.parametrize("options", [(), ("--all",)])
def test_the_example_passes_the_check(btw: Installation, options: tuple[str, ...]) -> None:
    shown = btw("config", "example", *options)
    (btw.config_dir / "config.py").write_text(shown.out)
    checked = btw("config", "check")
    assert (checked.out, checked.err) == ("btw_backup: 1 file, no problem\n", "")


def test_the_whole_example_names_every_setting_and_its_lines_work(path: Path) -> None:
    shown = example.general("/r", everything=True)
    assert [s.name for s in SETTINGS if f"{s.name} = " not in shown] == ["AWSCLI_PROFILE"]
    for setting in SETTINGS:
        for where in setting.where:
            assert setting.name in load(path, f"{setting.name} = {setting.example}\n", where)


def test_an_example_that_looks_like_the_default_is_the_default(path: Path) -> None:
    differing = {"EXCLUDE", "CONNECTION"}
    for setting in SETTINGS:
        if setting.default is not None and setting.name not in differing:
            found = load(path, f"{setting.name} = {setting.example}\n", setting.where[0])
            assert found[setting.name] == setting.default


def test_check_lists_every_problem(btw: Installation) -> None:
    btw.configure("LOCK_WAT = '1s'\nLOCK_WAIT = 1\n")
    (btw.config_dir / "shop.py").write_text("x = \n")
    ended = btw("config", "check", status=1)
    assert ended.out.splitlines() == [
        f"{btw.config_dir}/config.py line 2: there is no setting LOCK_WAT",
        "  hint: did you mean LOCK_WAIT?",
        f"{btw.config_dir}/config.py line 3: LOCK_WAIT must be a duration, not 1",
        f"{btw.config_dir}/shop.py line 1: invalid syntax",
    ]
    assert ended.err == "btw_backup: 3 problems in 2 files\n"
    rows = json.loads(btw("config", "check", "--json", status=1).out)
    assert [Path(row["file"]).name for row in rows] == ["config.py", "config.py", "shop.py"]
    assert rows[0]["hint"] == "did you mean LOCK_WAIT?"


def test_check_is_quiet_on_request(btw: Installation) -> None:
    ended = btw("config", "check", "-q")
    assert (ended.out, ended.err) == ("", "")
    assert json.loads(btw("config", "check", "--json").out) == []


def test_check_without_a_configuration_says_how_to_make_one(btw: Installation) -> None:
    (btw.config_dir / "config.py").unlink()
    ended = btw("config", "check", status=1)
    assert "cannot read the configuration" in ended.out
    assert "init makes a first configuration" in ended.out


def test_show_tells_what_holds_and_why(btw: Installation, source: Path) -> None:
    btw.configure(COMPRESSION="gzip")
    btw.tree(source, "tar", "www", extra="ONE_FILE_SYSTEM = False\n")
    (btw.config_dir / "shop.py").write_text("CONNECTION = 'host=/x password=secret user=me'\n")
    lines = btw("config", "show").out.splitlines()
    general = btw.config_dir / "config.py"
    assert f"general: ROOT_PATH = '{btw.root}' ({general} line 1)" in lines
    assert "general: LOCK_WAIT = 600.0 (default)" in lines
    assert f"www: COMPRESSION = 'gzip' ({general} line 2)" in lines
    assert any(line.startswith("www: ONE_FILE_SYSTEM = False (") for line in lines)
    assert "database shop: MAX_INCREMENTAL_COUNT = 10 (default)" in lines
    assert f"database shop: CONNECTION = 'host=/x password=*** user=me' ({btw.config_dir}/shop.py line 1)" in lines
    rows = json.loads(btw("config", "show", "--json").out)
    assert {row["job"]: row["source"] for row in rows} == {"general": "", "www": str(source), "database shop": "shop"}


def test_show_hides_the_password_of_an_address(btw: Installation) -> None:
    (btw.config_dir / "shop.py").write_text("CONNECTION = 'postgresql://me:se%20cret@host/x'\n")
    assert "'postgresql://me:***@host/x'" in btw("config", "show").out


def test_all_belongs_to_example(btw: Installation) -> None:
    ended = btw("config", "check", "--all", status=2)
    assert ended.err == "btw_backup: --all belongs to config example\n"


def test_what_a_command_leaves_is_private(btw: Installation, source: Path) -> None:
    made = btw.tree(source)
    for path in (made, *made.iterdir()):
        assert path.is_symlink() or not stat.S_IMODE(path.stat().st_mode) & 0o077


def test_a_configuration_that_ends_the_program_does_not(btw: Installation) -> None:
    btw.configure("import sys\nsys.exit(0)\n")
    ended = btw("list", status=1)
    assert ended.err == f"btw_backup: {btw.config_dir}/config.py line 3: SystemExit: 0\n"
