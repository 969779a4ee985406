"""What the table of routes is written in: who may come in, and how a route is asked for a row of another school.

A slice's routes are in its own file in tests/routes: `ROUTES`; `make_rows`, which makes a user's rows and returns
their ids by the names that the paths have for them; and `UNSCOPED`, patterns of the statements that need no school.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# An operator is a member of staff whom an admin has allowed to change jobs and mails.
EVERYBODY, USER, STAFF, OPERATOR, ADMIN = "everybody", "user", "staff", "operator", "admin"


@dataclass(frozen=True)
class Route:
    """How a route is asked for.

    Args:
        access: who may come in; others are sent away whatever they ask for.
        paths: with `{reservation}`, `{job}` … for the ids of another school's rows; several to try several filters.
        sends: the form of a page, the JSON of an endpoint; texts in braces as in paths.
        status: the answer; None: a page without a trace of the others.
    """

    access: str
    paths: tuple[str, ...] = ()
    sends: Mapping[str, Any] = field(default_factory=dict)
    status: int | None = None


def one(access: str, path: str, **sends: Any) -> Route:
    """A route to one row: another school's is not found."""
    return Route(access, (path,), sends, 404)


def many(access: str, *paths: str) -> Route:
    """A route to a list or a page of many rows."""
    return Route(access, paths)
