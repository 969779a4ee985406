"""The worker of the heavy queue: RQ's own, which forks for every job, so that a crash or a leak kills one job only."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import structlog
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import Worker
from sqlalchemy.exc import SQLAlchemyError

from app.extensions import db
from app.outbox import JobRecord
from jobs.engine import claim as claims
from jobs.engine import heartbeat
from jobs.engine.application import application

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

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        """RQ calls this when idle and, through its monitoring, while a horse works."""
        super().heartbeat(*args, **kwargs)
        if time.monotonic() - self._beaten_at >= self._app.config["HEARTBEAT_SECONDS"]:
            self._beaten_at = time.monotonic()
            self._beat()

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        """Called in the parent when a horse died: its job was interrupted and goes back to the queue at once."""
        name = signal.Signals(os.WTERMSIG(ret_val)).name if os.WIFSIGNALED(ret_val) else f"exit {ret_val}"
        with self._app.app_context():
            held = claims.claims_of(db.session(), JobRecord.id == job.id, JobRecord.worker == self.name)
            for claim in held:
                claims.interrupt(db.session(), claim, f"work horse {retpid} of {self.name} died: {name}")
            db.session.commit()
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)

    def teardown(self) -> None:
        """Signs off in SQL and in Redis."""
        if not self.is_horse:
            with self._app.app_context():
                heartbeat.sign_off(db.session(), self.name)
        super().teardown()

    def _beat(self) -> None:
        try:
            with self._app.app_context():
                if not heartbeat.beat(db.session(), self.name):
                    heartbeat.register(db.session(), self.name, "heavy", self.queue_names())
        except SQLAlchemyError as error:
            log.warning("heartbeat.late", error=type(error).__name__)
