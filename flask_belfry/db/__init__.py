"""The database: the base of models, the session and its scope, column types, pages of rows."""

from flask_belfry.db.base import Base, table_of
from flask_belfry.db.engine import engine_options, heartbeat_context, journal_engine
from flask_belfry.db.inserts import insert_ignoring_conflicts, insert_into
from flask_belfry.db.session import BelfrySession, commit_and_keep, commits_held, db

__all__ = [
    "Base",
    "BelfrySession",
    "commit_and_keep",
    "commits_held",
    "db",
    "engine_options",
    "heartbeat_context",
    "insert_ignoring_conflicts",
    "insert_into",
    "journal_engine",
    "table_of",
]
