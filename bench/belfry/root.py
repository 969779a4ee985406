"""The composition root of benchmarked workers and steps: the application with a job that does nothing."""

from __future__ import annotations

from sqlalchemy.orm import Session

from cli import create, main
from flask_belfry.execution import Limit, job


@job("bench.noop")
def noop(session: Session, n: int) -> None:
    """Does nothing: what remains is the job system."""


@job("bench.limited", limit=Limit("bench", running=8))
def limited(session: Session, n: int) -> None:
    """Does nothing, and at most eight do so at a time."""


app = create()

if __name__ == "__main__":
    main(app)
