"""The parent of worker processes: replaces those that crash or freeze, and records which job caused it."""

from __future__ import annotations

import faulthandler
import mmap
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection as sentinels
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import IO, Any

import redis
import structlog
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from flask_belfry.db import db
from flask_belfry.execution import attempts, heartbeat
from flask_belfry.execution import claim as claims
from flask_belfry.execution.attempts import Part
from flask_belfry.execution.claim import Claim
from flask_belfry.outbox import JobRecord
from flask_belfry.outbox.registry import max_chunk
from flask_belfry.workers.board import Board, RunningThread
from flask_belfry.workers.crashes import busiest_thread, crashed_thread, describe_exit, follow, is_stopped

log = structlog.get_logger(__name__)

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
EXIT_STUCK = 75  # EX_TEMPFAIL: a worker with a stuck job ends with it, to be started again
# The signals for which faulthandler writes the threads.
FATAL_SIGNALS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
LOOK_SECONDS = 0.5
# After a longer pause between two looks the parent or its machine was stopped, and the pulses with it.
OWN_PAUSE_SECONDS = 5.0
SAMPLE_SECONDS = 1.0
ABORT_SECONDS = 2.0
RESTART_SECONDS = 1.0

_fork = multiprocessing.get_context("fork")


@dataclass
class _Child:
    """A worker process."""

    process: BaseProcess
    board: Board
    dump: IO[bytes]  # where its faulthandler writes
    is_quarantine: bool
    pulse: int = 0
    moved_at: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.monotonic)
    frozen_seconds: float = 0.0
    frozen_thread: int = 0
    substitute: BaseProcess | None = None  # sends heartbeats for it

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid


@dataclass(frozen=True)
class Crash:
    """The end of a worker process that did not stop by itself.

    `culprit` is Python's id of the thread that caused it; 0 when unknown.
    """

    worker: str
    pid: int
    manner: str
    running: Sequence[RunningThread]
    culprit: int


class Pool:
    """Keeps worker processes running until a signal; with `burst`, until the queues are empty.

    It has no threads and no connections, and forks a process for each operation on the database, so that what crashes
    or freezes a worker cannot affect it.

    Args:
        app: the application.
        worker_class: the worker class that the processes run.
        quarantine_class: the worker class for quarantined jobs; None where every job runs alone anyway.
        queues: the names of their queues.
        connect: returns a connection to Redis; called in a worker's process.
        count: how many processes.
        burst: end when no job is left.
    """

    def __init__(
        self,
        app: Flask,
        worker_class: type[Any],
        quarantine_class: type[Any] | None,
        queues: Sequence[str],
        connect: Callable[[], redis.Redis],
        *,
        count: int,
        burst: bool,
    ) -> None:
        self._app = app
        self._worker_class = worker_class
        self._quarantine_class = quarantine_class
        self._queues = list(queues)
        self._connect = connect
        self._wanted = count
        self._burst = burst
        self._children: list[_Child] = []
        self._cleanups: list[BaseProcess] = []
        self._quarantine_flag = mmap.mmap(-1, 1)
        self._is_stopping = False
        self._start_at = self._looked_at = time.monotonic()
        self._status = 0

    def run(self) -> int:
        """Run until all worker processes have ended; return the exit status."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        self._start_missing()
        while self._children or self._cleanups or self._is_going_on():
            ended = [process.sentinel for process in (*self._cleanups, *(child.process for child in self._children))]
            sentinels.wait(ended, LOOK_SECONDS)
            self._cleanups = [cleanup for cleanup in self._cleanups if cleanup.is_alive()]
            for child in [child for child in self._children if not child.process.is_alive()]:
                self._children.remove(child)
                self._handle_exit(child)
            self._start_missing()
            self._watch()
        return self._status

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._is_stopping = True
        for child in self._children:
            child.process.terminate()

    def _is_going_on(self) -> bool:
        return not self._is_stopping and (self._wanted > 0 or self._due_quarantine() is not None)

    def _due_quarantine(self) -> type[Any] | None:
        return self._quarantine_class if self._quarantine_flag[0] else None

    def _start_missing(self) -> None:
        if self._is_stopping or time.monotonic() < self._start_at:
            return
        if self._burst and self._cleanups:
            return  # they return jobs to the queues
        quarantines = sum(child.is_quarantine for child in self._children)
        for _ in range(self._wanted - len(self._children) + quarantines):
            self._start(self._worker_class)
        if (quarantine_class := self._due_quarantine()) is not None and not quarantines:
            self._quarantine_flag[0] = 0
            self._start(quarantine_class)

    def _start(self, worker_class: type[Any]) -> None:
        board = Board(self._app.config["WORKER_THREADS"], max_chunk(), self._quarantine_flag)
        dump = tempfile.TemporaryFile()  # noqa: SIM115 - both processes keep it open until the child's end
        process = self._fork(self._work, worker_class, board, dump)
        self._children.append(_Child(process, board, dump, worker_class is self._quarantine_class))
        if self._is_stopping:  # the signal arrived during the fork
            process.terminate()

    def _fork(self, function: Callable[..., None], *args: Any) -> BaseProcess:
        """Fork with the stop signals blocked: a child begins with its parent's handlers for them."""
        process = _fork.Process(target=function, args=args)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return process

    def _work(self, worker_class: type[Any], board: Board, dump: IO[bytes]) -> None:
        faulthandler.enable(dump)
        board.start_pulse()
        worker = worker_class(self._queues, connection=self._connect(), board=board)
        worker.work(burst=self._burst, logging_level="WARNING")

    def _handle_exit(self, child: _Child) -> None:
        self._stop_substitute(child)
        exit_code = child.process.exitcode or 0
        child.dump.seek(0)
        dump = child.dump.read().decode(errors="replace")
        child.dump.close()
        is_crash = exit_code < 0 or exit_code == EXIT_STUCK
        if exit_code == 0 or (self._burst and not is_crash):
            self._status = self._status or exit_code
            self._wanted -= self._burst and not child.is_quarantine
        if exit_code == 0:
            return
        sys.stderr.write(dump)
        sys.stderr.flush()
        if time.monotonic() - child.started_at < RESTART_SECONDS:
            self._start_at = time.monotonic() + RESTART_SECONDS
        manner, culprit = f"died: {describe_exit(exit_code)}", 0
        if child.frozen_seconds:
            manner = f"was frozen: a job held its interpreter for {child.frozen_seconds:.0f} s"
            culprit = child.frozen_thread
        elif exit_code == EXIT_STUCK:
            manner, culprit = "ended itself: a job did not react to its timeout", child.board.stuck_thread
        elif -exit_code in FATAL_SIGNALS:
            culprit = crashed_thread(dump)
        crash = Crash(child.board.name, child.pid, manner, child.board.read(), culprit)
        log.critical("worker.crashed", worker=crash.worker, process=crash.pid, manner=manner)
        self._cleanups.append(self._fork(_in_helper, self._app, interrupt_attempts, crash, child.board.call_quarantine))

    def _watch(self) -> None:
        """Check the pulses, and kill a worker whose pulse has stopped."""
        now = time.monotonic()
        has_paused = now - self._looked_at > OWN_PAUSE_SECONDS
        self._looked_at = now
        for child in self._children:
            pulse = child.board.pulse
            if pulse != child.pulse or has_paused or is_stopped(child.pid):
                child.pulse, child.moved_at = pulse, now
                self._stop_substitute(child)
            elif now - child.moved_at > self._app.config["WORKER_FROZEN_SECONDS"]:
                self._end_frozen(child, now - child.moved_at)
            elif now - child.moved_at > self._app.config["HEARTBEAT_SECONDS"] and child.substitute is None:
                # Without heartbeats the rescuer would interrupt its jobs before the one that blocks it is known.
                child.substitute = self._fork(_in_helper, self._app, _send_heartbeats, child.board.name, os.getpid())

    def _end_frozen(self, child: _Child, seconds: float) -> None:
        running = child.board.read()
        busiest = busiest_thread(child.pid, [thread.native_id for thread in running], SAMPLE_SECONDS)
        if child.board.pulse != child.pulse:
            return
        child.frozen_seconds = seconds + SAMPLE_SECONDS
        child.frozen_thread = next((thread.ident for thread in running if thread.native_id == busiest), 0)
        os.kill(child.pid, signal.SIGABRT)  # faulthandler writes where it hangs
        child.process.join(ABORT_SECONDS)
        child.process.kill()

    def _stop_substitute(self, child: _Child) -> None:
        if child.substitute is not None:
            child.substitute.kill()
            child.substitute.join()
            child.substitute = None


def accept_stop_signals() -> None:
    """Unblock the stop signals once a worker has handlers for them; have the kernel send one when its pool ends."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    pool = multiprocessing.parent_process()
    if pool is not None and pool.pid is not None:
        # Otherwise the old workers would run beside those of a restarted pool.
        follow(pool.pid, signal.SIGTERM)


def interrupt_attempts(crash: Crash, call_quarantine: Callable[[], None]) -> None:
    """Return the jobs of a crashed worker to their queues, and record which of them may have caused the crash.

    Args:
        crash: what is known of it.
        call_quarantine: called when a job must run alone from now on.
    """
    session = db.session()
    try:
        held = claims.claims_of(session, JobRecord.worker == crash.worker)
        causes = _possible_causes(held, crash)
        for claim in held:
            part, remark = _part_of(claim, held, causes, crash)
            reason = f"worker {crash.worker} (process {crash.pid}) {crash.manner}{remark}"
            state = attempts.interrupt(session, claim, reason, part)
            log.warning("job.interrupted", job=claim.name, job_id=claim.id, worker=crash.worker, state=state)
        heartbeat.sign_off(session, crash.worker)
    except SQLAlchemyError as error:
        log.warning("rescue.deferred", worker=crash.worker, error=type(error).__name__)
        return
    if causes:
        call_quarantine()


def _possible_causes(held: Sequence[Claim], crash: Crash) -> set[str]:
    """Return the ids of the jobs that may have caused the crash: those of the culprit's thread, or all that ran."""
    threads = [thread for thread in crash.running if thread.ident == crash.culprit] or crash.running
    ran = {id for thread in threads for id in thread.ids}
    causes = {claim.id for claim in held if claim.id in ran}
    # A forking worker publishes no threads, and has one job in flight.
    return causes or {claim.id for claim in held if len(held) == 1}


def _part_of(claim: Claim, held: Sequence[Claim], causes: set[str], crash: Crash) -> tuple[Part, str]:
    if claim.id not in causes:
        others = [f"{other.name} {other.id}" for other in held if other.id in causes]
        return Part.NONE, f", by {others[0]}" if len(others) == 1 else ", and this job had no part in it"
    if len(causes) > 1:
        return Part.POSSIBLE, f", and {len(causes)} jobs may have caused it"
    ran = {id for thread in crash.running for id in thread.ids}
    is_alone = not any(other.id in ran for other in held if other is not claim)
    return (Part.ALONE, ", and only this job ran") if is_alone else (Part.NAMED, ", by this job")


def _in_helper(app: Flask, function: Callable[..., None], *args: Any) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # its pool decides when it ends
    with app.app_context():
        function(*args)


def _send_heartbeats(worker: str, parent: int) -> None:
    follow(parent, signal.SIGKILL)
    while True:
        try:
            heartbeat.beat(db.session(), worker)
        except SQLAlchemyError as error:
            db.session.rollback()
            log.warning("heartbeat.late", error=type(error).__name__)
        time.sleep(LOOK_SECONDS)
