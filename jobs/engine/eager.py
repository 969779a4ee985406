"""JOBS_EAGER: jobs run in the caller, right after its commit, without a broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar

from flask import Flask

from app.extensions import db
from jobs.engine import claim as claims
from jobs.engine import execution, heartbeat
from jobs.engine.deadlines import no_limit

_waiting: ContextVar[list[str] | None] = ContextVar("eager_jobs", default=None)


def eager_runner(app: Flask) -> Callable[[Sequence[str]], None]:
    """A function that runs records by id, each in a session of its own, to their ends.

    Jobs that these ask for run after them, in the order of their commits. Delayed jobs and retries wait for a worker.
    """

    def run(ids: Sequence[str]) -> None:
        waiting = _waiting.get()
        if waiting is not None:
            waiting += ids
            return
        token = _waiting.set(waiting := list(ids))
        try:
            _drain(app, waiting)
        finally:
            _waiting.reset(token)

    return run


def _drain(app: Flask, waiting: list[str]) -> None:
    name = heartbeat.process_name("eager")
    with heartbeat.kept_alive(app, name, "eager"):
        while waiting:
            id = waiting.pop(0)
            with app.app_context():
                items = claims.claim(db.session(), [id], name)
            if items:
                execution.run(app, items, no_limit)
