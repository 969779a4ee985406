"""JOBS_EAGER: jobs run in the caller, right after its commit, without a broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flask import Flask

from app.extensions import db
from jobs.engine import claim as claims
from jobs.engine import execution, heartbeat
from jobs.engine.deadlines import no_limit


def eager_runner(app: Flask) -> Callable[[Sequence[str]], None]:
    """A function that runs records by id, each in a session of its own, to their ends."""

    def run(ids: Sequence[str]) -> None:
        name = heartbeat.process_name("eager")
        with heartbeat.kept_alive(app, name, "eager"):
            for id in ids:
                with app.app_context():
                    items = claims.claim(db.session(), [id], name)
                if items:
                    execution.run(app, items, no_limit)

    return run
