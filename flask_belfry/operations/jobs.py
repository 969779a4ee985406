"""The job that does bulk operations."""

from __future__ import annotations

from sqlalchemy.orm import Session

from flask_belfry.execution import RetryPolicy, job
from flask_belfry.operations import bulk

# Each page commits with how far it has come, so that another attempt continues there.
_RETRY = RetryPolicy(delays_seconds=(1, 5, 30, 120, 300))


@job(bulk.RUN, retry=_RETRY, timeout_seconds=300)
def run_bulk(session: Session, operation_id: str, job_ids: list[str] | None = None) -> None:
    """Retry or cancel the jobs of a bulk operation, page by page."""
    bulk.run(operation_id, job_ids)
