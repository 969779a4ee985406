"""The forking worker: it forks a process for every job, so that a crash or a leak ends one job and no worker."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from flask_belfry.core import sentry
from flask_belfry.db import db
from flask_belfry.execution import attempts, executor
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.journal import journal
from flask_belfry.execution.time_limits import alarm
from flask_belfry.outbox import JobTimeoutError
from flask_belfry.outbox.registry import definition
from flask_belfry.workers.crashes import describe_exit, follow
from flask_belfry.workers.forks import reset_signals_in_forks
from flask_belfry.workers.pool import STOP_SIGNALS
from flask_belfry.workers.registration import CHECK_SECONDS
from flask_belfry.workers.worker import EngineWorker

log = structlog.get_logger(__name__)

# A work horse gets this much longer than its job's time limit to end by itself.
LAST_RESORT_SECONDS = 60.0

# What the parent writes for a work horse that did not finish its job.
Verdict = Callable[[Session, Claim], object]

_fork = multiprocessing.get_context("fork")


class _Shared(ctypes.Structure):
    _fields_ = [("began_at", ctypes.c_double), ("must_stop", ctypes.c_bool)]


class HorseState:
    """Memory that a worker shares with its work horse, created before the fork."""

    def __init__(self) -> None:
        self._shared = _Shared.from_buffer(mmap.mmap(-1, ctypes.sizeof(_Shared)))
        self.restart()

    @property
    def began_at(self) -> float:
        """When the job began, or the current page of its steps, by the monotonic clock of the host."""
        return self._shared.began_at

    def restart(self) -> None:
        """Note in the work horse that the time limit begins again."""
        self._shared.began_at = time.monotonic()

    def request_stop(self) -> None:
        """Have the job stop after the current page of its steps."""
        self._shared.must_stop = True

    def must_stop(self) -> bool:
        """Return whether the worker is about to end."""
        return self._shared.must_stop


class ForkingWorker(EngineWorker):
    """Claims one job at a time, and has a process of its own, the work horse, run it and commit its new state.

    The worker watches over the work horse, and writes what a work horse that crashed could not.
    """

    kind = "heavy"

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Kill the work horse with all processes it has started; RQ calls this for its command `kill-horse`."""
        if self._horse_pid:
            with suppress(ProcessLookupError):
                os.killpg(self._horse_pid, sig)

    def _is_ready(self) -> bool:
        self._beat_when_due()
        return True

    def _pause(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0 and not self._stopping.wait(min(left, CHECK_SECONDS)):
            self._beat_when_due()

    def _execute(self, claims: Sequence[Claim]) -> None:
        for claim in claims:  # at most one
            self._run(claim)

    def _run(self, claim: Claim) -> None:
        state = HorseState()
        args = claim, os.getpid(), state
        horse = _fork.Process(target=self._run_in_horse, args=args, name=f"horse of {self.name}")
        horse.start()
        self._horse_pid = horse.pid or 0
        with suppress(ProcessLookupError, PermissionError):  # the work horse may have done it, or have ended
            os.setpgid(self._horse_pid, self._horse_pid)
        verdict = self._watch(horse, claim, state)
        self._horse_pid = 0
        if verdict is not None:
            self._write(claim, verdict)
        self._in_flight.discard([claim], are_released=verdict is attempts.release)

    def _watch(self, horse: BaseProcess, claim: Claim, state: HorseState) -> Verdict | None:
        """Wait for the end of the work horse, and kill it when its time is over.

        Returns:
            what is left for the parent to write; None when the work horse has committed the job's new state.
        """
        last_resort_seconds = claim.timeout_seconds + LAST_RESORT_SECONDS
        verdict: Verdict | None = None
        while horse.is_alive():
            if self._stopping.is_set():
                state.request_stop()
            if verdict is None and self._must_release():
                verdict = attempts.release
            elif verdict is None and time.monotonic() - state.began_at > last_resort_seconds:
                verdict = _time_out
            if verdict is not None:
                self.kill_horse()
            self._beat_when_due()
            horse.join(CHECK_SECONDS)
        if verdict is None and horse.exitcode != 0:
            reason = f"work horse {horse.pid} of {self.name} died: {describe_exit(horse.exitcode or 0)}"
            verdict = partial(attempts.interrupt, reason=reason)
        return verdict

    def _must_release(self) -> bool:
        requested_at = self._stop_requested_at
        is_grace_over = requested_at is not None and time.monotonic() - requested_at > self._grace_seconds
        return self._must_hurry or is_grace_over

    def _write(self, claim: Claim, verdict: Verdict) -> None:
        try:
            with self._app.app_context():
                state = verdict(db.session(), claim)
                db.session.commit()
        except SQLAlchemyError as error:
            # A heartbeat interrupts it as an orphan of this worker when the database is available again.
            log.warning("orphans.deferred", error=type(error).__name__)
        else:
            log.warning("job.cut_short", job=claim.name, job_id=claim.id, state=state)

    def _run_in_horse(self, claim: Claim, parent: int, state: HorseState) -> None:
        # When its worker is killed, the job is run again elsewhere and must not continue here.
        follow(parent, signal.SIGKILL)
        os.setpgid(0, 0)
        faulthandler.enable(sys.__stderr__.fileno() if sys.__stderr__ else 2)  # for the log
        for number in STOP_SIGNALS:
            # The parent decides, also when all processes of a terminal or a group are signalled.
            signal.signal(number, _ignore)
        reset_signals_in_forks()
        limit = partial(alarm, note_restart=state.restart)
        self._update_copies(executor.run(self._app, [claim], limit, state.must_stop))
        journal(self._app).flush()
        sentry.flush(self._app)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(os.EX_OK)  # also when the job has left threads behind


def _ignore(signum: int, frame: object) -> None:
    # Not SIG_IGN, which programs that the job starts would inherit.
    pass


def _time_out(session: Session, claim: Claim) -> object:
    policy = definition(claim.name).policy()
    return attempts.fail(session, claim, JobTimeoutError(f"took longer than its {claim.timeout_seconds} s"), policy)
