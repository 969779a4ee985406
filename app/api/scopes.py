"""Scopes of personal tokens. The access token of a login has no scopes: it may do what its user may do.

A scope only restricts: the permissions of the user are checked as well.
"""

from __future__ import annotations

from collections.abc import Collection

READ, WRITE = "read", "write"
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# The areas of the API that accept personal tokens, each with the texts of its two scopes on the page of tokens. An
# `ApiBlueprint` without an area accepts access tokens of logins only.
AREAS = {
    "directory": (
        "See schools, classes, students and guardians",
        "See, create and change schools, classes, students and guardians",
    ),
    "jobs": (
        "See jobs, batches, queues and schedules",
        "See, retry, cancel, pause and schedule jobs, batches and queues",
    ),
    "mails": ("See mails and suppressed email addresses", "See mails and send them again; add and lift suppressions"),
    "notifications": ("See notifications and your inbox", "See, send, schedule and cancel notifications"),
    "profile": ("See your profile", "See and change your profile"),
    "reservations": ("See reservations and resources", "See, create, change and cancel reservations"),
    "work_items": ("See work items and comments", "See, create, change and comment on work items"),
}
SCOPES = (READ, WRITE, *(f"{area}:{verb}" for area in AREAS for verb in (READ, WRITE)))


def verb_of(method: str) -> str:
    """Return `read` or `write` for an HTTP method."""
    return READ if method in READING_METHODS else WRITE


def is_in_scope(scopes: Collection[str], area: str | None, method: str) -> bool:
    """Return whether `scopes` allow `method` in `area`. Write scopes include reading."""
    if area is None:
        return False
    enough = {WRITE, f"{area}:{WRITE}"}
    if verb_of(method) == READ:
        enough |= {READ, f"{area}:{READ}"}
    return not enough.isdisjoint(scopes)
