"""rq-scheduler's Scheduler without its holes: timers moved atomically, an owned lock, ticks unique in SQL."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import redis
import sqlalchemy as sa
import structlog
from flask import Flask
from rq_scheduler import Scheduler
from sqlalchemy.exc import SQLAlchemyError

from app.columns import as_uuid_text, utc_now
from app.extensions import db
from app.outbox import TIMED, JobRecord, JobState, Published, Publisher, relay, sources_of
from jobs.engine import heartbeat, schedule
from jobs.engine.rescue import rescue
from jobs.engine.schedule import ScheduleEntry

log = structlog.get_logger(__name__)

PASS_SECONDS = 0.5
LOCK_SECONDS = 10
REFRESH_SECONDS = 30.0
LOOK_AHEAD_SECONDS = 90.0
PAGE_TIMERS = 1_000
MAX_BACKOFF_SECONDS = 5.0
SCHEDULE_PREFIX = "schedule:"
# Present as long as Redis keeps what it was told; its absence says that the timers are gone too.
MEMORY_KEY = "belfry:timers"

_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('expire', KEYS[1], ARGV[2]) else return 0 end"
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"


class Clock(Scheduler):
    """Moves what is due: timers to their queues, schedules to their jobs; and keeps the relay and the rescue going.

    Any number may run: one works while it holds the lock, the others stand by. The lock only saves work; that
    nothing happens twice is SQL's doing.

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
        self._entries = {entry.name: entry for entry in entries}
        self._stopping = threading.Event()
        self._last_run: dict[str, float] = {}
        self._beaten_at = self._beating_since = -math.inf

    def run(self, burst: bool = False) -> None:
        """Works until SIGTERM or SIGINT; with `burst`, makes one pass.

        An outage of Redis or the database is waited out, with growing pauses.
        """
        self._install_signal_handlers()
        backoff = PASS_SECONDS
        with self._app.app_context():
            while not self._stopping.is_set():
                pause = PASS_SECONDS
                try:
                    self.work_once()
                    backoff = PASS_SECONDS
                except (redis.RedisError, SQLAlchemyError) as error:
                    db.session.rollback()
                    log.warning("scheduler.waiting", error=type(error).__name__, seconds=backoff)
                    pause, backoff = backoff, min(backoff * 2, MAX_BACKOFF_SECONDS)
                if burst:
                    break
                self._stopping.wait(pause)
            self._sign_off()

    def work_once(self) -> None:
        """One pass, if this scheduler holds the lock."""
        self._regularly("heartbeat", self._app.config["HEARTBEAT_SECONDS"], self._beat)
        # The rescue needs no Redis and no lock: its UPDATEs are fenced.
        if self._may_judge():
            self._regularly("rescue", self._app.config["RELAY_SECONDS"], lambda: rescue(db.session()))
        if not self.acquire_lock():
            return
        self._regularly("refresh", REFRESH_SECONDS, self.refresh, at_once=self._has_lost_memory())
        self.enqueue_jobs()
        self._regularly("relay", self._app.config["RELAY_SECONDS"], lambda: relay(self._publisher))

    def stop(self, signal_number: int = 0, frame: object = None) -> None:
        """Ends after the present pass."""
        self._stopping.set()

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)

    def acquire_lock(self) -> bool:
        """Takes the lock or renews it: it has an owner, so nobody deletes another's, and its owner's death ends it."""
        key = self.scheduler_lock_key
        if self.connection.set(key, self.name, nx=True, ex=LOCK_SECONDS):
            self._last_run.clear()  # whoever takes over looks at everything at once
            return True
        return bool(self.connection.eval(_RENEW, 1, key, self.name, LOCK_SECONDS))

    def remove_lock(self) -> None:
        """Releases the lock if it is ours."""
        self.connection.eval(_RELEASE, 1, self.scheduler_lock_key, self.name)

    def refresh(self) -> None:
        """Makes Redis agree with SQL: every schedule has its next tick, every timer that is due soon is set.

        After a loss of Redis all timers are set anew.
        """
        schedule.reconcile(db.session(), list(self._entries.values()))
        self._forget_removed_schedules()
        for entry in self._entries.values():
            self._set_timer(entry)
        until = None if self._has_lost_memory() else LOOK_AHEAD_SECONDS
        self._set_timers(until)
        self.connection.set(MEMORY_KEY, self.name)

    def enqueue_jobs(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - nobody uses the list
        """Moves what is due. One bad member never holds up the others."""
        due = self.connection.zrangebyscore(self.scheduled_jobs_key, 0, time.time(), start=0, num=PAGE_TIMERS)
        schedules = [member for member in due if member.startswith(SCHEDULE_PREFIX.encode())]
        for member in schedules:
            self._tick(member)
        self._move([member for member in due if member not in schedules])

    def _tick(self, member: bytes) -> None:
        name = member.decode(errors="replace").removeprefix(SCHEDULE_PREFIX)
        entry = self._entries.get(name)
        if entry is None:
            self._remove_timers([member])
            return
        # The tick commits before the timer moves on: a death in between repeats the tick, which SQL then refuses.
        settled = schedule.tick(db.session(), entry)
        self._set_timer(entry)
        if settled:
            log.info("schedule.tick", schedule=name, ticks=len(settled))

    def _move(self, members: Sequence[bytes]) -> None:
        """Pushes the due records among `members` and ends their timers, both in one transaction of Redis."""
        if not members:
            return
        timers = {id: member for member in members if (id := as_uuid_text(member.decode(errors="replace")))}
        records, later = self._look_up(list(timers))
        self._publisher.push(records, timers=[timers[record.id] for record in records])
        wanted = {timers[id] for id in (*later, *(record.id for record in records))}
        # What is left is cancelled, ended, or was never ours.
        self._remove_timers([member for member in members if member not in wanted])
        if later:
            self.connection.zadd(self.scheduled_jobs_key, later)
        self._mark_queued([record.id for record in records])

    def _look_up(self, ids: Sequence[str]) -> tuple[list[Published], dict[str, float]]:
        """The records of due timers, and the times of those that SQL wants later."""
        columns = (JobRecord.id, JobRecord.name, JobRecord.queue, JobRecord.timeout_seconds, JobRecord.scheduled_at)
        query = sa.select(*columns).where(JobRecord.id.in_(ids), JobRecord.state.in_(TIMED))
        rows = db.session.execute(query).all()
        db.session.rollback()
        now = utc_now()
        due = [Published(row.id, row.name, row.queue, row.timeout_seconds) for row in rows if row.scheduled_at <= now]
        return due, {row.id: row.scheduled_at.timestamp() for row in rows if row.scheduled_at > now}

    def _mark_queued(self, ids: Sequence[str]) -> None:
        if ids:
            is_due = JobRecord.scheduled_at <= utc_now()  # not one that ran and failed since it was pushed
            is_timed = JobRecord.state.in_(sources_of(JobState.QUEUED) & TIMED)
            values = {"state": JobState.QUEUED, "enqueued_at": utc_now()}
            where = JobRecord.unlocked(JobRecord.id.in_(ids), is_timed, is_due)
            db.session.execute(sa.update(JobRecord).where(where).values(values))
            db.session.commit()

    def _set_timer(self, entry: ScheduleEntry) -> None:
        tick_at = schedule.next_tick(db.session(), entry)
        db.session.rollback()
        self.connection.zadd(self.scheduled_jobs_key, {SCHEDULE_PREFIX + entry.name: tick_at.timestamp()})

    def _set_timers(self, until_seconds: float | None) -> None:
        query = sa.select(JobRecord.id, JobRecord.scheduled_at).where(JobRecord.state.in_(TIMED))
        if until_seconds is not None:
            query = query.where(JobRecord.scheduled_at < utc_now() + timedelta(seconds=until_seconds))
        result = db.session.execute(query, execution_options={"yield_per": PAGE_TIMERS})
        for rows in result.partitions():
            self.connection.zadd(self.scheduled_jobs_key, {row.id: row.scheduled_at.timestamp() for row in rows})
        db.session.rollback()

    def _forget_removed_schedules(self) -> None:
        members = self.connection.zscan_iter(self.scheduled_jobs_key, match=SCHEDULE_PREFIX + "*")
        known = {(SCHEDULE_PREFIX + name).encode() for name in self._entries}
        self._remove_timers([member for member, _ in members if member not in known])

    def _remove_timers(self, members: Sequence[bytes]) -> None:
        if members:
            self.connection.zrem(self.scheduled_jobs_key, *members)

    def _has_lost_memory(self) -> bool:
        return not self.connection.exists(MEMORY_KEY)

    def _may_judge(self) -> bool:
        # Silence is no death while the database was away or locked for all: after a gap in its own signs of life the
        # scheduler gives the workers the time to give theirs.
        return time.monotonic() - self._beating_since >= 2 * self._app.config["HEARTBEAT_SECONDS"]

    def _beat(self) -> None:
        began_at = time.monotonic()
        if not heartbeat.beat(db.session(), self.name):
            heartbeat.register(db.session(), self.name, "scheduler", [])
        if began_at - self._beaten_at > self._app.config["RESCUE_AFTER_SECONDS"] / 2:
            self._beating_since = time.monotonic()
        self._beaten_at = time.monotonic()

    def _sign_off(self) -> None:
        try:
            heartbeat.sign_off(db.session(), self.name)
            self.remove_lock()
        except (redis.RedisError, SQLAlchemyError) as error:
            log.warning("scheduler.signed_off_late", error=type(error).__name__)

    def _regularly(self, what: str, seconds: float, action: Callable[[], object], *, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._last_run.get(what, -seconds) >= seconds:
            self._last_run[what] = now
            action()
