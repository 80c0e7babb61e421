"""The configuration files that we write: commented, and working as they stand."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from btw_backup.configuration.settings import COMMAND, DATABASE, GENERAL, SETTINGS, TREE, Setting

WIDTH = 100
HEAD = """\
# The general configuration of btw-backup. It is Python, run as who makes the backups (root, usually):
# nobody else may be able to write it. "btw-backup config check" tells what is wrong with it.
"""
LOCAL_ONLY = """\
# Backups stay on this machine only. To send them to S3 as well, take the next line out, and give these two:
"""
ELSEWHERE = {
    TREE: "In <name>.<hash>/config.py, which fs-init makes, for one filesystem:",
    DATABASE: "In <database>.py, or global.py for the roles and tablespaces, for one database:",
    COMMAND: "In command/<name>.py, which command-init makes, for one command or URL:",
}
BASIC = ("ROOT_PATH", "OFFSITE", "S3_URI_PREFIX", "S3CMD_CONFIG")
_OBSOLETE = ("AWSCLI_PROFILE",)


def general(root: Path | str, *, everything: bool = False) -> str:
    """A general configuration that keeps backups below `root` and nowhere else; with `everything`, every setting."""
    blocks = [
        HEAD,
        _comment("The folder that holds all backups: every DST is relative to it.") + f"ROOT_PATH = {str(root)!r}\n",
        LOCAL_ONLY + "OFFSITE = {}\n" + "".join(map(_assignment, _named("S3_URI_PREFIX", "S3CMD_CONFIG"))),
    ]
    if everything:
        rest = [setting for setting in _of(GENERAL) if setting.name not in BASIC]
        blocks += map(_block, rest)
        for where, title in ELSEWHERE.items():
            blocks += [_comment(title), *map(_block, _of(where))]
    return "\n".join(blocks)


def tree(keeper: str) -> str:
    """The config.py of a new filesystem job: what holds, as the old script wrote it, and what else there is."""
    lines = [f'TYPE="{keeper}"\n']
    if keeper == "rdiff":
        lines += ["MAX_INCREMENTAL_COUNT=10\n", 'MAX_INCREMENTAL_SPAN="24h"\n']
    wanted = ["EXCLUDE", "ONE_FILE_SYSTEM", *(["COMPRESSION"] if keeper == "tar" else [])]
    return "".join(lines) + "\n" + "\n".join(map(_block, _named(*wanted)))


def command(keeper: str, words: Sequence[str], url: str = "", token_file: Path | None = None) -> str:
    """The file of a new command: of the program and arguments `words`, or of a URL."""
    head = "The bytes that this gives are kept, if it ends well. Check with: btw-backup config check"
    lines = [f'TYPE = "{keeper}"\n']
    if words:
        lines.append(f"COMMAND = {list(words)!r}\n")
    if url:
        lines.append(f"URL = {url!r}\n")
    if token_file:
        lines.append(f"TOKEN_FILE = {str(token_file)!r}\n")
    return _comment(head) + "".join(lines) + "\n" + "\n".join(map(_block, _named("TIMEOUT", "ALLOW_EMPTY")))


def _of(where: str) -> list[Setting]:
    return [setting for setting in SETTINGS if where in setting.where and setting.name not in _OBSOLETE]


def _named(*names: str) -> Iterable[Setting]:
    return [setting for name in names for setting in SETTINGS if setting.name == name]


def _block(setting: Setting) -> str:
    meaning = setting.meaning[0].upper() + setting.meaning[1:].removesuffix(". Required")
    return _comment(f"{meaning} ({setting.kind}).".replace("``", "")) + _assignment(setting)


def _assignment(setting: Setting) -> str:
    return f"# {setting.name} = {setting.example}\n"


def _comment(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False) + "\n"
