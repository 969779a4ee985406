"""One run: start everything, strike as planned under load, let it settle, stop it, read the books."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import sqlalchemy as sa

from app.notifications import Notification, NotificationState, ScheduledNotification, ScheduledState
from flask_belfry.db import db
from flask_belfry.operations import BulkOperation, BulkState
from flask_belfry.outbox import FINALIZED, JobBatch, JobRecord, run_now
from tests.chaos.comparison import Findings, compare
from tests.chaos.facts import Facts, read_facts
from tests.chaos.faults import strike
from tests.chaos.notices import FALL_BACK
from tests.chaos.plan import Planned, plan
from tests.chaos.rescues import Rescue, deaths, rescues
from tests.chaos.stack import Scale, Stack, stack
from tests.processes import LOGGING_ERROR

Say = Callable[[str], None]
# The jobs of the application that are not of its schedule.
OF_LOAD = (
    "mail.deliver",
    "notifications.deliver",
    FALL_BACK,
    "notifications.finish",
    "notifications.push",
    "notifications.send_scheduled",
    "operations.run_bulk",
)


@dataclass
class Result:
    """What a run found.

    Args:
        struck: how many faults struck, by kind.
        missed: how many had no target.
        facts, findings: the books and their comparison.
        rescues: how long killed jobs waited.
        notes: broken promises that are in no book.
        own_ends: processes that ended without having been struck: allowed, and worth a look.
    """

    struck: Counter[str]
    missed: int
    facts: Facts
    findings: Findings
    rescues: list[Rescue]
    notes: list[str]
    own_ends: list[str]
    slow: list[Rescue] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slow = [rescue for rescue in self.rescues if rescue.is_slow]

    @property
    def is_well(self) -> bool:
        """Whether every promise held, and there was something to hold it for."""
        return not (self.findings.broken or self.slow or self.notes) and bool(self.facts.committed)


def run(folder: Path, seed: str, faults: int, scale: Scale, say: Say) -> Result:
    """Runs the chaos.

    Args:
        folder: where logs and the load's book go.
        seed: of the faults and the load.
        faults: how many.
        scale: how large.
        say: called with what happens.
    """
    with stack(folder, seed, scale) as running:
        say(f"started; the load is on, the logs are in {folder}")
        struck, missed = _strike_all(running, plan(seed, faults, scale.kinds, scale.pace), say)
        say("the last fault is over: waiting for every job to end")
        _end_load(running)
        unsettled = _settle(running, scale.settle_seconds)
        if unsettled:
            say(f"{unsettled} jobs, batches or notifications are not at an end after {scale.settle_seconds:g} s")
        late = running.manager.stop(running.grace_seconds + 10)
        running.notes.extend(f"{name} did not end when it was asked to" for name in late)
        logs = sorted(folder.glob("*.log"))
        running.notes.extend(
            f"{log.name}: a line was not logged" for log in logs if LOGGING_ERROR in log.read_text(errors="replace")
        )
        with running.app.app_context():
            facts = read_facts(folder / "book.txt", running.postgres, running.smtp, running.fcm)
            facts = _with_poisoned(facts, running)
        return Result(
            struck,
            missed,
            facts,
            compare(facts),
            rescues(facts, running.manager.kills, running.stalls),
            running.notes,
            running.manager.own_ends,
        )


def _with_poisoned(facts: Facts, running: Stack) -> Facts:
    limit = running.app.config["MAX_INTERRUPTIONS"]
    found = deaths(facts, [*running.manager.kills, *running.freezes])
    return replace(facts, poisoned=frozenset(id for id, count in found.items() if count >= limit))


def _strike_all(running: Stack, faults: list[Planned], say: Say) -> tuple[Counter[str], int]:
    struck: Counter[str] = Counter()
    errors: list[BaseException] = []
    began_at = time.monotonic()

    def strike_one(fault: Planned) -> None:
        said = f"{time.time():.3f} {time.monotonic() - began_at:6.1f} s  {fault.kind.name} ({fault.target}"
        say(said + (f", {fault.seconds:.1f} s)" if fault.seconds else ")"))
        try:
            struck[fault.kind.name] += strike(running, fault)
        except BaseException as error:
            errors.append(error)

    threads: list[threading.Thread] = []
    for fault in faults:
        time.sleep(max(0.0, began_at + fault.at - time.monotonic()))
        threads.append(threading.Thread(target=strike_one, args=(fault,), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return struck, len(faults) - struck.total()


def _end_load(running: Stack) -> None:
    load = running.manager.retire("load")
    if load.status() is not None:
        return  # it was killed last
    with suppress(ProcessLookupError):
        os.kill(load.pid, signal.SIGTERM)
    if load.wait(30) is None:
        running.notes.append("the load did not end")


def _settle(running: Stack, limit_seconds: float) -> int:
    """Waits until no job lives, those of the schedule aside, and what follows the end of jobs has followed; returns how
    much there is after the limit."""
    is_of_load = sa.or_(JobRecord.name.like("chaos.%"), JobRecord.name.in_(OF_LOAD))
    live = (
        (JobRecord, JobRecord.state.not_in(FINALIZED) & is_of_load),
        (JobBatch, JobBatch.finished_at.is_(None)),
        (Notification, Notification.state == NotificationState.SENDING),
        (ScheduledNotification, ScheduledNotification.state == ScheduledState.SCHEDULED),
        (BulkOperation, BulkOperation.state == BulkState.RUNNING),
    )
    queries = [sa.select(sa.func.count()).select_from(model).where(condition) for model, condition in live]
    ends_at = time.monotonic() + limit_seconds
    with running.app.app_context():
        run_now(db.session.scalars(sa.select(JobRecord.id).where(JobRecord.name == FALL_BACK)).all())
        db.session.commit()
    while True:
        with running.app.app_context():
            count = sum(db.session.scalar(query) or 0 for query in queries)
        if not count or time.monotonic() > ends_at:
            return count
        time.sleep(0.2)
