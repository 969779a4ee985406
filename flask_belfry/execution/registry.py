"""The job functions of this process: the `@job` decorator and what it registers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask_belfry.db.columns import text_problem
from flask_belfry.execution.retry import NO_RETRY, RetryPolicy
from flask_belfry.outbox import JOB_NAME_CHARACTERS, QUEUES, JobSpec, UnknownJobError, enqueue

# Names that an argument cannot have: `enqueue` has them for itself, and the session is no argument.
_TAKEN = frozenset(inspect.signature(enqueue).parameters) - {"args"} | {"session"}
_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
PolicyOrFactory = RetryPolicy | Callable[[Mapping[str, Any]], RetryPolicy]


@dataclass(frozen=True)
class JobDefinition:
    """One job function and how it runs. `chunk` is the most records it takes at once; None is one at a time."""

    name: str
    function: Callable[..., Any]
    queue: str
    retry: PolicyOrFactory
    timeout_seconds: int | None
    chunk: int | None
    takes: tuple[str, ...]
    is_singleton: bool
    unique_while_waiting: bool

    def policy(self, settings: Mapping[str, Any]) -> RetryPolicy:
        """The retry policy under `settings`."""
        return self.retry if isinstance(self.retry, RetryPolicy) else self.retry(settings)

    def spec(self, settings: Mapping[str, Any]) -> JobSpec:
        """What the application may know of it."""
        _, *parameters = inspect.signature(self.function).parameters.values()
        required = {p.name for p in parameters if p.default is inspect.Parameter.empty}
        return JobSpec(
            name=self.name,
            queue=self.queue,
            max_attempts=self.policy(settings).max_attempts,
            timeout_seconds=self.timeout_seconds,
            parameters=frozenset(p.name for p in parameters) | frozenset(self.takes),
            required=frozenset(required) | frozenset(self.takes),
            is_singleton=self.is_singleton,
            unique_while_waiting=self.unique_while_waiting,
            doc=inspect.getdoc(self.function) or "",
        )


_definitions: dict[str, JobDefinition] = {}


def most_at_once() -> int:
    """How many jobs one thread runs at once, at most."""
    return max((found.chunk or 1 for found in _definitions.values()), default=1)


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
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as a job.

    The function gets an open session first and its arguments by keyword; it returns small JSON or None. It does
    not commit: its changes and the record's completion commit together. With `chunk` it gets a `Chunk` alone, whose
    items carry the arguments.

    Args:
        name: stable and dotted, `<slice>.<verb>_<what>`; it is stored, so renaming orphans what waits.
        queue: "mail", "default", "bulk" (light) or "heavy".
        retry: the policy, or a function of the settings that gives it.
        timeout_seconds: how long one attempt may take; None takes JOB_TIMEOUT_SECONDS.
        chunk: the most records that one call may get.
        takes: the arguments of each record of a chunk, by name.
        is_singleton: whether at most one job of this name lives at a time; asking again gives the living one.
        unique_while_waiting: of a singleton, that at most one waits to be claimed: asking while one runs makes another.

    Raises:
        ValueError: the name, the queue or the function's parameters are not ones that a job can have.
    """
    if problem := text_problem(name, JOB_NAME_CHARACTERS):
        raise ValueError(f"the name of a job {problem}, not {name!r}")
    if queue not in QUEUES:
        raise ValueError(f"{name}: queue takes one of {', '.join(QUEUES)}, not {queue!r}")

    if unique_while_waiting and not is_singleton:
        raise ValueError(f"{name}: unique_while_waiting goes with is_singleton; others say it where they are enqueued")

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        if problem := _problem_of_function(function, chunk, takes):
            raise ValueError(f"{name}: {problem}")
        known = _definitions.get(name)
        if known is not None and known.function.__module__ != function.__module__:
            raise ValueError(f"{name} is registered by {known.function.__module__} already")
        _definitions[name] = JobDefinition(
            name, function, queue, retry, timeout_seconds, chunk, takes, is_singleton, unique_while_waiting
        )
        return function

    return register


def _problem_of_function(function: Callable[..., Any], chunk: int | None, takes: tuple[str, ...]) -> str | None:
    """Why a function cannot be a job; None when it can."""
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_kind(function) for is_kind in kinds):
        return "must be a plain function: of an async function or a generator nothing runs when it is called"
    parameters = list(inspect.signature(function).parameters.values())
    first, arguments = parameters[:1], parameters[1:]
    if not first or first[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        return "its first parameter must be the session, or with `chunk` the chunk"
    if chunk and arguments:
        return "with `chunk` the chunk must be its only parameter: name the arguments in `takes`"
    if takes and not chunk:
        return "`takes` goes with `chunk`: else the parameters are the arguments"
    if unnamed := [str(argument) for argument in arguments if argument.kind not in _BY_KEYWORD]:
        return f"arguments are passed by keyword, each by its name: not as {unnamed[0]}"
    if taken := sorted(_TAKEN.intersection({argument.name for argument in arguments} | set(takes))):
        return f"an argument cannot be called {taken[0]!r}; these are taken: {', '.join(sorted(_TAKEN))}"
    return None


def definition(name: str) -> JobDefinition:
    """The job function registered under `name`, or UnknownJobError."""
    try:
        return _definitions[name]
    except KeyError:
        raise UnknownJobError(name) from None


def definitions() -> list[JobDefinition]:
    """All registered job functions."""
    return list(_definitions.values())


def forget(name: str) -> None:
    """Takes a job function out again, as a deploy without it would."""
    _definitions.pop(name, None)
