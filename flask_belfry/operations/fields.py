"""The fields of jobs, batches, pauses and schedules as JSON values: those of the commands' `--json` and of the API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from flask import current_app

from flask_belfry.changes.host import current_host
from flask_belfry.operations import batches, bulk, failures, periodic, queues, services, workers
from flask_belfry.operations.custom_schedules import version_of
from flask_belfry.operations.models import BulkOperation
from flask_belfry.outbox import FINALIZED, JobBatch, JobLog, JobRecord, JobState
from flask_belfry.outbox.models import JobPause
from flask_belfry.scheduler import ScheduleEntry
from flask_belfry.scheduler.custom import CustomEntry
from flask_belfry.statistics import FailureGroup, reading


def job_fields(record: JobRecord) -> dict[str, Any]:
    """Return the fields of a job."""
    return {
        "id": record.id,
        "name": record.name,
        "queue": record.queue,
        "state": record.state.value,
        "args": services.shown_args(record),
        "attempt": record.attempt,
        "max_attempts": record.max_attempts,
        "subject": _subject(record),
        "user_id": record.user_id,
        "request_id": record.request_id,
        "created_at": _iso(record.created_at),
        "scheduled_at": _iso(record.scheduled_at),
        "enqueued_at": _iso(record.enqueued_at),
        "started_at": _iso(record.started_at),
        "finished_at": _iso(record.finished_at),
        "worker": record.worker,
        "cancel_requested": record.cancel_requested,
        "batch_id": record.batch_id,
        "after_id": record.after_id,
        "parent_id": record.parent_id,
        "blocked_by": record.blocked_by.value if record.blocked_by else None,
        "waiting_reason": services.waiting_reason(record),
        "limit_key": record.limit_key,
        "expires_at": _iso(record.expires_at),
        "progress": progress_fields(record),
        "steps": [asdict(position) for position in services.steps_of(record)],
        "snoozes": record.snoozes,
        "result": record.result,
        "error_type": record.error_type,
        "error": record.error_message,
    }


def progress_fields(record: JobRecord) -> dict[str, Any] | None:
    """Return the progress of a job; None when it has reported none."""
    if record.progress_done is None:
        return None
    return {"done": record.progress_done, "total": record.progress_total, "text": record.progress_text}


def predecessor_fields(record: JobRecord) -> dict[str, Any] | None:
    """Return the job or the batch after which a job is enqueued; without kind and name if it is not visible."""
    if record.after_id is None:
        return None
    found = services.predecessor_of(record)
    kind = None if found is None else "batch" if isinstance(found, JobBatch) else "job"
    return {"id": record.after_id, "kind": kind, "name": found.name if found else None}


def attempt_fields(attempt: services.Attempt) -> dict[str, Any]:
    """Return the fields of an attempt."""
    return {
        "number": attempt.number,
        "outcome": attempt.outcome,
        "worker": attempt.worker,
        "host": attempt.host,
        "started_at": _iso(attempt.started_at),
        "finished_at": _iso(attempt.finished_at),
        "error_type": attempt.error_type,
        "error": attempt.error_message,
    }


def failure_attempt_fields(trace: failures.Trace | None) -> dict[str, Any] | None:
    """Return the fields of the latest failed attempt of a group."""
    if trace is None:
        return None
    attempt = services.finished_attempt(trace.attempt)
    return {**attempt_fields(attempt), "traceback": attempt.traceback}


def failure_fields(groups: Sequence[FailureGroup]) -> list[dict[str, Any]]:
    """Return the fields of groups of failures."""
    counts, jobs = reading.failure_counts([group.id for group in groups]) if groups else {}, failures.jobs_of(groups)
    return [
        {
            "id": group.id,
            "state": group.state.value,
            "job": group.job_name,
            "error_type": group.error_type,
            "error": group.message,
            "frame": group.frame,
            "fingerprint": group.fingerprint,
            "school": group.school_id or None,
            "failures": group.failures,
            "failures_1h": counts[group.id].hour,
            "failures_24h": counts[group.id].day,
            "failures_7d": counts[group.id].week,
            "failed_jobs": jobs[group.id].failed,
            "waiting_jobs": jobs[group.id].waiting,
            "first_seen_at": _iso(group.first_seen_at),
            "last_seen_at": _iso(group.last_seen_at),
            "first_release": group.first_release,
            "last_release": group.last_release,
            "job_id": group.job_id,
            "changed_at": _iso(group.changed_at),
            "user_id": group.user_id,
        }
        for group in groups
    ]


def operation_fields(operation: BulkOperation) -> dict[str, Any]:
    """Return the fields of a bulk operation."""
    return {
        "id": operation.id,
        "kind": operation.kind.value,
        "state": operation.state.value,
        "query": operation.query,
        "group_id": operation.group_id,
        "canary": operation.canary,
        "per_second": operation.per_second,
        "jobs": operation.total,
        "done": operation.done,
        "changed": operation.changed,
        "failed_again": operation.failed,
        "reason": operation.reason,
        "next_page_at": _iso(operation.next_page_at),
        "school": operation.school_id,
        "user_id": operation.user_id,
        "undo_of_id": operation.undo_of_id,
        "job_id": operation.job_id,
        "created_at": _iso(operation.created_at),
        "finished_at": _iso(operation.finished_at),
    }


def operation_detail_fields(operation: BulkOperation) -> dict[str, Any]:
    """Return the fields of a bulk operation, with what has become of its jobs."""
    outcomes = bulk.outcomes_of(operation)
    return {
        **operation_fields(operation),
        "live": outcomes.live,
        "ended": outcomes.ended,
        "failed_again": outcomes.failed_again,
        "can_undo": bulk.can_undo(operation),
    }


def log_fields(log: JobLog) -> dict[str, Any]:
    """Return the log lines of one claim of a job."""
    return {
        "claim": log.claim,
        "attempt": log.attempt,
        "worker": log.worker,
        "dropped": log.dropped,
        "lines": log.lines,
    }


def batches_fields(found: Sequence[JobBatch]) -> list[dict[str, Any]]:
    """Return the fields of batches."""
    counts, paces = batches.counts_and_paces(found)
    return [_batch_fields(batch, counts[batch.id], paces.get(batch.id)) for batch in found]


def _batch_fields(batch: JobBatch, counts: Counter[JobState], pace: batches.Pace | None) -> dict[str, Any]:
    seconds_left = pace.seconds_left if pace else None
    return {
        "id": batch.id,
        "name": batch.name,
        "state": batches.state_of(batch),
        "jobs": {state.value: counts[state] for state in JobState if counts[state]},
        "total": counts.total(),
        "ended": sum(counts[state] for state in FINALIZED),
        "per_minute": round(pace.per_minute, 1) if pace else None,
        "seconds_left": None if seconds_left is None else round(seconds_left),
        "then": batch.then_job,
        "then_job_id": batch.then_job_id,
        "subject": _subject(batch),
        "user_id": batch.user_id,
        "request_id": batch.request_id,
        "created_at": _iso(batch.created_at),
        "cancelled_at": _iso(batch.cancelled_at),
        "finished_at": _iso(batch.finished_at),
    }


def pause_fields(pauses: Sequence[JobPause]) -> list[dict[str, Any]]:
    """Return the fields of pauses."""
    names = {user_id: current_host().user_name(user_id) for user_id in {pause.user_id for pause in pauses}}
    return [
        {
            "kind": pause.kind.value,
            "name": pause.name,
            "reason": pause.reason,
            "paused_by": names[pause.user_id],
            "paused_at": _iso(pause.paused_at),
            "ends_at": _iso(pause.ends_at),
        }
        for pause in pauses
    ]


def worker_fields(worker: workers.Worker) -> dict[str, Any]:
    """Return the fields of a process of the job system."""
    process = worker.process
    return {
        "name": process.name,
        "kind": process.kind,
        "host": process.host,
        "pid": process.pid,
        "state": worker.state,
        "queues": worker.queues,
        "jobs": [active_fields(job) for job in worker.jobs],
        "jobs_done": process.jobs_done,
        "memory_bytes": process.memory_bytes,
        "heartbeat_at": _iso(process.heartbeat_at),
        "started_at": _iso(process.started_at),
        "stop_requested_at": _iso(process.stop_requested_at),
        "release": process.release,
    }


def active_fields(record: JobRecord) -> dict[str, Any]:
    """Return the fields of a running job that lists of what runs have."""
    return {
        "id": record.id,
        "name": record.name,
        "queue": record.queue,
        "started_at": _iso(record.started_at),
        "worker": record.worker,
    }


def queue_fields(queue: queues.QueueState, pause: dict[str, Any] | None) -> dict[str, Any]:
    """Return the fields of a queue.

    Args:
        queue: the queue.
        pause: the fields of its pause.
    """
    drain_seconds = queue.drain_seconds
    return {
        **asdict(replace(queue, pause=None)),
        "oldest_at": _iso(queue.oldest_at),
        "sampled_at": _iso(queue.sampled_at),
        "per_minute": round(queue.per_minute, 1),
        "drain_seconds": None if drain_seconds is None else round(drain_seconds),
        "pause": pause,
    }


def schedule_fields(entry: ScheduleEntry) -> dict[str, Any]:
    """Return the fields of a periodic job, with its last and its next five run times."""
    job = periodic.periodic_job(entry)
    return {
        "name": entry.name,
        "job": entry.job,
        "args": dict(entry.job_args),
        "description": job.description,
        "expression": job.expression,
        "cron": entry.cron,
        "every_seconds": entry.every_seconds(current_app.config),
        "zone": job.zone,
        "state": "paused" if job.paused_at else "active",
        "is_custom": job.is_custom,
        "version": version_of(entry) if isinstance(entry, CustomEntry) else None,
        "owner": job.owner,
        "school": periodic.school_of(entry),
        "problem": job.problem,
        "last_run_at": _iso(job.last_tick_at),
        "last_runs": [
            {
                "at": run.at.isoformat(),
                "outcome": run.outcome.value,
                "late_seconds": round(run.late_seconds, 1),
                "job_id": run.job_id,
            }
            for run in job.last_runs
        ],
        "next_runs": [run.isoformat() for run in job.next_runs],
    }


def _subject(row: JobRecord | JobBatch) -> str | None:
    return f"{row.subject_type}/{row.subject_id}" if row.subject_type else None


def _iso(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
