"""The run loop of the threaded and the forking worker: fetch ids, claim their records, execute the claims."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import redis
import structlog
from rq import Queue
from sqlalchemy.exc import SQLAlchemyError

from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.execution.claim import Claim, claim
from flask_belfry.outbox.backlog import BACKLOG_KEY
from flask_belfry.workers.backlogs import Backlogs, Fetched
from flask_belfry.workers.registration import CHECK_SECONDS, POLL_SECONDS, RegisteredWorker

log = structlog.get_logger(__name__)

MAX_PAUSE_SECONDS = 5.0


class EngineWorker(RegisteredWorker):
    """An RQ worker class whose jobs are records in SQL: Redis only brings their ids.

    Subclasses define how claims are executed. `batch` is the most ids that one fetch returns. With `ends_when_idle` the
    worker ends as in a burst. Without `claims_quarantined` it leaves quarantined jobs to another worker.
    """

    batch = 1
    ends_when_idle = False
    # Whether commits that free slots of limits may claim the next jobs: while the loop runs, and without `max_jobs`.
    _accepts_slots = False
    claims_quarantined = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._backlogs = Backlogs(self.connection, with_quarantined=self.claims_quarantined)

    def work(  # pyright: ignore[reportIncompatibleMethodOverride] - RQ passes its options by keyword
        self,
        burst: bool = False,
        logging_level: str | None = None,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        **rq_options: Any,
    ) -> bool:
        """Work until a signal; with `burst`, until the queues are empty.

        Args:
            burst: end when no job is left.
            logging_level: RQ's own log level.
            max_jobs: end after this many jobs.
            max_idle_time: end after this many seconds without a job.
            rq_options: RQ's other options, which are ignored: the scheduler moves delayed jobs.

        Returns:
            whether any job was run.
        """
        self._start(logging_level)
        try:
            self._accepts_slots = max_jobs is None
            started = self._run_loop(burst or self.ends_when_idle, max_jobs, max_idle_time)
            self._accepts_slots = False
            self._drain()
        finally:
            self._close()
        return started > 0

    def _run_loop(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        """Return how many jobs were started."""
        started, backoff, idle_since = 0, 1.0, time.monotonic()
        fetched = Fetched()
        while not self._stopping.is_set() and not (max_jobs and started >= max_jobs):
            if not self._is_ready():
                continue
            capacity = self._capacity()
            is_every_queue_open = len(capacity) == len(self._unpaused_queues())
            was_busy = bool(self._in_flight)  # what ends after the fetch may have enqueued other jobs
            try:
                fetched = fetched or self._fetch(capacity, block=is_every_queue_open and not burst)
                claims = self._claim(fetched)
                backoff = 1.0
            except (redis.RedisError, SQLAlchemyError) as error:
                reason = str(getattr(error, "orig", error))
                log.warning("worker.waiting", error=type(error).__name__, reason=reason, seconds=backoff)
                self._pause(backoff)
                backoff = min(backoff * 2, MAX_PAUSE_SECONDS)
                continue
            self._execute(claims)
            started += len(claims)
            if fetched:
                fetched, idle_since = Fetched(), time.monotonic()
            elif not is_every_queue_open or (burst and was_busy):
                self._in_flight.wait_until_fewer(CHECK_SECONDS)
            elif burst or (max_idle_time and time.monotonic() - idle_since > max_idle_time):
                break
        return started

    def _is_ready(self) -> bool:
        """Whether more jobs can be executed; waits for that for at most POLL_SECONDS."""
        raise NotImplementedError

    def _capacity(self) -> dict[str, int]:
        """How many more ids may be fetched, by the key of the queue, in the queues' order of precedence."""
        return {queue.key: self.batch for queue in self._unpaused_queues()}

    def _unpaused_queues(self) -> list[Queue]:
        return [queue for queue in self.queues if queue.name not in self._paused_queues]

    def _fetch(self, capacity: Mapping[str, int], *, block: bool) -> Fetched:
        """Pop ids from the queues in their order of precedence; with `block`, wait POLL_SECONDS for the first one."""
        fetched = Fetched()
        if self._paused_queues and self._are_pauses_old():
            with self._app.app_context():
                self._read_pauses()
        if self._is_suspended or (block and not capacity):  # every queue is paused
            self._pause(CHECK_SECONDS)
            return fetched
        self._check_broker(self.connection)
        self._pop(capacity, self.batch, fetched)
        if not fetched and block and (popped := self.connection.blpop(list(capacity), POLL_SECONDS)):
            fetched.ids.append(_decoded(popped[1]))
            self._pop(capacity, self.batch - 1, fetched)
        return fetched

    def _pop(self, capacity: Mapping[str, int], limit: int, fetched: Fetched) -> None:
        """Pop until a queue may have more than was wanted: the queues after it come later."""
        for key, room in capacity.items():
            if (wanted := min(room, limit)) <= 0:
                return
            queue = key.removeprefix(Queue.redis_queue_namespace_prefix)
            with self.connection.pipeline(transaction=False) as pipeline:
                pipeline.lpop(key, wanted)
                pipeline.sismember(BACKLOG_KEY, queue)
                popped, has_backlog = pipeline.execute()
            fetched.ids += [_decoded(id) for id in popped or ()]
            limit -= len(popped or ())
            missing = wanted - len(popped or ())
            self._backlogs.fetch(fetched, queue, missing, bool(has_backlog))
            if has_backlog or not missing:
                return

    def _claim(self, fetched: Fetched) -> list[Claim]:
        """Claim what may run of what was fetched, and add it to the jobs in flight."""
        if not fetched:
            return []
        parsed = [as_uuid_text(text) for text in fetched.ids]
        valid = [id for id in parsed if id is not None]
        if foreign := parsed.count(None):
            log.error("queue.foreign_ids", count=foreign)
        with self._app.app_context():
            session = db.session()
            choice = self._backlogs.choose(session, fetched)
            ids = list(dict.fromkeys([*valid, *choice.ids]))
            claims = claim(session, ids, self.name, with_quarantined=self.claims_quarantined) if ids else []
            unclaimed = set(ids) - {claim.id for claim in claims}
            if unclaimed and not self.claims_quarantined:
                self._leave_quarantined(unclaimed)
            # If none of a backlog may run, its queue may be paused: the next choice would block as many jobs again.
            if unclaimed and (self._are_pauses_old() or (choice.ids and not claims)):
                self._read_pauses()
        self._in_flight.add(claims)
        self._expire_copies(unclaimed)
        self._backlogs.note(fetched, choice)
        return claims

    def _leave_quarantined(self, ids: Collection[str]) -> None:
        """Have another worker claim those of `ids` that are quarantined."""
        raise NotImplementedError

    def _execute(self, claims: Sequence[Claim]) -> None:
        """Run the claimed jobs, or hand them over to the threads that do."""
        raise NotImplementedError

    def _drain(self) -> None:
        """Wait for the jobs in flight; after a signal, release those that exceed the grace period."""

    def _pause(self, seconds: float) -> None:
        self._stopping.wait(seconds)


def _decoded(id: Any) -> str:
    # An entry that is not an id of ours must be recognizable as such, and not stop the worker.
    return id.decode(errors="replace")
