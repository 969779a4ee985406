"""What the application knows of a job without importing it: its name, queue, limits and parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from flask import Flask, current_app

from flask_belfry.outbox.errors import DuplicateSpecError, UnknownJobError

QUEUES = ("mail", "default", "bulk", "heavy")
LIGHT_QUEUES = QUEUES[:3]
HEAVY_QUEUES = QUEUES[3:]


@dataclass(frozen=True)
class JobSpec:
    """A registered job, as plain data.

    Args:
        name: stable and dotted, `<slice>.<verb>_<what>`.
        queue: one of `QUEUES`.
        max_attempts: how often it may run, the first time included.
        timeout_seconds: how long one attempt may take; None takes JOB_TIMEOUT_SECONDS.
        parameters: the names that its function accepts.
        required: those of them without a default.
        is_singleton: at most one job of this name lives at a time, whoever asks.
        unique_while_waiting: of a singleton: at most one that has not been claimed yet.
    """

    name: str
    queue: str = "default"
    max_attempts: int = 1
    timeout_seconds: int | None = None
    parameters: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    is_singleton: bool = False
    unique_while_waiting: bool = False
    doc: str = ""


@dataclass
class JobCatalogue:
    """The specifications of one application, by name."""

    _specs: dict[str, JobSpec] = field(default_factory=dict)

    def add(self, specs: Iterable[JobSpec]) -> None:
        """Takes up `specs`; a name that is taken raises DuplicateSpecError."""
        for spec in specs:
            if spec.name in self._specs:
                raise DuplicateSpecError(spec.name)
            self._specs[spec.name] = spec

    def get(self, name: str) -> JobSpec:
        """The specification of `name`, or UnknownJobError."""
        try:
            return self._specs[name]
        except KeyError:
            raise UnknownJobError(name) from None

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __iter__(self) -> Iterator[JobSpec]:
        return iter(sorted(self._specs.values(), key=lambda spec: spec.name))


def catalogue(app: Flask | None = None) -> JobCatalogue:
    """The catalogue of `app` (the current one by default)."""
    return (app or current_app).extensions["outbox"].catalogue
