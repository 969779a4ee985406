"""The worker of the heavy queue: RQ's own, which forks for every job, so that a crash or a leak kills one job only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

import redis
import structlog
from flask import current_app
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import Worker
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.extensions import db
from app.outbox import JobRecord
from jobs.engine import claim as claims
from jobs.engine import heartbeat
from jobs.engine.application import application
from jobs.engine.claim import Claim
from jobs.engine.deaths import cause_of_death, follow
from jobs.engine.errors import JobTimeoutError
from jobs.engine.pool import accept_stop_signals
from jobs.engine.registry import definition

log = structlog.get_logger(__name__)

# RQ waits for a job this much less than its TTL, so that an idle worker wakes every 3 s and beats.
RQ_MARGIN_SECONDS = 15


class HeavyWorker(Worker):
    """RQ's forking worker with signs of life in SQL, JSON, and a dead horse recorded as an interruption."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._app = application()
        seconds = max(1, int(self._app.config["HEARTBEAT_SECONDS"]))
        kwargs["serializer"] = JSONSerializer
        if len(args) < 2:  # RQ gives the name by position when it only looks a worker up
            kwargs["name"] = kwargs.get("name") or heartbeat.process_name("heavy")
        kwargs["job_monitoring_interval"] = seconds
        kwargs["worker_ttl"] = RQ_MARGIN_SECONDS + seconds
        kwargs.pop("default_worker_ttl", None)
        super().__init__(*args, **kwargs)
        self._beaten_at = 0.0

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Registers the process in SQL and in Redis."""
        with self._app.app_context():
            heartbeat.register(db.session(), self.name, "heavy", self.queue_names())
        super().bootstrap(*args, **kwargs)

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()
        accept_stop_signals()

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        """RQ calls this when idle and, through its monitoring, while a horse works."""
        # SQL first: the rescue judges by it, and Redis may be away.
        if time.monotonic() - self._beaten_at >= self._app.config["HEARTBEAT_SECONDS"]:
            self._beaten_at = time.monotonic()
            self._beat()
        super().heartbeat(*args, **kwargs)

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """RQ calls this every few seconds while a horse works: past the grace of a shutdown its job goes back."""
        try:
            super().maintain_heartbeats(job, execution)
        except redis.RedisError as error:
            log.warning("heartbeat.late", error=type(error).__name__)
        grace = timedelta(seconds=self._app.config["SHUTDOWN_GRACE_SECONDS"])
        asked_at = self._shutdown_requested_date
        if self._stop_requested and asked_at is not None and now() - asked_at > grace:
            log.warning("worker.gives_back", jobs=1)
            self._end_claims(claims.give_back_one)
            self.kill_horse()

    def main_work_horse(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Called in the horse: when its worker is killed, its job is run again elsewhere, and must not go on here."""
        assert self.pid is not None, "a worker that works knows its process id"
        follow(self.pid, signal.SIGKILL)
        super().main_work_horse(*args, **kwargs)

    def handle_work_horse_killed(self, job: Job, retpid: int | None, ret_val: int | None, rusage: Any) -> None:
        """Called in the parent when a horse died: its job was interrupted and goes back to the queue at once."""
        if ret_val is None:  # RQ itself has killed it, a minute past its timeout
            self._end_claims(_time_out)
        else:
            reason = f"work horse {retpid} of {self.name} died: {cause_of_death(os.waitstatus_to_exitcode(ret_val))}"
            self._end_claims(lambda session, claim: claims.interrupt(session, claim, reason))
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)

    def teardown(self) -> None:
        """Signs off in SQL and in Redis; the job of a horse that the second signal has killed goes back first."""
        if not self.is_horse:
            self._end_claims(claims.give_back_one)
            with self._app.app_context(), _whatever_the_database_does():
                heartbeat.sign_off(db.session(), self.name)
        super().teardown()

    def _beat(self) -> None:
        running = [execution.job_id for execution in self.executions.values()]
        with self._app.app_context():
            heartbeat.beat_or_register(self.name, "heavy", self.queue_names())
            with _whatever_the_database_does():
                heartbeat.recover_orphans(db.session(), self.name, running)

    def _end_claims(self, end: Callable[[Session, Claim], object]) -> None:
        # One job at a time: what runs under this name is the job at hand.
        with self._app.app_context(), _whatever_the_database_does():
            for claim in claims.claims_of(db.session(), JobRecord.worker == self.name):
                end(db.session(), claim)
            db.session.commit()


@contextmanager
def _whatever_the_database_does() -> Iterator[None]:
    """For ends that a later beat finds, or the rescue: RQ would end the worker over an outage."""
    try:
        yield
    except SQLAlchemyError as error:
        db.session.rollback()
        log.warning("database.away", error=type(error).__name__)


def _time_out(session: Session, claim: Claim) -> None:
    policy = definition(claim.name).policy(current_app.config)
    claims.fail(session, claim, JobTimeoutError(f"took longer than its {claim.timeout_seconds} s"), policy)
