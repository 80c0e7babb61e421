"""Back up a PostgreSQL database, or with -g the server's roles and tablespaces, to DST, a path relative to ROOT_PATH.

With --all, every database of the server goes to DST/<db> and the roles and tablespaces to DST/global; a new database
is taken without being told. One that fails does not stop the others; the exit status is then 1. What EXCLUDE in
global.py matches is left out.

The server is found as by psql: by PGHOST, PGPORT, PGUSER and so on, or by CONNECTION in <db>.py, for -g in global.py,
for --all in both. TYPE stands there, too: rdiff if nobody says; chunks, each piece of content once; file, a file each.
Passwords are best kept in ~/.pgpass; PGPASSWORD works too. Nothing is kept if nothing has changed since the last
backup; log.txt in DST then gets a line. The client programs of the server's own version are used if they are installed.

example:
  btw-backup db shop db/shop
  btw-backup db -g db/global
  btw-backup db --all db
"""

import argparse
import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from btw_backup import runner, running
from btw_backup.commands.command import EXCLUSIVE, Command, Context
from btw_backup.commands.owner import add_owner, owner_of
from btw_backup.configuration import jobs
from btw_backup.configuration.jobs import GLOBALS, Job
from btw_backup.errors import FatalUserError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.add_argument("-g", "--global", dest="globals", action="store_true", help="backup the roles and tablespaces")
    parser.add_argument("--all", action="store_true", help="backup every database, and the roles and tablespaces")
    parser.add_argument("--verify", action="store_true", help="read back what was written, and compare it")
    add_owner(parser)
    parser.add_argument("db", nargs="?", help="the database to backup")
    parser.add_argument("dst", help="the final destination directory where to put the backup")


def run(context: Context, args: argparse.Namespace) -> None:
    """Back up one database, the globals, or all."""
    if args.all and (args.globals or args.db is not None):
        raise FatalUserError("--all takes neither -g (--global) nor a database name")
    if not args.all and args.globals == (args.db is not None):
        raise FatalUserError("either -g (--global) or a database name must be specified")
    if args.all:
        runner.each(_all(context, args))
    else:
        _back_up(context, args, GLOBALS if args.globals else _checked(args.db), args.dst)


def _checked(name: str) -> str:
    if name == GLOBALS:
        raise FatalUserError(
            f"a database cannot be called {GLOBALS}: that name stands for the roles and tablespaces",
            "back these up with -g",
        )
    if not name:
        raise FatalUserError("the name of the database is empty")
    return name


def _all(context: Context, args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], None]]]:
    """What is to be backed up, each with the way to do it; the globals first, because the others need them."""
    from btw_backup.sources import postgres, postgres_server  # noqa: PLC0415 - psycopg takes 0.1 s to load

    everything = jobs.database_job(context.config_dir, GLOBALS)
    settings = everything.settings
    yield GLOBALS, partial(_back_up, context, args, GLOBALS, f"{args.dst}/{GLOBALS}")
    for name in postgres_server.databases(settings["CONNECTION"]):
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in settings["EXCLUDE"]):
            dst = f"{args.dst}/{postgres.safe_name(name, '@')}"
            yield name, partial(_back_up_named, context, args, name, dst, everything)


def _back_up_named(context: Context, args: argparse.Namespace, name: str, dst: str, everything: Job) -> None:
    _back_up(context, args, _checked(name), dst, everything)


def _back_up(context: Context, args: argparse.Namespace, name: str, dst: str, everything: Job | None = None) -> None:
    """Back up the database `name`, or the globals. `everything` has what holds where the database's file is silent."""
    from btw_backup.sources.postgres import Database, Globals  # noqa: PLC0415 - psycopg takes 0.1 s to load

    with running.recorded(context.config_dir, "db", name, dst) as noted:
        job = jobs.database_job(context.config_dir, name)
        if everything and "TYPE" not in job.settings:
            job = replace(job, keeper=everything.keeper)
        if everything and "TIMEOUT" not in job.settings:
            general = {"TIMEOUT": everything.settings["TIMEOUT"]}
            job = replace(job, settings=replace(job.settings, general=general))
        reached = job.settings["CONNECTION"] or (everything.settings["CONNECTION"] if everything else "")
        plain = job.keeper != "rdiff"
        source = Globals(reached, plain=plain) if name == GLOBALS else Database(name, reached, plain=plain)
        with context.place(dst, owner_of(args)) as place:
            options = {"verify": args.verify, "run": noted}
            runner.back_up(context.config, context.config_dir, job, source, place, wait=context.lock_wait, **options)


COMMAND = Command(
    "db",
    "backs up a PostgreSQL database or PostgreSQL global objects",
    arguments,
    run,
    lock=EXCLUSIVE,
    usage="[-h] [-g] [-u UID[:GID]] [db] dst",
)
