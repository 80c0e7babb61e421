"""Check, show or give an example of the configuration.

check looks at every file in the configuration directory, and says all that is wrong with each.
show tells what holds for every job, and where it comes from.
example prints a configuration that works as it stands; with --all it names every setting.

example:
  btw-backup config check
  btw-backup config show
  btw-backup config example --all
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from typing import Any

from btw_backup.commands.command import Command, Context
from btw_backup.configuration import addresses, config, example, jobs
from btw_backup.configuration.addresses import Address
from btw_backup.configuration.config import Config
from btw_backup.errors import ImproperlyConfigured, UsageError
from btw_backup.log import printable

_PASSWORD = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)|(://[^:/@\s]*:)[^@\s]*(?=@)", re.IGNORECASE)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("what", choices=("check", "show", "example"), help="what to do with it")
    parser.add_argument("--all", action="store_true", help="for example: also what is seldom needed")


def run(context: Context, args: argparse.Namespace) -> None:
    """Do one of the three."""
    if args.all and args.what != "example":
        raise UsageError("--all belongs to config example")
    if args.what == "example":
        context.answer(example.general("/var/backups/btw-backup", everything=args.all).rstrip("\n"))
    elif args.what == "show":
        context.show(list(_rows(context)), lambda row: "{job}: {setting} = {value!r} ({from})".format(**row))
    else:
        _check(context)


def _check(context: Context) -> None:
    found = dict(jobs.examined(context.config_dir))
    problems = [(path, problem) for path, of_file in found.items() for problem in of_file]
    rows = [{"file": str(path), "problem": p.message, "hint": p.hint} for path, p in problems]
    context.show(rows, lambda row: printable(row["problem"]) + (row["hint"] and f"\n  hint: {printable(row['hint'])}"))
    count = _counted(len(found), "file")
    if problems:
        raise ImproperlyConfigured(f"{_counted(len(problems), 'problem')} in {count}")
    context.say(f"{count}, no problem")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _rows(context: Context) -> Iterator[dict[str, Any]]:
    """A row for each setting of the general configuration and of every job."""
    yield from _effective("general", "", context.config)
    for address in addresses.addresses(context.config.values):
        yield from _target(address, context.config)
    for job in jobs.all_tree_jobs(context.config, context.config_dir):
        yield from _effective(job.name, job.source, job.settings, context.config)
    for name in jobs.database_names(context.config_dir):
        yield from _effective(f"database {name}", name, jobs.database_job(context.config_dir, name).settings)
    for name in jobs.command_names(context.config_dir):
        settings = jobs.command_job(context.config_dir, name, from_stdin=True).settings
        yield from _effective(f"command {name}", name, settings)


def _target(address: Address, general: Config) -> Iterator[dict[str, Any]]:
    """What holds for a target, be it said for that one or for all."""
    said = {
        "S3_URI_PREFIX" if address.s3cmd_config else "PATH": address.place,
        "S3CMD_CONFIG": address.s3cmd_config,
        "LAYOUT": address.layout,
        "ENCRYPT_TO": address.encrypt_to,
        "BANDWIDTH": address.bandwidth,
        "SERVER_SIDE_ENCRYPTION": address.server_side_encryption,
        "ALLOW_REMOVAL": address.allow_removal,
        "ALLOW_HTTP": bool(address.allow_http),
    }
    for name, value in said.items():
        if value or name in ("LAYOUT", "ENCRYPT_TO", "SERVER_SIDE_ENCRYPTION", "ALLOW_REMOVAL", "ALLOW_HTTP"):
            row = {"job": f"target {address.name}", "source": address.place, "setting": name}
            yield {**row, "value": _plain(value), "from": str(general.path)}


def _effective(job: str, source: str, settings: Config, general: Config | None = None) -> Iterator[dict[str, Any]]:
    for setting in config.SETTINGS:
        value = settings[setting.name] if settings.where in setting.where else None
        if value is None:
            continue
        origin = "default"
        for file in (settings, general):
            if file and setting.name in file:
                origin = f"{file.path} line {file.lines.get(setting.name, 1)}"
                break
        yield {"job": job, "source": source, "setting": setting.name, "value": _plain(value), "from": origin}


def _plain(value: Any) -> Any:
    """`value` as JSON knows it, without passwords."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | float):
        return value
    return _PASSWORD.sub(lambda found: (found[1] or found[3]) + "***", str(value))


COMMAND = Command(
    "config", "checks, shows or explains the configuration", arguments, run, usage="[-h] {check,show,example} [--all]"
)
