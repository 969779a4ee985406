"""The actor of a change: user, school, request and job. Set where work enters, read where rows are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from flask_belfry.changes.errors import ActorError
from flask_belfry.db.columns import as_uuid_text, text_problem

SUBJECT_TYPE_CHARACTERS = 60
SUBJECT_ID_CHARACTERS = 40
REQUEST_ID_CHARACTERS = 64
IP_ADDRESS_CHARACTERS = 64


class Subject(NamedTuple):
    """The row that a change, job or mail is about: its model's short name, and its id with the type of its key."""

    type: str
    id: Any


@dataclass(frozen=True)
class Actor:
    """What causes a change.

    Args:
        user_id: the user; None is the system.
        request_id: the id of the HTTP request that caused it.
        job_id: the job that makes it.
        school_id: the school of the user or of the job; None for the system.
        ip_address: the IP address of the request.
        user_agent: the User-Agent header of the request.
    """

    user_id: int | None = None
    request_id: str | None = None
    job_id: str | None = None
    school_id: int | None = None
    ip_address: str | None = None
    user_agent: str | None = None

    def __post_init__(self) -> None:
        """Raise ActorError for a text that cannot be recorded."""
        limits = {"request_id": REQUEST_ID_CHARACTERS, "ip_address": IP_ADDRESS_CHARACTERS}
        for name, characters in limits.items():
            value = getattr(self, name)
            if value is not None and (problem := text_problem(value, characters)):
                raise ActorError(f"{name} {problem}", {name: [problem]})


SYSTEM = Actor()
_current: ContextVar[Actor] = ContextVar("origin", default=SYSTEM)
_schools: ContextVar[Mapping[tuple[str, str], int | None]] = ContextVar("schools_of_subjects")


def current_actor() -> Actor:
    """Return the current actor: the system, unless another one was set."""
    return _current.get()


def set_actor(actor: Actor) -> None:
    """Set the actor for the rest of this context: called once where a request or a job begins."""
    _current.set(actor)


@contextmanager
def use_actor(actor: Actor) -> Iterator[None]:
    """Set the actor for a block."""
    token = _current.set(actor)
    try:
        yield
    finally:
        _current.reset(token)


def for_school(school_id: int | None) -> AbstractContextManager[None]:
    """Set the school of the current actor for a block: an admin may act for another school than their own."""
    return use_actor(replace(current_actor(), school_id=school_id))


@contextmanager
def about(schools: Mapping[Subject, int | None]) -> Iterator[None]:
    """Set the schools of the rows that a block writes about: called around hooks."""
    token = _schools.set({_key(subject): school_id for subject, school_id in schools.items()})
    try:
        yield
    finally:
        _schools.reset(token)


def school_of(subject: Subject | None) -> int | None:
    """Return the school of a change, job or mail about `subject`: in a hook that of the subject's row, since one
    statement may change rows of many schools; otherwise that of the current actor."""
    schools = _schools.get({})
    if subject is None or _key(subject) not in schools:
        return current_actor().school_id
    return schools[_key(subject)]


def _key(subject: Subject) -> tuple[str, str]:
    # A subject that was read from a record has its id as text.
    return subject.type, str(subject.id)


def reference_problems(subject: Subject | None, change_id: str | None) -> dict[str, list[str]]:
    """Return why the subject or the change of a job or mail cannot be recorded, by field."""
    problems: dict[str, list[str]] = {}
    if subject is not None:
        limits = {"type": SUBJECT_TYPE_CHARACTERS, "id": SUBJECT_ID_CHARACTERS}
        found = {name: text_problem(str(getattr(subject, name)), characters) for name, characters in limits.items()}
        problems |= {f"subject.{name}": [problem] for name, problem in found.items() if problem}
    if change_id is not None and as_uuid_text(change_id) is None:
        problems["change_id"] = ["must be a UUID, as a Change has"]
    return problems
