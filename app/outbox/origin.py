"""Who and what stands behind a change: user, request, job. Set where work enters, read where rows are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """What causes a change: the user's id (None is the system), the request's, and the id of the job that makes it."""

    user_id: int | None = None
    request_id: str | None = None
    job_id: str | None = None


SYSTEM = Origin()
_current: ContextVar[Origin] = ContextVar("origin", default=SYSTEM)


def current_origin() -> Origin:
    """The origin of what is being done now: the system, unless somebody said otherwise."""
    return _current.get()


def set_origin(origin: Origin) -> None:
    """Sets the origin for the rest of this context: called once where a request or a job begins."""
    _current.set(origin)


@contextmanager
def acting_as(origin: Origin) -> Iterator[None]:
    """Sets the origin for a block."""
    token = _current.set(origin)
    try:
        yield
    finally:
        _current.reset(token)
