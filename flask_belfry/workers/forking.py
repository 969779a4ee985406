"""The worker of the heavy queue: it forks for every job, so that a crash or a leak kills one job and no worker."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import redis
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.execution import claim as claims
from flask_belfry.execution import execution
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.deadlines import alarm
from flask_belfry.outbox import JobTimeoutError
from flask_belfry.outbox.registry import definition
from flask_belfry.workers.crashes import cause_of_death, follow
from flask_belfry.workers.forks import reset_signals_in_forks
from flask_belfry.workers.pool import STOP_SIGNALS
from flask_belfry.workers.worker import CHECK_SECONDS, POLL_SECONDS, EngineWorker

log = structlog.get_logger(__name__)

# A horse gets this much longer than its job's timeout to end by itself.
LAST_RESORT_SECONDS = 60.0
# How long BLPOP looks when it is not to wait.
GLANCE_SECONDS = 0.01

# What the parent does about a horse that did not end its job by itself.
End = Callable[[Session, Claim], object]

_fork = multiprocessing.get_context("fork")


class HeavyWorker(EngineWorker):
    """Takes one job after the other; claims it, and lets a process of its own, the work horse, run it to its end.

    Only the horse's word in SQL counts. Its parent watches over it, and writes down what a horse that died could not.
    """

    kind = "heavy"

    def work(  # pyright: ignore[reportIncompatibleMethodOverride] - RQ passes its options by keyword
        self,
        burst: bool = False,
        logging_level: str | None = None,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        **rq_options: Any,
    ) -> bool:
        """Works until a signal; with `burst`, until the queues are empty.

        Args:
            burst: end when nothing is left.
            logging_level: RQ's own log level.
            max_jobs: end after so many jobs.
            max_idle_time: end after so many seconds without a job.
            rq_options: RQ's other options, which have no meaning here.

        Returns:
            whether any job was run.
        """
        self._start(logging_level)
        try:
            return self._take_until_told(burst, max_jobs, max_idle_time) > 0
        finally:
            self._sign_off()

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Kills the horse with all that it has started; RQ calls this at its command `kill-horse`."""
        if self._horse_pid:
            with suppress(ProcessLookupError):
                os.killpg(self._horse_pid, sig)

    def _take_until_told(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        taken, backoff, idle_since = 0, 1.0, time.monotonic()
        id: str | None = None
        while not self._stopping.is_set() and not (max_jobs and taken >= max_jobs):
            self._beat_when_due()
            try:
                id = id or self._pop(GLANCE_SECONDS if burst else POLL_SECONDS)
                claim = self._claim(id) if id else None
                backoff = 1.0
            except (redis.RedisError, SQLAlchemyError) as error:
                backoff = self._wait_out(error, backoff)
                continue
            if claim is not None:
                self._run(claim)
                taken += 1
            if id is not None:
                id, idle_since = None, time.monotonic()
            elif burst or (max_idle_time and time.monotonic() - idle_since > max_idle_time):
                break
        return taken

    def _pause(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0 and not self._stopping.wait(min(left, CHECK_SECONDS)):
            self._beat_when_due()

    def _pop(self, seconds: float) -> str | None:
        if self._is_suspended:
            self._pause(CHECK_SECONDS)
            return None
        self._check_broker(self.connection)
        popped: Any = self.connection.blpop(self.queue_keys(), seconds)
        # Whatever else somebody has pushed: it is to be told apart from our ids, not to stop the worker.
        return popped[1].decode(errors="replace") if popped else None

    def _claim(self, text: str) -> Claim | None:
        id = as_uuid_text(text)
        if id is None:
            log.error("queue.foreign_ids", count=1)
            return None
        with self._app.app_context():
            found = claims.claim(db.session(), [id], self.name)
        if not found:
            self._forget([id])
        return found[0] if found else None

    def _run(self, claim: Claim) -> None:
        self._held.add([claim])
        horse = _fork.Process(target=self._run_in_horse, args=(claim, os.getpid()), name=f"horse of {self.name}")
        horse.start()
        self._horse_pid = horse.pid or 0
        with suppress(ProcessLookupError, PermissionError):  # it may be quicker than we are
            os.setpgid(self._horse_pid, self._horse_pid)
        end = self._watch(horse, claim)
        self._horse_pid = 0
        if end is not None:
            self._end(claim, end)
        self._held.discard([claim])

    def _watch(self, horse: BaseProcess, claim: Claim) -> End | None:
        """Waits for the horse's end, and brings it about when it is due.

        Returns:
            what is left for the parent to write; None when the horse has written the end itself.
        """
        last_resort_at = time.monotonic() + claim.timeout_seconds + LAST_RESORT_SECONDS
        end: End | None = None
        while horse.is_alive():
            if end is None and self._must_give_back():
                end = claims.give_back_one
            elif end is None and time.monotonic() > last_resort_at:
                end = _time_out
            if end is not None:
                self.kill_horse()
            self._beat_when_due()
            horse.join(CHECK_SECONDS)
        if end is None and horse.exitcode != 0:
            reason = f"work horse {horse.pid} of {self.name} died: {cause_of_death(horse.exitcode or 0)}"
            end = partial(claims.interrupt, reason=reason)
        return end

    def _must_give_back(self) -> bool:
        asked_at = self._stop_asked_at
        return asked_at is not None and (self._hurries or time.monotonic() - asked_at > self._grace_seconds)

    def _end(self, claim: Claim, end: End) -> None:
        try:
            with self._app.app_context():
                state = end(db.session(), claim)
                db.session.commit()
        except SQLAlchemyError as error:
            # It counts as an orphan of ours until the database is back.
            log.warning("orphans.later", error=type(error).__name__)
        else:
            log.warning("job.cut_short", job=claim.name, job_id=claim.id, state=state)

    def _run_in_horse(self, claim: Claim, parent: int) -> None:
        # When its worker is killed, its job is run again elsewhere, and must not go on here.
        follow(parent, signal.SIGKILL)
        os.setpgid(0, 0)
        faulthandler.enable(sys.__stderr__.fileno() if sys.__stderr__ else 2)  # for the log
        for number in STOP_SIGNALS:
            # The parent decides, also when somebody signals all its processes.
            signal.signal(number, _leave_to_parent)
        reset_signals_in_forks()
        self._mirror(execution.run(self._app, [claim], alarm))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(os.EX_OK)  # whatever threads the job has left behind


def _leave_to_parent(signum: int, frame: object) -> None:
    """Does nothing."""


def _time_out(session: Session, claim: Claim) -> object:
    policy = definition(claim.name).policy()
    return claims.fail(session, claim, JobTimeoutError(f"took longer than its {claim.timeout_seconds} s"), policy)
