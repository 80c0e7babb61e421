"""The command line: the parser, and the one place where an error becomes a line and a status."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from btw_backup import __version__, cores, interrupts, log, progress
from btw_backup.commands import NAMES, command
from btw_backup.commands.command import Command, Context, duration
from btw_backup.errors import FatalUserError, Interrupted, shortage

STATUSES = """\
exit status:
  0  done
  1  error
  2  usage
  3  done, but something could not be read, or changed while it was
  4  locked by another run
  5  damaged data
  6  kept here, but not (all) off-site
  70 a bug, with a traceback
  130 interrupted (128 + the number of the signal)
"""


_WITH_VALUE = ("--config-dir", "--fields", "--lock-wait")
"""Options before the command whose value is the next word."""


def run() -> NoReturn:
    """The program: `main`, and then the end of the process at once. To take apart what it has in memory, piece by
    piece, takes as long as a walk through 2,000 files."""
    status = main()
    with suppress(OSError):  # nobody listens
        sys.stderr.flush()
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    os.umask(0o077)
    cores.refuse()
    log.PROG = _prog()
    _open_closed_outputs()
    try:
        interrupts.listen()
        status = _run(sys.argv[1:] if arguments is None else list(arguments))
        interrupts.end()
    except Interrupted as interrupted:  # while the end was being noted
        interrupts.end()
        log.warn(str(interrupted))
        status = interrupted.status
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            log.warn(f"cannot write the answer: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains at its end
        status = status or 1
    return status


def _open_closed_outputs() -> None:
    """Under some callers standard output or error is closed: what is said there goes nowhere then."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - to the end of the process


def _run(arguments: list[str]) -> int:
    try:
        args = build_parser(_wanted(arguments)).parse_args(arguments)
        progress.JSON_LINES, progress.QUIET = args.json_progress, args.quiet
        context = Context(args.command, args)
        _open_log(context, arguments)
        args.command.run(context, args)
        status = 0
    except SystemExit as end:  # argparse has said what it had to say
        return int(end.code or 0)
    except FatalUserError as error:
        log.warn(error.message, error.hint)
        status = error.status
    except Interrupted as interrupted:
        interrupts.end()
        log.warn(str(interrupted))
        status = interrupted.status
    except BrokenPipeError:
        status = 1  # whoever read the answer had enough
    except OSError as error:
        log.warn(_system_message(error))
        status = 1
    except Exception as error:  # noqa: BLE001 - whatever it is: this is where a bug is said
        status = _unforeseen(error)
    log.debug(f"ended with {status}")
    return status


def _unforeseen(error: Exception) -> int:
    """Say what nobody expected; its status."""
    if said := shortage(error):
        log.warn(said)
        return 1
    import traceback  # noqa: PLC0415 - hardly ever needed

    log.warn(f"this is a bug in {log.PROG}; please report it with these lines:")
    log.debug("".join(traceback.format_exception(error)))
    traceback.print_exception(error)
    return 70


def _prog() -> str:
    name = os.path.basename(sys.argv[0])
    return "btw_backup" if name == "__main__.py" else name


def _system_message(error: OSError) -> str:
    if said := shortage(error):
        return said
    named = isinstance(error.filename, str | bytes) and error.filename  # a descriptor is a number
    where = f"{os.fsdecode(named)}: " if named else ""
    return f"{where}{error.strerror or error}"


def _open_log(context: Context, arguments: list[str]) -> None:
    """Open the log file where there is a configuration directory, at its usual place if that is unreadable."""
    if not context.config_dir.is_dir():
        return
    try:
        path = context.config["LOG"]
    except FatalUserError:
        path = None
    log.open_log_file(path or context.config_dir / "btw-backup.log")
    log.debug("started: " + " ".join([log.PROG, *arguments]))


def _wanted(arguments: list[str]) -> Sequence[str]:
    """The names of the commands that the parser needs: loading all takes longer than an unchanged source to look at."""
    rest = iter(arguments)
    for argument in rest:
        if argument in _WITH_VALUE:
            next(rest, None)
        elif not argument.startswith("-"):
            return [argument] if argument in NAMES else NAMES
    return NAMES


def build_parser(names: Sequence[str] = NAMES) -> argparse.ArgumentParser:
    """The parser of the commands `names`."""
    prog = _prog()
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Keeps filesystems, PostgreSQL databases and more; sends them off-site; gives them back.",
        epilog=STATUSES,
        formatter_class=_formatter,
    )
    _add_common(parser, top=True)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(title="subcommands", required=True, metavar="COMMAND", prog=prog)
    for one in map(command, names):
        sub = subparsers.add_parser(
            one.name,
            help=one.help,
            description=_description(one),
            usage=one.usage and f"{prog} {one.name} {one.usage}",
            formatter_class=_formatter,
        )
        one.arguments(sub)
        _add_common(sub, top=False)
        sub.set_defaults(command=one)
    return parser


def _formatter(prog: str) -> argparse.HelpFormatter:
    """As wide as the terminal; without one, argparse would load shutil and all compressors to ask for the width."""
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS") or 80) - 2
    return argparse.RawDescriptionHelpFormatter(prog, width=width)


def _description(command: Command) -> str:
    return (sys.modules[command.run.__module__].__doc__ or "").strip()


def _add_common(parser: argparse.ArgumentParser, top: bool) -> None:
    """The options that stand before or after the subcommand."""

    def add(*names: str, default: object, **rest: object) -> None:
        parser.add_argument(*names, default=default if top else argparse.SUPPRESS, **rest)  # type: ignore[arg-type]

    add("-q", "--quiet", action="store_true", default=False, help="makes the command run quietly")
    home = Path("~/.btw-backup").expanduser()
    add(
        "--config-dir",
        type=_absolute,
        default=home,
        metavar="CONFIG_DIR",
        help="sets the general configuration directory",
    )
    add("--json", action="store_true", default=False, help="answer in JSON")
    add("-m", "--machine", action="store_true", default=False, help="answer in bare tab-separated lines")
    add("--fields", default=None, metavar="NAME,…", help="answer with these fields only")
    add("--json-progress", action="store_true", default=False, help="tell the progress in JSON lines on standard error")
    add(
        "--lock-wait",
        type=duration,
        default=None,
        metavar="DURATION",
        help="how long to wait for another run; 0 does not",
    )


def _absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()
