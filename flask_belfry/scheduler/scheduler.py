"""rq-scheduler's Scheduler, made safe: jobs move atomically, the lock has an owner, run times are unique in SQL."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

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
from flask_belfry.execution import heartbeat, limits
from flask_belfry.execution.admission import cancel_expired
from flask_belfry.outbox import Deployment, sweep_batches
from flask_belfry.outbox.deployment import MEMORY_KEY
from flask_belfry.outbox.pauses import sweep_pauses, sweep_unpaused
from flask_belfry.outbox.publisher import Publisher
from flask_belfry.outbox.relay import relay_pages
from flask_belfry.scheduler import custom, schedule
from flask_belfry.scheduler.cron import ScheduleError
from flask_belfry.scheduler.delayed import PAGE_SIZE, ScheduledSet
from flask_belfry.scheduler.rescuer import rescue
from flask_belfry.scheduler.schedule import ScheduleEntry
from flask_belfry.statistics import Source, roll_up_source, sample_queues, sources

log = structlog.get_logger(__name__)

PASS_SECONDS = 0.5
LOCK_SECONDS = 10
REFRESH_SECONDS = 30.0
# How often ended pauses, free slots and expired jobs are looked for: a short query each when there are none.
SWEEP_SECONDS = 1.0
# How often blocked jobs are looked for that no pause stops any more: the query reads all that pauses block.
UNPAUSED_PERIOD_SECONDS = 60.0
LOOK_AHEAD_SECONDS = 90.0
# How often the last minutes are counted, and the queues.
STATISTICS_PERIOD_SECONDS = 10.0
SAMPLES_PERIOD_SECONDS = 30.0
# One short statement when no worker has crashed; this period comes on top of RESCUE_AFTER_SECONDS.
RESCUE_PERIOD_SECONDS = 1.0
# One short statement too, over the open batches.
BATCHES_PERIOD_SECONDS = 1.0
# Together with the timeout of Redis, less than half of RESCUE_AFTER_SECONDS: rescues continue without Redis.
MAX_BACKOFF_SECONDS = 2.0
SCHEDULE_PREFIX = "schedule:"
END = object()
MAX_REASON_CHARACTERS = 500


class BelfryScheduler(Scheduler):
    """Moves delayed jobs that are due to their queues, enqueues periodic jobs, and runs the relay and the rescuer.

    Any number may run: the leader, which holds the lock, works, and the others are on standby. The lock only saves
    work; SQL ensures that nothing happens twice. Each pass is short: long work continues page by page, one in each.

    Args:
        app: the application.
        connection: a client without a blocking timeout.
        publisher: pushes what is due.
        entries: the periodic jobs of the code; those that users made are read in every pass.
    """

    def __init__(
        self, app: Flask, connection: redis.Redis, publisher: Publisher, entries: Sequence[ScheduleEntry]
    ) -> None:
        super().__init__(connection=connection, interval=LOCK_SECONDS, name=heartbeat.process_name("scheduler"))
        self._app = app
        self._publisher = publisher
        self._scheduled = ScheduledSet(connection, publisher)
        self._entries = {SCHEDULE_PREFIX + entry.name: entry for entry in entries}
        self._custom: dict[str, ScheduleEntry] = {}
        self._stopping = threading.Event()
        self._last_run: dict[str, float] = {}
        self._pages: dict[str, Iterator[object]] = {}
        self._heartbeat_at, self._heartbeats_since = -math.inf, math.inf

    def run(self, burst: bool = False) -> None:
        """Work until SIGTERM or SIGINT; with `burst`, make one pass.

        Wait with growing pauses while Redis or the database is unavailable.
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
                    self._resign()
                    if isinstance(error, redis.RedisError):
                        self._record_error(reason)
                    pause, backoff = backoff, min(backoff * 2, MAX_BACKOFF_SECONDS)
                if burst:
                    break
                self._stopping.wait(pause)
            self._sign_off()

    def work_once(self) -> bool:
        """Make one pass, if this scheduler holds the lock.

        Returns:
            whether the next pass should follow immediately, because there is more to do.
        """
        settings = self._app.config
        self._every("heartbeat", settings["HEARTBEAT_SECONDS"], self._beat)
        # Rescues and batches need neither Redis nor the lock: their UPDATEs are fenced.
        if self._may_rescue():
            self._every("rescue", RESCUE_PERIOD_SECONDS, lambda: rescue(db.session()))
        self._every("batches", BATCHES_PERIOD_SECONDS, lambda: sweep_batches(db.session()))
        self._publisher.ownership.check(self.connection, every_seconds=0)
        if not self.acquire_lock():
            return False
        self._every("refresh", REFRESH_SECONDS, self.refresh)
        self._isolated("custom", self._read_custom)
        self._page_by_page("delayed", REFRESH_SECONDS, self._restore_delayed)
        is_more_due = self.enqueue_jobs()
        self._page_by_page("pauses", SWEEP_SECONDS, lambda: sweep_pauses(db.session()))
        self._page_by_page("unpaused", UNPAUSED_PERIOD_SECONDS, lambda: sweep_unpaused(db.session()))
        self._page_by_page("limits", SWEEP_SECONDS, lambda: limits.sweep(db.session()))
        self._page_by_page("expiry", SWEEP_SECONDS, lambda: cancel_expired(db.session()))
        self._page_by_page("relay", settings["RELAY_SECONDS"], lambda: relay_pages(self._publisher))
        for source in sources():
            self._roll_up(source)
        self._every("samples", SAMPLES_PERIOD_SECONDS, lambda: sample_queues(db.session()))
        self._every("pass", settings["HEARTBEAT_SECONDS"], self._record_pass)
        return is_more_due or bool(self._pages)

    def stop(self, signal_number: int = 0, frame: object = None) -> None:
        """End after the current pass."""
        self._stopping.set()

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)

    def acquire_lock(self) -> bool:
        """Acquire or renew the lock. Only its owner deletes it, and it expires after its owner's crash."""
        # Without scripts, which an ACL may deny.
        with self.connection.pipeline(transaction=True) as pipeline:
            pipeline.set(self.scheduler_lock_key, self.name, nx=True, ex=LOCK_SECONDS)
            pipeline.get(self.scheduler_lock_key)
            is_new, holder = pipeline.execute()
        if holder != self.name.encode():
            return False
        if is_new:
            self._start_over()
        else:
            self.connection.expire(self.scheduler_lock_key, LOCK_SECONDS)
        return True

    def remove_lock(self) -> None:
        """Release the lock if this scheduler holds it."""
        self._while_holding_lock(lambda pipeline: pipeline.delete(self.scheduler_lock_key))

    def _while_holding_lock(self, change: Callable[[Pipeline], object]) -> None:
        """Make a change in Redis, unless the lock is another scheduler's or is lost before the change."""
        with self.connection.pipeline() as pipeline, suppress(redis.WatchError):
            pipeline.watch(self.scheduler_lock_key)
            if pipeline.get(self.scheduler_lock_key) == self.name.encode():
                pipeline.multi()
                change(pipeline)
                pipeline.execute()

    def refresh(self) -> None:
        """Make the schedules in SQL equal to those of the code, and the ticks in Redis equal to those in SQL."""
        entries = list(self._entries.values())
        removed = schedule.reconcile(db.session(), entries)
        self._scheduled.remove([SCHEDULE_PREFIX + name for name in removed])
        self._set_ticks(entries)

    def enqueue_jobs(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride] - the list is not used
        """Enqueue what is due: every tick, and a page of delayed jobs. One bad member never holds up the others.

        Returns:
            whether more delayed jobs may be due.
        """
        # Looked up by name, ticks do not wait behind delayed jobs, and one that Redis has lost is set again.
        entries = self._entries | self._custom
        for member in self._scheduled.due_among(list(entries)):
            self._tick(member, entries[member])
        due = self._scheduled.due()
        delayed = [member for member in due if member.decode(errors="replace") not in entries]
        return self._isolated("delayed", lambda: self._scheduled.move(delayed)) and len(due) == PAGE_SIZE

    def _read_custom(self) -> None:
        """Set the next ticks of the schedules that users made or changed, and remove the deleted ones."""
        entries: dict[str, ScheduleEntry] = {
            SCHEDULE_PREFIX + entry.name: entry for entry in custom.read_entries(db.session())
        }
        self._scheduled.remove(self._custom.keys() - entries.keys())
        changed = [member for member, entry in entries.items() if self._custom.get(member) != entry]
        self._custom = entries
        for member in changed:
            if not self._isolated(member, lambda member=member: self._set_ticks([entries[member]])):
                self._scheduled.set({member: _later()})

    def _tick(self, member: str, entry: ScheduleEntry) -> None:
        def settle() -> None:
            # The tick commits before the next one is set: a crash in between repeats the tick, which SQL then rejects.
            try:
                settled = schedule.tick(db.session(), entry)
            except ScheduleError as error:
                log.warning("schedule.cannot_tick", schedule=entry.name, reason=str(error))
                self._scheduled.set({member: _later()})
                return
            if settled:
                log.info("schedule.tick", schedule=entry.name, ticks=len(settled))
            self._set_ticks([entry])

        if not self._isolated(member, settle):
            self._scheduled.set({member: _later()})

    def _set_ticks(self, entries: Sequence[ScheduleEntry]) -> None:
        ticks = schedule.next_ticks(db.session(), entries)
        self._scheduled.set({SCHEDULE_PREFIX + name: tick_at for name, tick_at in ticks.items()})

    def _restore_delayed(self) -> Iterator[None]:
        """Add the delayed jobs that are due soon, in case one was never added; all of them when Redis was wiped."""
        if self.connection.exists(MEMORY_KEY):
            yield from self._scheduled.restore(utc_now() + timedelta(seconds=LOOK_AHEAD_SECONDS))
        else:
            yield from self._scheduled.restore(None)
            # A Redis that was wiped since the pass began has lost the lock too, and what was added.
            self._while_holding_lock(lambda pipeline: pipeline.set(MEMORY_KEY, self.name))

    def _roll_up(self, source: Source) -> None:
        part = f"statistics.{source.name}"
        self._page_by_page(part, STATISTICS_PERIOD_SECONDS, lambda: roll_up_source(db.session(), source))

    def _may_rescue(self) -> bool:
        # Heartbeats are also missing when the database was unavailable or locked: after a gap in its own the scheduler
        # gives the workers time to send theirs.
        return time.monotonic() - self._heartbeats_since >= 2 * self._app.config["HEARTBEAT_SECONDS"]

    def _beat(self) -> None:
        began_at = time.monotonic()
        self._publisher.ownership.learn(db.session())
        if heartbeat.beat(db.session(), self.name, jobs_done=0) is heartbeat.Standing.UNKNOWN:
            heartbeat.register(db.session(), self.name, "scheduler", [])
        if began_at - self._heartbeat_at > self._app.config["RESCUE_AFTER_SECONDS"] / 2:
            self._heartbeats_since = time.monotonic()
        self._heartbeat_at = time.monotonic()

    def _every(self, part: str, seconds: float, action: Callable[[], object]) -> None:
        now = time.monotonic()
        if now - self._last_run.get(part, -math.inf) >= seconds:
            self._last_run[part] = now
            self._isolated(part, action)

    def _page_by_page(self, part: str, seconds: float, begin: Callable[[], Iterator[object]]) -> None:
        """Begin long work every `seconds`; do one page of it in each pass."""
        if part not in self._pages:
            self._every(part, seconds, lambda: self._pages.update({part: begin()}))
        self._isolated(part, lambda: self._advance(part))

    def _advance(self, part: str) -> None:
        pages = self._pages.get(part)
        if pages is not None and next(pages, END) is END:
            del self._pages[part]

    def _isolated(self, part: str, action: Callable[[], object]) -> bool:
        """Log what one part raises, so that the others continue; raise when Redis or the database is unavailable.

        Returns:
            whether it succeeded.
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

    def _start_over(self) -> None:
        """Have the next pass run every part."""
        self._last_run.clear()
        self._pages.clear()
        self._custom.clear()

    def _resign(self) -> None:
        """Give up leadership after a failure: another scheduler may reach what this one cannot."""
        self._start_over()
        # A rollback would need the connection, which may be broken.
        db.session().invalidate()
        self._release_lock()

    def _record_pass(self) -> None:
        passed = sa.update(Deployment).values(scheduler_passed_at=database_now(), scheduler_error=None)
        db.session.execute(passed)
        db.session.commit()

    def _record_error(self, reason: str) -> None:
        """Record for `flask doctor` why passes fail."""
        text = reason[:MAX_REASON_CHARACTERS]
        changed = sa.update(Deployment).where(Deployment.scheduler_error.is_distinct_from(text))
        try:
            db.session.execute(changed.values(scheduler_error=text))
            db.session.commit()
        except SQLAlchemyError as error:
            db.session.rollback()
            log.warning("scheduler.error_not_recorded", error=type(error).__name__)

    def _sign_off(self) -> None:
        self._release_lock()
        try:
            heartbeat.sign_off(db.session(), self.name)
        except SQLAlchemyError as error:
            log.warning("scheduler.signed_off_late", error=type(error).__name__)

    def _release_lock(self) -> None:
        try:
            self.remove_lock()
        except redis.RedisError as error:
            log.warning("scheduler.lock_not_released", error=type(error).__name__, seconds=LOCK_SECONDS)


def _later() -> datetime:
    """Return when something that failed is tried again: not in every pass."""
    return utc_now() + timedelta(seconds=REFRESH_SECONDS)
