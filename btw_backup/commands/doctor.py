"""Look for what could keep the next backup or a restore from working: the configuration, the programs
and their versions, the clock, ROOT_PATH, free space, permissions, sources, PostgreSQL, off-site targets.

One line for each thing looked at: ok, warning or error, and what to do about it. The exit status is 1
if there is an error. Nothing is changed. With -q only warnings and errors are shown.

With --attack it tries, with the credentials of this machine and on an object of its own, to overwrite, read and
delete at every target, and says what is in force: whoever breaks into this machine can do the same to the backups
there. It writes an object of 64 bytes below probe/, which stays there if it cannot be deleted. Where OBJECT_LOCK
is set it locks one for two minutes, and tries to shorten that, and to destroy it.

example:
  btw-backup doctor
  btw-backup doctor --attack
  btw-backup doctor --json
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from btw_backup.clock import utc_now
from btw_backup.commands.command import Command, Context
from btw_backup.errors import FatalUserError
from btw_backup.health import doctor, findings
from btw_backup.log import printable


def run(context: Context, args: argparse.Namespace) -> None:
    """Look, show, and fail if there is an error."""
    found = list(doctor.examine(context.config_dir, utc_now()))
    if args.attack:
        from btw_backup.health import burglary  # noqa: PLC0415 - few want it

        found += burglary.attempts(context.config, context.config_dir)
    shown = [finding for finding in found if finding.level != findings.OK or not context.quiet]
    context.show([asdict(finding) for finding in shown], _line)
    errors = sum(finding.level == findings.ERROR for finding in found)
    if errors:
        raise FatalUserError(f"{errors} of {len(found)} checks found an error")


def _line(row: Mapping[str, Any]) -> str:
    line = f"{row['level']:<8} {printable(row['what'])}: {printable(row['detail'])}"
    return line + (f"\n         hint: {printable(row['hint'])}" if row["hint"] else "")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("--attack", action="store_true", help="try what a burglar could do to what is off-site")


COMMAND = Command("doctor", "looks for what could go wrong", arguments, run, usage="[-h] [--attack]")
