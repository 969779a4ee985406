"""Who and what stands behind a change: user, school, request, job. Set where work enters, read where rows are
written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import NamedTuple

from flask_belfry.changes.errors import ActorError
from flask_belfry.db.columns import as_uuid_text, text_problem

SUBJECT_TYPE_CHARACTERS = 60
SUBJECT_ID_CHARACTERS = 40
REQUEST_ID_CHARACTERS = 64
ADDRESS_CHARACTERS = 64


class Subject(NamedTuple):
    """The row that a job is about: the model's short name and the row's id."""

    type: str
    id: str


@dataclass(frozen=True)
class Actor:
    """What causes a change.

    Args:
        user_id: who; None is the system.
        request_id: the request that it began with.
        job_id: the job that makes it.
        school_id: the school of the acting user, or of the job; None is the system's own.
        address: the network address that the request came from.
        user_agent: what the request's browser or program calls itself.
    """

    user_id: int | None = None
    request_id: str | None = None
    job_id: str | None = None
    school_id: int | None = None
    address: str | None = None
    user_agent: str | None = None

    def __post_init__(self) -> None:
        """Raise ActorError for a text that cannot be recorded."""
        limits = {"request_id": REQUEST_ID_CHARACTERS, "address": ADDRESS_CHARACTERS}
        for name, characters in limits.items():
            value = getattr(self, name)
            if value is not None and (problem := text_problem(value, characters)):
                raise ActorError(f"{name} {problem}", {name: [problem]})


SYSTEM = Actor()
_current: ContextVar[Actor] = ContextVar("origin", default=SYSTEM)
_schools: ContextVar[Mapping[Subject, int | None]] = ContextVar("schools_of_subjects")


def current_actor() -> Actor:
    """The origin of what is being done now: the system, unless somebody said otherwise."""
    return _current.get()


def set_actor(actor: Actor) -> None:
    """Sets the origin for the rest of this context: called once where a request or a job begins."""
    _current.set(actor)


@contextmanager
def use_actor(actor: Actor) -> Iterator[None]:
    """Sets the origin for a block."""
    token = _current.set(actor)
    try:
        yield
    finally:
        _current.reset(token)


def for_school(school_id: int | None) -> AbstractContextManager[None]:
    """The present origin, for a block that acts on behalf of a school: an admin's own may be another."""
    return use_actor(replace(current_actor(), school_id=school_id))


@contextmanager
def about(schools: Mapping[Subject, int | None]) -> Iterator[None]:
    """Tells the schools of the rows that a block writes about: called around hooks."""
    token = _schools.set(schools)
    try:
        yield
    finally:
        _schools.reset(token)


def school_of(subject: Subject | None) -> int | None:
    """The school that a change, job or mail about `subject` belongs to: its row's own, where a hook is told of it, for
    one statement may change rows of many schools; else that of who asks."""
    known = _schools.get({})
    return known[subject] if subject is not None and subject in known else current_actor().school_id


def reference_problems(subject: Subject | None, change_id: str | None) -> dict[str, list[str]]:
    """What of a job's or mail's subject and change cannot be recorded, by field."""
    problems: dict[str, list[str]] = {}
    if subject is not None:
        limits = {"type": SUBJECT_TYPE_CHARACTERS, "id": SUBJECT_ID_CHARACTERS}
        found = {name: text_problem(str(getattr(subject, name)), characters) for name, characters in limits.items()}
        problems |= {f"subject.{name}": [problem] for name, problem in found.items() if problem}
    if change_id is not None and as_uuid_text(change_id) is None:
        problems["change_id"] = ["must be a UUID, as a Change has"]
    return problems
