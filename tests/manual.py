"""The parts of README.rst that follow from the code; ``python -m tests.manual`` writes them into it.

A part stands between the comments ``.. NAME`` and ``.. end of NAME``. The examples are the blocks that begin with
``.. code-block:: sh``; tests/test_readme.py runs them.
"""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from btw_backup.cli import STATUSES
from btw_backup.commands import NAMES, command
from btw_backup.configuration.settings import SETTINGS, Setting
from tests.conftest import REPOSITORY

README = REPOSITORY / "README.rst"
WIDTH = 116


@dataclass(frozen=True)
class Example:
    """A block of commands: the number of its first line, its ``:name:``, and the commands."""

    line: int
    name: str
    commands: str


def examples(text: str) -> Iterator[Example]:
    """The blocks of shell commands in `text`, in their order."""
    pattern = re.compile(
        r"^\.\. code-block:: sh\n(?:   :name: (?P<name>.+)\n)?\n(?P<body>(?:(?:   .*)?\n)+)", re.MULTILINE
    )
    for found in pattern.finditer(text):
        line = text.count("\n", 0, found.start("body")) + 1
        yield Example(line, found["name"] or "", textwrap.dedent(found["body"]).strip() + "\n")


def synopsis() -> str:
    """The usage of the whole, and the subcommands."""
    called = "import sys; sys.argv = ['btw-backup', '--help']; from btw_backup.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": str(WIDTH - 2)}
    ended = subprocess.run([sys.executable, "-c", called], check=True, capture_output=True, text=True, env=environment)
    usage = ended.stdout.partition("\n\n")[0].removeprefix("usage: ")
    usage = re.sub(r"^ {7}", "", usage, flags=re.MULTILINE)  # it was indented by the word that is gone
    width = max(map(len, NAMES))
    commands = "\n".join(f"{name:{width}}  {command(name).help}" for name in NAMES)
    return "::\n\n" + textwrap.indent(f"{usage}\n\n{commands}", "  ")


def settings() -> str:
    """What configuration files may set."""
    return "\n\n".join(map(setting_text, SETTINGS))


def setting_text(setting: Setting) -> str:
    """A setting as an item of a definition list."""
    kind = setting.kind[0].upper() + setting.kind[1:]
    places = " or ".join(where.replace("config.py", "``config.py``") for where in setting.where)
    how = "for example" if setting.default in (None, "", ()) else "by default"
    meaning = setting.meaning[0].upper() + setting.meaning[1:].rstrip(".")
    where = kind.replace("config.py", "``config.py``") if setting.choices else f"{kind}, in {places}"
    text = f"{where}; {how} ``{setting.example}``. {meaning}."
    wrapped = textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return f"``{setting.name}``\n{wrapped}"


def status() -> str:
    """The exit statuses."""
    rows = [line.split(maxsplit=1) for line in STATUSES.strip().splitlines()[1:]]
    rule = f"{'':=<4}  {'':=<{max(len(meaning) for _, meaning in rows)}}"
    return "\n".join([rule, *(f"{number:4}  {meaning}" for number, meaning in rows), rule])


PARTS = {"synopsis": synopsis, "settings": settings, "status": status}


def part(text: str, name: str) -> str:
    """What stands in `text` as the part `name`."""
    return text.split(f"\n.. {name}\n")[1].split(f"\n.. end of {name}\n", maxsplit=1)[0].strip("\n")


def written(text: str) -> str:
    """`text` with all its parts as the code has them."""
    for name, make in PARTS.items():
        before, _, rest = text.partition(f"\n.. {name}\n")
        after = rest.partition(f"\n.. end of {name}\n")[2]
        text = f"{before}\n.. {name}\n\n{make()}\n\n.. end of {name}\n{after}"
    return text


if __name__ == "__main__":
    Path(README).write_text(written(README.read_text()))
