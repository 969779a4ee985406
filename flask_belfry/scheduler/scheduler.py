"""rq-scheduler's Scheduler without its holes: timers moved atomically, an owned lock, ticks unique in SQL."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta

import redis
import sqlalchemy as sa
import structlog
from flask import Flask
from redis.client import Pipeline
from rq_scheduler import Scheduler
from sqlalchemy.exc import SQLAlchemyError

from flask_belfry.core.clock import utc_now
from flask_belfry.core.database_errors import is_transient
from flask_belfry.db import db
from flask_belfry.db.columns import database_now
from flask_belfry.execution import heartbeat
from flask_belfry.outbox import Deployment
from flask_belfry.outbox.deployment import MEMORY_KEY
from flask_belfry.outbox.publisher import Publisher
from flask_belfry.outbox.relay import relay_pages
from flask_belfry.scheduler import schedule
from flask_belfry.scheduler.delayed import PAGE_TIMERS, Timers
from flask_belfry.scheduler.rescuer import rescue
from flask_belfry.scheduler.schedule import ScheduleEntry

log = structlog.get_logger(__name__)

PASS_SECONDS = 0.5
LOCK_SECONDS = 10
REFRESH_SECONDS = 30.0
LOOK_AHEAD_SECONDS = 90.0
# One short statement when nobody has died; what it waits comes on top of RESCUE_AFTER_SECONDS.
RESCUE_PERIOD_SECONDS = 1.0
# With the time that an answer of Redis may take, less than half of RESCUE_AFTER_SECONDS: the rescue goes on without it.
MAX_BACKOFF_SECONDS = 2.0
SCHEDULE_PREFIX = "schedule:"
END = object()
MAX_REASON_CHARACTERS = 500


class BelfryScheduler(Scheduler):
    """Moves what is due: timers to their queues, schedules to their jobs; and keeps the relay and the rescue going.

    Any number may run: one works while it holds the lock, the others stand by. The lock only saves work; that
    nothing happens twice is SQL's doing. Each pass is short: long work goes on page by page, one in each pass.

    Args:
        app: the application.
        connection: a client without a blocking timeout.
        publisher: pushes what is due.
        entries: the schedule.
    """

    def __init__(
        self, app: Flask, connection: redis.Redis, publisher: Publisher, entries: Sequence[ScheduleEntry]
    ) -> None:
        super().__init__(connection=connection, interval=LOCK_SECONDS, name=heartbeat.process_name("scheduler"))
        self._app = app
        self._publisher = publisher
        self._timers = Timers(connection, publisher)
        self._entries = {SCHEDULE_PREFIX + entry.name: entry for entry in entries}
        self._stopping = threading.Event()
        self._last_run: dict[str, float] = {}
        self._under_way: dict[str, Iterator[object]] = {}
        self._beaten_at, self._beating_since = -math.inf, math.inf

    def run(self, burst: bool = False) -> None:
        """Works until SIGTERM or SIGINT; with `burst`, makes one pass.

        An outage of Redis or the database is waited out, with growing pauses.
        """
        self._install_signal_handlers()
        backoff = PASS_SECONDS
        with self._app.app_context():
            while not self._stopping.is_set():
                try:
                    pause = 0 if self.work_once() else PASS_SECONDS
                    backoff = PASS_SECONDS
                except (redis.RedisError, SQLAlchemyError) as error:
                    reason = str(getattr(error, "orig", error))
                    log.warning("scheduler.waiting", error=type(error).__name__, reason=reason, seconds=backoff)
                    self._let_go()
                    if isinstance(error, redis.RedisError):
                        self._record_refusal(reason)
                    pause, backoff = backoff, min(backoff * 2, MAX_BACKOFF_SECONDS)
                if burst:
                    break
                self._stopping.wait(pause)
            self._sign_off()

    def work_once(self) -> bool:
        """One pass, if this scheduler holds the lock.

        Returns:
            whether the next pass should follow at once, because there is more to do.
        """
        settings = self._app.config
        self._regularly("heartbeat", settings["HEARTBEAT_SECONDS"], self._beat)
        # The rescue needs no Redis and no lock: its UPDATEs are fenced.
        if self._may_judge():
            self._regularly("rescue", RESCUE_PERIOD_SECONDS, lambda: rescue(db.session()))
        self._publisher.ownership.check(self.connection, every_seconds=0)
        if not self.acquire_lock():
            return False
        self._regularly("refresh", REFRESH_SECONDS, self.refresh)
        self._page_by_page("timers", REFRESH_SECONDS, self._restore_timers)
        is_more_due = self.enqueue_jobs()
        self._page_by_page("relay", settings["RELAY_SECONDS"], lambda: relay_pages(self._publisher))
        self._regularly("pass", settings["HEARTBEAT_SECONDS"], self._record_pass)
        return is_more_due or bool(self._under_way)

    def stop(self, signal_number: int = 0, frame: object = None) -> None:
        """Ends after the present pass."""
        self._stopping.set()

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)

    def acquire_lock(self) -> bool:
        """Takes the lock or renews it: it has an owner, so nobody deletes another's, and its owner's death ends it."""
        # Without scripts, which an ACL may refuse.
        with self.connection.pipeline(transaction=True) as pipeline:
            pipeline.set(self.scheduler_lock_key, self.name, nx=True, ex=LOCK_SECONDS)
            pipeline.get(self.scheduler_lock_key)
            is_new, holder = pipeline.execute()
        if holder != self.name.encode():
            return False
        if is_new:
            self._begin_anew()
        else:
            self.connection.expire(self.scheduler_lock_key, LOCK_SECONDS)
        return True

    def remove_lock(self) -> None:
        """Releases the lock if it is ours."""
        self._while_holding_lock(lambda pipeline: pipeline.delete(self.scheduler_lock_key))

    def _while_holding_lock(self, change: Callable[[Pipeline], object]) -> None:
        """Makes a change in Redis, unless the lock is not ours or is lost before it is made."""
        with self.connection.pipeline() as pipeline, suppress(redis.WatchError):
            pipeline.watch(self.scheduler_lock_key)
            if pipeline.get(self.scheduler_lock_key) == self.name.encode():
                pipeline.multi()
                change(pipeline)
                pipeline.execute()

    def refresh(self) -> None:
        """Makes SQL's schedules those of the code, and Redis's ticks those of SQL."""
        entries = list(self._entries.values())
        removed = schedule.reconcile(db.session(), entries)
        self._timers.remove([SCHEDULE_PREFIX + name for name in removed])
        self._set_ticks(entries)

    def enqueue_jobs(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride] - nobody uses the list
        """Moves what is due: every tick, and a page of timers. One bad member never holds up the others.

        Returns:
            whether more timers may be due.
        """
        # Asked for by name, ticks do not wait behind the timers, and one that Redis has lost is set again.
        for member in self._timers.due_among(list(self._entries)):
            self._tick(member)
        due = self._timers.due()
        timers = [member for member in due if member.decode(errors="replace") not in self._entries]
        return self._apart("timers", lambda: self._timers.move(timers)) and len(due) == PAGE_TIMERS

    def _tick(self, member: str) -> None:
        entry = self._entries[member]

        def settle() -> None:
            # The tick commits before the timer moves on: a death in between repeats the tick, which SQL then refuses.
            if settled := schedule.tick(db.session(), entry):
                log.info("schedule.tick", schedule=entry.name, ticks=len(settled))
            self._set_ticks([entry])

        if not self._apart(member, settle):
            self._timers.set({member: utc_now() + timedelta(seconds=REFRESH_SECONDS)})  # not again in every pass

    def _set_ticks(self, entries: Sequence[ScheduleEntry]) -> None:
        ticks = schedule.next_ticks(db.session(), entries)
        self._timers.set({SCHEDULE_PREFIX + name: tick_at for name, tick_at in ticks.items()})

    def _restore_timers(self) -> Iterator[None]:
        """Sets the timers that are due soon, in case one was never set; all of them when Redis has lost its memory."""
        if self.connection.exists(MEMORY_KEY):
            yield from self._timers.restore(utc_now() + timedelta(seconds=LOOK_AHEAD_SECONDS))
        else:
            yield from self._timers.restore(None)
            # A Redis that was wiped since the pass began has lost the lock too, and what it was told.
            self._while_holding_lock(lambda pipeline: pipeline.set(MEMORY_KEY, self.name))

    def _may_judge(self) -> bool:
        # Silence is no death while the database was away or locked for all: after a gap in its own signs of life the
        # scheduler gives the workers the time to give theirs.
        return time.monotonic() - self._beating_since >= 2 * self._app.config["HEARTBEAT_SECONDS"]

    def _beat(self) -> None:
        began_at = time.monotonic()
        self._publisher.ownership.learn(db.session())
        if not heartbeat.beat(db.session(), self.name):
            heartbeat.register(db.session(), self.name, "scheduler", [])
        if began_at - self._beaten_at > self._app.config["RESCUE_AFTER_SECONDS"] / 2:
            self._beating_since = time.monotonic()
        self._beaten_at = time.monotonic()

    def _regularly(self, part: str, seconds: float, action: Callable[[], object]) -> None:
        now = time.monotonic()
        if now - self._last_run.get(part, -math.inf) >= seconds:
            self._last_run[part] = now
            self._apart(part, action)

    def _page_by_page(self, part: str, seconds: float, begin: Callable[[], Iterator[object]]) -> None:
        """Begins long work every so many seconds; does one page of it in each pass."""
        if part not in self._under_way:
            self._regularly(part, seconds, lambda: self._under_way.update({part: begin()}))
        self._apart(part, lambda: self._advance(part))

    def _advance(self, part: str) -> None:
        pages = self._under_way.get(part)
        if pages is not None and next(pages, END) is END:
            del self._under_way[part]

    def _apart(self, part: str, action: Callable[[], object]) -> bool:
        """Keeps what one part raises from the others; an outage goes on to the caller.

        Returns:
            whether it went well.
        """
        try:
            action()
        except redis.RedisError:
            raise
        except Exception as error:
            if is_transient(error):
                raise
            db.session.rollback()
            log.exception("scheduler.part_failed", part=part)
            return False
        return True

    def _begin_anew(self) -> None:
        """Makes the next pass look at everything."""
        self._last_run.clear()
        self._under_way.clear()

    def _let_go(self) -> None:
        """Called after a failure: another scheduler may reach what this one cannot."""
        self._begin_anew()
        # A rollback would need the connection that may just have died.
        db.session().invalidate()
        self._release()

    def _record_pass(self) -> None:
        passed = sa.update(Deployment).values(scheduler_passed_at=database_now(), scheduler_error=None)
        db.session.execute(passed)
        db.session.commit()

    def _record_refusal(self, reason: str) -> None:
        """Writes down for `flask doctor` why passes fail."""
        text = reason[:MAX_REASON_CHARACTERS]
        refused = sa.update(Deployment).where(Deployment.scheduler_error.is_distinct_from(text))
        try:
            db.session.execute(refused.values(scheduler_error=text))
            db.session.commit()
        except SQLAlchemyError as error:
            db.session.rollback()
            log.warning("scheduler.refusal_not_recorded", error=type(error).__name__)

    def _sign_off(self) -> None:
        self._release()
        try:
            heartbeat.sign_off(db.session(), self.name)
        except SQLAlchemyError as error:
            log.warning("scheduler.signed_off_late", error=type(error).__name__)

    def _release(self) -> None:
        try:
            self.remove_lock()
        except redis.RedisError as error:
            log.warning("scheduler.lock_kept", error=type(error).__name__, seconds=LOCK_SECONDS)
