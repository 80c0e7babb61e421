"""The tables of the catalogue. Every row belongs to an installation: several may share one PostgreSQL database."""

from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, String, Table, Text

VERSION = 1
"""Raised with every change below. Tables of an older version are filled anew; those of a newer one, left alone."""

METADATA = MetaData()

STATE = Table(
    "btw_state",
    METADATA,
    Column("installation", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
)
"""The version, and what was swallowed of the journal."""

BACKUPS = Table(
    "btw_backups",
    METADATA,
    Column("installation", String, primary_key=True),
    Column("dst", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("stamp", String, nullable=False),
    Column("full_stamp", String, nullable=False),
    Column("keeper", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("valid", Boolean, nullable=False),
    Column("uid", Text, nullable=False, index=True),
    Column("source", Text, nullable=False),
    Column("started", Text, nullable=False),
    Column("finished", Text, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("status", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("record", Text, nullable=False),
    Column("seen", Text, nullable=False),
)
"""A row a backup: what is asked for often, and the whole record as JSON. `seen` tells whether its file is another."""

RUNS = Table(
    "btw_runs",
    METADATA,
    Column("installation", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("dst", Text, nullable=False, index=True),
    Column("started", Text, nullable=False),
    Column("finished", Text, nullable=False),
    Column("status", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("stamp", Text, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("message", Text, nullable=False),
)
"""The journal of the runs, in its order."""

DAMAGE = Table(
    "btw_damage",
    METADATA,
    Column("installation", String, primary_key=True),
    Column("chunk", Text, primary_key=True),
    Column("found", Text, nullable=False),
    Column("report", Text, nullable=False),
)
"""The bad chunks that were set aside, with what was reported of each as JSON."""
