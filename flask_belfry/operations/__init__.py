"""Operations: the pages, the API and the commands of jobs, batches, queues and the schedule, and the health checks."""

from __future__ import annotations

from flask import Flask

from flask_belfry.core.commands import add_lazy_command
from flask_belfry.core.presentation import register_subject
from flask_belfry.operations import failure_emails, jobs
from flask_belfry.operations.batches import job_counts
from flask_belfry.operations.bulk import prune_operations
from flask_belfry.operations.models import BulkKind, BulkOperation, BulkOperationJob, BulkState
from flask_belfry.operations.services import counts_by_state, latest_failures
from flask_belfry.operations.webhooks import deliver_webhook

__all__ = [
    "BulkKind",
    "BulkOperation",
    "BulkOperationJob",
    "BulkState",
    "counts_by_state",
    "deliver_webhook",
    "failure_emails",
    "init_app",
    "job_counts",
    "jobs",
    "latest_failures",
    "prune_operations",
]


def init_app(app: Flask) -> None:
    """Register the commands. `flask_belfry.operations.web` registers the pages and the health checks."""
    register_subject(app, "batch", "batches.detail", "batch_id")
    register_subject(app, "bulk_operation", "bulk.detail", "operation_id")
    register_subject(app, "failure_group", "failures.detail", "group_id")
    register_subject(app, "job", "operations.job", "job_id")
    register_subject(app, "schedule", "schedule.list_", "name")
    add_lazy_command(app, "batches", "flask_belfry.operations.batches_cli:batches")
    add_lazy_command(app, "failures", "flask_belfry.operations.failures_cli:failures")
    add_lazy_command(app, "jobs", "flask_belfry.operations.jobs_cli:jobs")
    add_lazy_command(app, "doctor", "flask_belfry.operations.doctor:doctor_command")
    add_lazy_command(app, "queues", "flask_belfry.operations.queues_cli:queues")
    add_lazy_command(app, "schedule", "flask_belfry.operations.schedule_cli:schedule")
