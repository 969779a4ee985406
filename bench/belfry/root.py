"""The composition root of benchmarked processes: the application with a job that does nothing."""

from __future__ import annotations

from sqlalchemy.orm import Session

import jobs
from app import create_app
from flask_belfry.execution import job


@job("bench.noop")
def noop(session: Session, n: int) -> None:
    """Does nothing: what remains is the job system."""


app = create_app()
jobs.init_app(app)
