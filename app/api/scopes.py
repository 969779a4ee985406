"""What a personal token may be used for. A login's token has no scopes: it may do whatever its user may.

A scope narrows what its user may do and widens nothing; the permissions are asked all the same.
"""

from __future__ import annotations

from collections.abc import Collection

READ, WRITE = "read", "write"
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# The parts of the API that personal tokens are taken in; an `ApiBlueprint` of no area takes tokens of logins only.
# Each with what its two scopes allow, as the page of the tokens says it.
AREAS = {
    "profile": ("See your profile", "See and change your profile"),
    "reservations": ("See reservations and resources", "See, create, change and cancel reservations"),
    "work_items": ("See work items and comments", "See, create, change and comment on work items"),
}
SCOPES = (READ, WRITE, *(f"{area}:{verb}" for area in AREAS for verb in (READ, WRITE)))


def verb_of(method: str) -> str:
    """What an HTTP method does: `read` or `write`."""
    return READ if method in READING_METHODS else WRITE


def is_in_scope(scopes: Collection[str], area: str | None, method: str) -> bool:
    """Whether a token with `scopes` may be used for `method` in `area`. Writing includes reading."""
    if area is None:
        return False
    enough = {WRITE, f"{area}:{WRITE}"}
    if verb_of(method) == READ:
        enough |= {READ, f"{area}:{READ}"}
    return not enough.isdisjoint(scopes)
