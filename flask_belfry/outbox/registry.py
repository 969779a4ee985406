"""The registry of jobs: `@job` declares a job function, and the definition that it returns enqueues it.

There is one registry in a process. A process that enqueues a job by its name must have imported the module that
declares it, even where it never runs it: the composition root does that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.changes.actor import Subject, current_actor, school_of
from flask_belfry.changes.sessions import current_session
from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.columns import as_uuid_text, new_id, text_problem
from flask_belfry.db.inserts import insert_ignoring_conflicts
from flask_belfry.outbox import unique_periods
from flask_belfry.outbox.errors import JobArgumentError, UnknownJobError
from flask_belfry.outbox.finalizing import settle_successors
from flask_belfry.outbox.joining import open_batch
from flask_belfry.outbox.limit import Limit
from flask_belfry.outbox.models import JOB_NAME_CHARACTERS, LIMIT_KEY_CHARACTERS, JobRecord
from flask_belfry.outbox.pending import PendingMessage, publish_on_commit
from flask_belfry.outbox.requests import JobRequest, due_after, problems_of_options, problems_of_values
from flask_belfry.outbox.retry_policy import NO_RETRY, RetryPolicy
from flask_belfry.outbox.states import JobState
from flask_belfry.outbox.successors import make_successors
from flask_belfry.outbox.unique_periods import Period

QUEUES = ("mail", "default", "bulk", "heavy")
LIGHT_QUEUES = QUEUES[:3]
HEAVY_QUEUES = QUEUES[3:]

_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
# Built once: enqueuing a job runs it.
_INSERT = sa.insert(table_of(JobRecord))
PolicyOrFactory = RetryPolicy | Callable[[Mapping[str, Any]], RetryPolicy]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class JobDefinition(Generic[P, R]):
    """A job function, its options, and the methods that enqueue it. Calling it calls the function.

    Args:
        name: stable and dotted, `<slice>.<verb>_<what>`.
        function: what a worker runs.
        queue: one of `QUEUES`.
        retry: the retry policy, or a function of the settings that returns it.
        timeout_seconds: the time limit of one attempt; None is JOB_TIMEOUT_SECONDS.
        chunk: the most records that one call gets; None is one at a time, by its arguments.
        takes: the arguments of each record of a chunk, by name.
        is_singleton: whether at most one job of this name is live.
        unique_while_waiting: of a singleton: whether at most one has not been claimed yet.
        limit: how many of its jobs run at the same time, or start in a minute; None is any number.
        secrets: the names of arguments whose values are masked where its arguments are shown, and in its log lines,
            error messages and tracebacks.
    """

    name: str
    function: Callable[..., R]
    queue: str = "default"
    retry: PolicyOrFactory = NO_RETRY
    timeout_seconds: int | None = None
    chunk: int | None = None
    takes: tuple[str, ...] = ()
    is_singleton: bool = False
    unique_while_waiting: bool = False
    limit: Limit | None = None
    secrets: tuple[str, ...] = ()

    def __call__(self, session: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, with a session or a chunk first."""
        return self.function(session, *args, **kwargs)

    @property
    def doc(self) -> str:
        """The function's docstring."""
        return inspect.getdoc(self.function) or ""

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of the arguments, in the function's order."""
        _, *arguments = inspect.signature(self.function).parameters
        return (*arguments, *self.takes)

    @cached_property
    def required(self) -> frozenset[str]:
        """The names of the arguments that have no default."""
        _, *arguments = inspect.signature(self.function).parameters.values()
        return frozenset([each.name for each in arguments if each.default is inspect.Parameter.empty]).union(self.takes)

    def policy(self) -> RetryPolicy:
        """Return the retry policy; one that depends on the settings is made once per application."""
        if isinstance(self.retry, RetryPolicy):
            return self.retry
        policies: dict[Any, RetryPolicy] = current_app.extensions["outbox"].policies
        if self.retry not in policies:
            policies[self.retry] = self.retry(current_app.config)
        return policies[self.retry]

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Write a job record in the current session's transaction: the job exists iff that commits.

        Returns:
            the record's id, which is the RQ job's id too.

        Raises:
            JobArgumentError: the arguments do not fit the function, or are not ids and scalars.
        """
        return self.with_options().enqueue(*args, **kwargs)

    def request(self, *args: P.args, **kwargs: P.kwargs) -> JobRequest:
        """Return a request for `enqueue_many`."""
        return self.with_options().request(*args, **kwargs)

    def with_options(
        self,
        *,
        unique_key: str | None = None,
        unique_while_waiting: bool = False,
        scheduled_at: datetime | None = None,
        delay: timedelta | float | None = None,
        subject: Subject | None = None,
        change_id: str | None = None,
        unique_for: timedelta | None = None,
        queue: str | None = None,
        expires_at: datetime | None = None,
        after: str | None = None,
        with_result: str | None = None,
    ) -> Enqueuer[P]:
        """Return an object whose `enqueue` and `request` use these options, which `enqueue` by name describes."""
        if scheduled_at is not None and delay is not None:
            raise JobArgumentError("give scheduled_at or delay, not both")
        due = scheduled_at if delay is None else due_after(delay)
        options = JobRequest(
            unique_key=unique_key,
            unique_while_waiting=unique_while_waiting,
            scheduled_at=due,
            subject=subject,
            change_id=change_id,
            unique_for=unique_for,
            queue=queue,
            expires_at=expires_at,
            after=after,
            with_result=with_result,
        )
        return Enqueuer(self, options)

    def enqueue_many(self, requests: Iterable[JobRequest], *, session: Session | None = None) -> list[str]:
        """Write many records with one insert.

        Args:
            requests: one for each record.
            session: the session whose transaction writes them (`current_session` by default).

        Returns:
            the ids, in the order of `requests`; where another job held the unique key, that job's id.

        Raises:
            JobArgumentError: a request is invalid.
        """
        requests = [self._with_singleton_key(request) for request in requests]
        for request in requests:
            self.check(request)
        session, rows = session or current_session(), [self._row(request) for request in requests]
        periods: dict[str, Period] = {}
        for request, row in zip(requests, rows, strict=True):
            if request.unique_key and request.unique_for:
                periods.setdefault(request.unique_key, Period(row["id"], row["created_at"] + request.unique_for))
        return _insert_for_periods(session, rows, periods) if periods else _insert(session, rows)

    def _with_singleton_key(self, request: JobRequest) -> JobRequest:
        if not self.is_singleton:
            return request
        if request.unique_key:
            message = f"{self.name} is a singleton, which has its own unique key"
            raise JobArgumentError(message, {"unique_key": ["must be absent"]})
        return replace(request, unique_key=f"job/{self.name}", unique_while_waiting=self.unique_while_waiting)

    def check(self, request: JobRequest) -> None:
        """Raise JobArgumentError when the arguments or the options of a request are invalid."""
        problems = {name: [f"is not an argument of {self.name}"] for name in request.args.keys() - {*self.parameters}}
        given = request.args.keys() | {request.with_result}
        problems |= {name: [f"is required by {self.name}"] for name in self.required - given}
        if request.with_result is not None and request.with_result not in self.parameters:
            problems["with_result"] = [f"must name an argument of {self.name}"]
        if request.queue is not None and request.queue not in QUEUES:
            problems["queue"] = [f"must be one of {', '.join(QUEUES)}"]
        problems = dict(sorted(problems.items())) | problems_of_values(request.args) | problems_of_options(request)
        if problems:
            listed = "; ".join(f"{name}: {', '.join(messages)}" for name, messages in problems.items())
            raise JobArgumentError(f"{self.name}: {listed}", problems)

    def _row(self, request: JobRequest) -> dict[str, Any]:
        actor = current_actor()
        now = utc_now()
        is_later = request.scheduled_at is not None and request.scheduled_at > now
        return {
            "id": as_uuid_text(request.id) or new_id(),
            "name": self.name,
            "queue": request.queue or self.queue,
            "state": JobState.SCHEDULED if is_later else JobState.PENDING,
            "args": dict(request.args),
            "unique_key": request.unique_key,
            "unique_while_waiting": request.unique_while_waiting,
            "max_attempts": self.policy().max_attempts,
            "timeout_seconds": self.timeout_seconds or current_app.config["JOB_TIMEOUT_SECONDS"],
            "subject_type": request.subject.type if request.subject else None,
            "subject_id": request.subject.id if request.subject else None,
            "change_id": as_uuid_text(request.change_id),
            "user_id": actor.user_id,
            "school_id": school_of(request.subject),
            "request_id": actor.request_id,
            "parent_id": actor.job_id,
            "created_at": now,
            "scheduled_at": request.scheduled_at if is_later else None,
            "expires_at": request.expires_at,
            "limit_key": self._limit_key(request.args),
            "after_id": as_uuid_text(request.after),
            "result_as": request.with_result,
        }

    def _limit_key(self, args: Mapping[str, Any]) -> str | None:
        if self.limit is None:
            return None
        key = self.limit.key_of(args)
        if problem := text_problem(key, LIMIT_KEY_CHARACTERS):
            raise JobArgumentError(f"{self.name}: the key of its limit {problem}, not {key!r}", {"limit": [problem]})
        return key


@dataclass(frozen=True)
class Enqueuer(Generic[P]):
    """A job with the options of its records, made by `JobDefinition.with_options`."""

    definition: JobDefinition[P, Any]
    options: JobRequest

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Write a job record, as `JobDefinition.enqueue` does."""
        return self.definition.enqueue_many([self.request(*args, **kwargs)])[0]

    def request(self, *args: P.args, **kwargs: P.kwargs) -> JobRequest:
        """Return a request for `JobDefinition.enqueue_many`."""
        names = self.definition.parameters[: len(args)]
        if len(names) < len(args) or not kwargs.keys().isdisjoint(names):
            raise JobArgumentError(f"{self.definition.name}: too many arguments, or the same one twice")
        return replace(self.options, args=dict(zip(names, args, strict=True)) | kwargs)


def _insert_for_periods(session: Session, rows: list[dict[str, Any]], periods: Mapping[str, Period]) -> list[str]:
    """Insert the rows whose key is not taken for a period, and return the ids of all jobs."""
    taken = unique_periods.take(session, periods)
    free = [row for row in rows if row["unique_key"] not in taken]
    ids = dict(zip((row["id"] for row in free), _insert(session, free), strict=True))
    # A live job may hold a key without a period, or beyond its own: no period begins then.
    unique_periods.release(session, [key for key, (id, _) in periods.items() if key not in taken and ids[id] != id])
    return [taken[row["unique_key"]] if row["unique_key"] in taken else ids[row["id"]] for row in rows]


def _insert(session: Session, rows: list[dict[str, Any]]) -> list[str]:
    """Insert the rows of job records, and return the ids of their jobs."""
    if not rows:
        return []
    if (opened := open_batch(session)) is not None:
        opened.lock(session)
        for row in rows:
            row["batch_id"] = opened.id
    ended = make_successors(session, rows)
    ids = _insert_unless_unique_key_is_held(session, rows)
    if ended:
        settle_successors(session, ended)
    return ids


def _insert_unless_unique_key_is_held(session: Session, rows: list[dict[str, Any]]) -> list[str]:
    if not any(row["unique_key"] for row in rows):
        session.connection().execute(_INSERT, rows)
        _publish(session, rows)
        return [row["id"] for row in rows]
    inserted = insert_ignoring_conflicts(session, JobRecord, rows)
    _publish(session, [row for row in rows if row["id"] in inserted])
    return [row["id"] if row["id"] in inserted else _holder_or_inserted(session, row) for row in rows]


def _holder_or_inserted(session: Session, row: Mapping[str, Any]) -> str:
    """Return the job that holds the key of `row`. When that job has released the key since the insert failed, insert
    `row`."""
    query = sa.select(JobRecord.id).where(JobRecord.holds_key(row["unique_key"]))
    if row["unique_while_waiting"]:
        # No worker may claim it before this transaction has ended: the job would read its data too early. (SQLite has
        # one writer.)
        query = query.with_for_update(read=True)
    while (holder := session.connection().execute(query).scalar_one_or_none()) is None:
        if insert_ignoring_conflicts(session, JobRecord, [row]):
            _publish(session, [row])
            return row["id"]
    return holder


def _publish(session: Session, rows: Iterable[Mapping[str, Any]]) -> None:
    columns = ("id", "name", "queue", "timeout_seconds", "scheduled_at")
    ready = [row for row in rows if row["state"] is not JobState.BLOCKED]
    publish_on_commit(session, [PendingMessage(*(row[column] for column in columns)) for row in ready])


_definitions: dict[str, JobDefinition[..., Any]] = {}
# Names that an argument cannot have: they are options of `enqueue`, or the job function's first parameter.
_RESERVED = frozenset(inspect.signature(JobDefinition.with_options).parameters) | {"name", "session"}


@overload
def job(
    name: str,
    *,
    queue: str = "default",
    retry: PolicyOrFactory = NO_RETRY,
    timeout_seconds: int | None = None,
    is_singleton: bool = False,
    unique_while_waiting: bool = False,
    limit: Limit | None = None,
    secrets: tuple[str, ...] = (),
) -> Callable[[Callable[Concatenate[Any, P], R]], JobDefinition[P, R]]: ...


@overload
def job(
    name: str,
    *,
    queue: str = "default",
    retry: PolicyOrFactory = NO_RETRY,
    timeout_seconds: int | None = None,
    chunk: int,
    takes: tuple[str, ...] = (),
    is_singleton: bool = False,
    unique_while_waiting: bool = False,
    limit: Limit | None = None,
    secrets: tuple[str, ...] = (),
) -> Callable[[Callable[[Any], R]], JobDefinition[..., R]]: ...


def job(
    name: str,
    *,
    queue: str = "default",
    retry: PolicyOrFactory = NO_RETRY,
    timeout_seconds: int | None = None,
    chunk: int | None = None,
    takes: tuple[str, ...] = (),
    is_singleton: bool = False,
    unique_while_waiting: bool = False,
    limit: Limit | None = None,
    secrets: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], JobDefinition[..., Any]]:
    """Register a function as a job. Returns a decorator, which returns the function's `JobDefinition`.

    The function gets an open session first and its arguments by keyword; it returns small JSON or None. It does
    not commit: its changes and the record's completion commit together. With `chunk` it gets a `Chunk` alone, whose
    items carry the arguments; their names and types are then known at run time only.

    Args:
        name: stable and dotted, `<slice>.<verb>_<what>`; it is stored, so a renamed job leaves its waiting records
            without a function.
        queue, retry, timeout_seconds, chunk, takes, is_singleton, unique_while_waiting, limit, secrets: see
            `JobDefinition`.

    Raises:
        ValueError: the name, the queue or the function's parameters are not ones that a job can have.
    """
    if problem := text_problem(name, JOB_NAME_CHARACTERS):
        raise ValueError(f"the name of a job {problem}, not {name!r}")

    def register(function: Callable[..., Any]) -> JobDefinition[..., Any]:
        found = JobDefinition(
            name,
            function,
            queue,
            retry,
            timeout_seconds,
            chunk,
            takes,
            is_singleton,
            unique_while_waiting,
            limit,
            secrets,
        )
        if problem := _problem_of_options(found) or _problem_of_function(found) or _problem_of_secrets(found):
            raise ValueError(f"{name}: {problem}")
        known = _definitions.get(name)
        if known is not None and known.function.__module__ != function.__module__:
            raise ValueError(f"{name} is registered by {known.function.__module__} already")
        _definitions[name] = found
        return found

    return register


def _problem_of_options(found: JobDefinition[..., Any]) -> str | None:
    if found.queue not in QUEUES:
        return f"queue must be one of {', '.join(QUEUES)}, not {found.queue!r}"
    if found.unique_while_waiting and not found.is_singleton:
        return "unique_while_waiting must come with is_singleton; other jobs are given it where they are enqueued"
    if found.takes and not found.chunk:
        return "`takes` must come with `chunk`: without it, the parameters are the arguments"
    return None


def _problem_of_function(found: JobDefinition[..., Any]) -> str | None:
    """Return why a function cannot be a job; None when it can."""
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_kind(found.function) for is_kind in kinds):
        return "must be a plain function: calling an async function or a generator runs nothing"
    parameters = list(inspect.signature(found.function).parameters.values())
    first, arguments = parameters[:1], parameters[1:]
    if not first or first[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        return "its first parameter must be the session, or with `chunk` the chunk"
    if found.chunk and arguments:
        return "with `chunk` the chunk must be its only parameter: name the arguments in `takes`"
    if unnamed := [str(argument) for argument in arguments if argument.kind not in _BY_KEYWORD]:
        return f"each argument must be one that is passed by keyword, not {unnamed[0]}"
    if reserved := sorted(_RESERVED.intersection(found.parameters)):
        return f"an argument cannot be called {reserved[0]!r}; reserved: {', '.join(sorted(_RESERVED))}"
    return None


def _problem_of_secrets(found: JobDefinition[..., Any]) -> str | None:
    if unknown := sorted(set(found.secrets).difference(found.parameters)):
        return f"secrets must name arguments of the job, not {unknown[0]!r}"
    return None


def definition(name: str) -> JobDefinition[..., Any]:
    """Return the job registered under `name`. Raises UnknownJobError."""
    try:
        return _definitions[name]
    except KeyError:
        raise UnknownJobError(name) from None


def definitions() -> list[JobDefinition[..., Any]]:
    """Return all registered jobs, by name."""
    return sorted(_definitions.values(), key=lambda found: found.name)


def max_chunk() -> int:
    """Return the most jobs that one thread runs in one call."""
    return max((found.chunk or 1 for found in _definitions.values()), default=1)


def forget(name: str) -> None:
    """Remove a job function, as a deployment without it would."""
    _definitions.pop(name, None)
