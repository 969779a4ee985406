"""Reads a DATABASE_URL: SQLAlchemy's URL, and options that its driver accepts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SAWarning

SCHEMES = ("sqlite", "postgres", "postgresql", "postgresql+psycopg")


def sqlalchemy_url(url: str) -> str:
    """Return the URL with the driver that is installed: hosts hand out `postgres://` and `postgresql://`."""
    scheme, separator, rest = url.partition("://")
    driver = "postgresql+psycopg" if scheme in ("postgres", "postgresql") else scheme
    return f"{driver}{separator}{rest}"


def check_database_url(text: str) -> None:
    """Check a URL with its options, without connecting.

    Raises:
        ValueError: it names no file or server, or has a port or an option that is invalid.
    """
    if text.partition("://")[0] not in SCHEMES or text.removeprefix("sqlite://").strip("/") in ("", ":memory:"):
        raise ValueError(text)  # in memory, each connection would have a database of its own
    try:
        url = sa.make_url(sqlalchemy_url(text))
        with warnings.catch_warnings():
            warnings.simplefilter("error", SAWarning)  # of an option that would be ignored
            _, options = url.get_dialect()().create_connect_args(url)
        if url.get_backend_name() == "postgresql":
            _check_conninfo(options)
    except (ArgumentError, SAWarning) as error:
        raise ValueError(text) from error


def _check_conninfo(options: Mapping[str, Any]) -> None:
    """Check the options of a connection to PostgreSQL. Raise ValueError."""
    # Imported here: with SQLite, each process would hold 6 MB for it.
    from psycopg.conninfo import make_conninfo
    from psycopg.errors import ProgrammingError

    try:
        make_conninfo(**options)
    except ProgrammingError as error:
        raise ValueError(str(error)) from error
