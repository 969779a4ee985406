"""rq-scheduler's Scheduler without its holes: timers moved atomically, an owned lock, ticks unique in SQL."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import redis
import structlog
from flask import Flask
from rq_scheduler import Scheduler
from sqlalchemy.exc import SQLAlchemyError

from app.columns import utc_now
from app.database_errors import is_transient
from app.extensions import db
from app.outbox import Publisher, relay_pages
from jobs.engine import heartbeat, schedule
from jobs.engine.rescue import rescue
from jobs.engine.schedule import ScheduleEntry
from jobs.engine.timers import PAGE_TIMERS, Timers

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
# Present as long as Redis keeps what it was told; its absence says that the timers are gone too.
MEMORY_KEY = "belfry:timers"
END = object()

_LOCK = """
local holder = redis.call('get', KEYS[1])
if holder and holder ~= ARGV[1] then return 'taken' end
redis.call('set', KEYS[1], ARGV[1], 'EX', ARGV[2])
return holder and 'held' or 'new'
"""
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"
# A Redis that was wiped since the pass began has lost the lock too: then it does not remember what it was told.
_REMEMBER = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('set', KEYS[2], ARGV[1]) end"


class Clock(Scheduler):
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
        self._beaten_at = self._beating_since = -math.inf

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
                    log.warning("scheduler.waiting", error=type(error).__name__, seconds=backoff)
                    self._let_go()
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
        if not self.acquire_lock():
            return False
        self._regularly("refresh", REFRESH_SECONDS, self.refresh)
        self._page_by_page("timers", REFRESH_SECONDS, self._restore_timers)
        is_more_due = self.enqueue_jobs()
        self._page_by_page("relay", settings["RELAY_SECONDS"], lambda: relay_pages(self._publisher))
        return is_more_due or bool(self._under_way)

    def stop(self, signal_number: int = 0, frame: object = None) -> None:
        """Ends after the present pass."""
        self._stopping.set()

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)

    def acquire_lock(self) -> bool:
        """Takes the lock or renews it: it has an owner, so nobody deletes another's, and its owner's death ends it."""
        answer = self.connection.eval(_LOCK, 1, self.scheduler_lock_key, self.name, LOCK_SECONDS)
        if answer == b"new":
            self._begin_anew()
        return answer != b"taken"

    def remove_lock(self) -> None:
        """Releases the lock if it is ours."""
        self.connection.eval(_RELEASE, 1, self.scheduler_lock_key, self.name)

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
            self.connection.eval(_REMEMBER, 2, self.scheduler_lock_key, MEMORY_KEY, self.name)

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
