"""JOBS_EAGER: jobs run in the caller, right after its commit, without a broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flask import Flask

from app.extensions import db
from jobs.engine import claim as claims
from jobs.engine import execution
from jobs.engine.deadlines import no_limit

WORKER_NAME = "eager"


def eager_runner(app: Flask) -> Callable[[Sequence[str]], None]:
    """A function that runs records by id, each in a session of its own, to their ends."""

    def run(ids: Sequence[str]) -> None:
        with app.app_context():
            items = claims.claim(db.session(), list(ids), WORKER_NAME)
        for item in items:
            execution.run(app, [item], no_limit)

    return run
