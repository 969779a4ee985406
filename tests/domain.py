"""A domain for tests of the engine: tickets whose status is watched, and jobs that run functions of a test."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Mapped, Session, mapped_column

from flask_belfry.changes import Change, Creation, on_change, on_created
from flask_belfry.db import Base, table_of
from flask_belfry.db.columns import database_now, text_enum
from flask_belfry.execution import Chunk, Limit, RetryPolicy, Snooze, current_job, job
from flask_belfry.execution.claim import Claim
from flask_belfry.outbox import JobRecord, JobRequest, WorkerProcess, enqueue_many

log = structlog.get_logger(__name__)


class TicketStatus(StrEnum):
    """A ticket's status."""

    OPEN = "open"
    DOING = "doing"
    DONE = "done"


class Ticket(Base):
    """A row with a watched column."""

    __tablename__ = "tickets"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(sa.String(80), default="")
    status: Mapped[TicketStatus] = mapped_column(
        text_enum(TicketStatus), default=TicketStatus.OPEN, active_history=True
    )
    touched: Mapped[int] = mapped_column(default=0)


@on_created(Ticket)
def ticket_created(creations: Sequence[Creation]) -> None:
    """Asks for one job per new ticket."""
    enqueue_many("test.greet", [JobRequest({"ticket_id": c.subject.id}, subject=c.subject) for c in creations])


@on_change(Ticket.status)
def ticket_changed(changes: Sequence[Change]) -> None:
    """Asks for one job per change."""
    enqueue_many(
        "test.tell",
        [
            JobRequest({"ticket_id": c.subject.id, "old": c.old, "new": c.new}, subject=c.subject, change_id=c.id)
            for c in changes
        ],
    )


@job("test.greet")
def greet(session: Session, ticket_id: int) -> None:
    """Does nothing."""


@job("test.tell")
def tell(session: Session, ticket_id: int, old: str, new: str) -> dict[str, str]:
    """Return its argument."""
    return {"old": old, "new": new}


@job("test.nap", queue="bulk", timeout_seconds=2)
def nap(session: Session, seconds: float, uninterrupted: bool = False) -> dict[str, int]:
    """Takes its time, in Python or in one call of C, and marks a ticket that it did."""
    session.add(Ticket(title="napped"))
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        time.sleep(seconds if uninterrupted else 0.01)
    return {"pid": os.getpid()}


@job("test.long_nap", queue="default", timeout_seconds=60)
def long_nap(session: Session, seconds: float) -> dict[str, int]:
    """The same with a generous limit."""
    return nap(session, seconds)


@job("test.heavy_nap", queue="heavy", timeout_seconds=2)
def heavy_nap(session: Session, seconds: float) -> dict[str, int]:
    """The same in a process of its own."""
    return nap(session, seconds, uninterrupted=True)


@job("test.heavy_long_nap", queue="heavy", timeout_seconds=120)
def heavy_long_nap(session: Session, seconds: float) -> dict[str, int]:
    """The same with a generous limit."""
    return nap(session, seconds)


@job("test.wait", timeout_seconds=120)
def wait(session: Session, file: str) -> None:
    """Runs until the file is there, and marks a ticket, past the hook that asks for another job."""
    while not Path(file).exists():
        time.sleep(0.01)
    session.connection().execute(sa.insert(table_of(Ticket)).values(title="waited"))


@job("test.heavy_wait", queue="heavy", timeout_seconds=120)
def heavy_wait(session: Session, file: str) -> None:
    """The same in a process of its own."""
    wait(session, file)


@job("test.nap_in_chunks", chunk=50, takes=("seconds",), timeout_seconds=60)
def nap_in_chunks(chunk: Chunk) -> None:
    """One nap after the other; what has not begun when the worker is about to stop goes back."""
    for item in chunk:
        if chunk.should_stop:
            chunk.release(item)
        else:
            time.sleep(item.args["seconds"])
            chunk.answer(item)


@job("test.linger", timeout_seconds=120)
def linger(session: Session, seconds: float = 100.0) -> dict[str, int]:
    """Takes its time, until its worker is killed; the next time it is quick."""
    return nap(session, seconds if current_job().claim.number == 1 else 0.0)


@job("test.heavy_linger", queue="heavy", timeout_seconds=120)
def heavy_linger(session: Session, seconds: float = 100.0) -> dict[str, int]:
    """The same in a process of its own."""
    return linger(session, seconds)


@job("test.log_on", timeout_seconds=120)
def log_on(session: Session, seconds: float = 100.0) -> None:
    """Logs a line and reports progress, and takes its time."""
    log.info("logged")
    current_job().progress(1)
    time.sleep(seconds)


@job("test.heavy_log_on", queue="heavy", timeout_seconds=120)
def heavy_log_on(session: Session, seconds: float = 100.0) -> None:
    """The same in a process of its own."""
    log_on(session, seconds)


@job("test.crash", queue="heavy")
def crash(session: Session, times: int) -> str:
    """Kills its own process, the first so many times."""
    claims = session.scalar(sa.select(JobRecord.claims).where(JobRecord.id == current_job().claim.id)) or 0
    session.add(Ticket(title="crashed or not"))
    session.flush()
    if claims <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@job("test.hold_on", timeout_seconds=120)
def hold_on(session: Session) -> None:
    """Uses the database until that goes away; the next time it is quick."""
    session.add(Ticket(title="held on"))
    _hold_on(session, current_job().claim)


@job("test.heavy_hold_on", queue="heavy", timeout_seconds=120)
def heavy_hold_on(session: Session) -> None:
    """The same in a process of its own."""
    hold_on(session)


@job("test.hold_on_in_chunks", chunk=50, timeout_seconds=120)
def hold_on_in_chunks(chunk: Chunk) -> None:
    """The same with many; a ticket is written for each that is answered."""
    chunk.before_commit(
        lambda session, answers: session.add_all(Ticket(title="held on") for answer in answers if answer.result)
    )
    for item in chunk:
        _hold_on(chunk.session, item)
        chunk.answer(item, "answered")


def _hold_on(session: Session, claim: Claim) -> None:
    while claim.number == 1:
        session.execute(sa.select(1))
        time.sleep(0.05)


def _own_signals() -> list[str]:
    """Those that are blocked here, or have a handler."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    handled = {number for number in numbers if signal.getsignal(number) is not signal.SIG_DFL}
    return sorted(str(number) for number in handled | signal.pthread_sigmask(signal.SIG_BLOCK, ()))


@job("test.fork", timeout_seconds=30)
def fork(session: Session) -> dict[str, Any]:
    """Ends a child as soon as it is there, and a pool that is busy; reports with which signals these begin."""
    context = multiprocessing.get_context("fork")
    child = context.Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join()
    with context.Pool(1) as pool:
        signals = pool.apply(_own_signals)
        pool.apply_async(time.sleep, (60,))
    return {"exit": child.exitcode, "signals": signals}


@job("test.heavy_fork", queue="heavy", timeout_seconds=30)
def heavy_fork(session: Session) -> dict[str, Any]:
    """The same in a process of its own."""
    return fork(session)


@job("test.poison", queue="default")
def poison(session: Session, seconds: float) -> None:
    """Kill its process, with all jobs in it."""
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


@job("test.segfault", timeout_seconds=120)
def segfault(session: Session) -> None:
    """Crashes its process by a fault of its own thread, soon."""
    time.sleep(0.3)
    ctypes.string_at(0)


@job("test.freeze", timeout_seconds=600)
def freeze(session: Session, how: str) -> None:
    """Hold the interpreter for longer than any watchdog waits: it computes, or it waits in C."""
    time.sleep(0.3)
    if how == "computes":
        re.match(r"(a+)+$", "a" * 60 + "b")
    else:
        ctypes.PyDLL(None).sleep(600)


def fall_silent(session: Session, seconds: float = 30.0) -> None:
    """Make all heartbeats and claims as old as this. Commits."""
    moment = database_now(-seconds)
    session.execute(sa.update(WorkerProcess).values(heartbeat_at=moment))
    session.execute(sa.update(JobRecord).where(JobRecord.started_at.is_not(None)).values(started_at=moment))
    session.commit()


def key_of(args: Mapping[str, Any]) -> str:
    """Return the limit key of the jobs below."""
    return f"test/{args['key']}"


@job("test.limited", limit=Limit(key_of, running=4), timeout_seconds=60)
def limited(session: Session, key: str, seconds: float = 0.0, file: str | None = None) -> None:
    """Takes its time, and notes when it began and ended."""
    note(file, "begin")
    time.sleep(seconds)
    note(file, "end")


@job("test.limited_reader", limit=Limit(key_of, running=4), timeout_seconds=60)
def limited_reader(session: Session, key: str, seconds: float = 0.0) -> None:
    """Takes its time, and is completed on its own thread, since it has read."""
    time.sleep(seconds)
    session.execute(sa.text("SELECT 1"))


@job("test.limited_more", limit=Limit(key_of, running=2))
def limited_more(session: Session, key: str) -> None:
    """The same key with a lower limit."""


@job("test.paced", limit=Limit(key_of, per_minute=600), queue="default")
def paced(session: Session, key: str, file: str | None = None) -> None:
    """Notes when it began."""
    note(file, "begin")


@job("test.paced_alone", limit=Limit(key_of, running=1, per_minute=600))
def paced_alone(session: Session, key: str) -> None:
    """Has both limits."""


@job("test.limited_chunk", limit=Limit(key_of, running=4), chunk=50, takes=("key",))
def limited_chunk(chunk: Chunk) -> None:
    """Answers all it gets."""
    for item in chunk:
        chunk.answer(item)


@job("test.snooze_limited", limit=Limit(key_of, running=4))
def snooze_limited(session: Session, key: str) -> None:
    """Snooze."""
    raise Snooze(60, "later")


class Numbers(Sequence[int]):
    """The numbers from 0 on. A process that reads or writes a page stays there until it is killed or about to end.

    Args:
        count: how many.
        folder: where a file is written at each stop, with the process id. A file that exists is passed.
        stops: names such as `reads 2` and `writes 2`, with the first number of the page.
    """

    def __init__(self, count: int, folder: str, stops: Sequence[str]) -> None:
        self._numbers, self._folder, self._stops = range(count), Path(folder), stops

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, at: Any) -> Any:
        self.stop(f"reads {at.start}")
        return self._numbers[at]

    def stop(self, where: str) -> None:
        """Stay here the first time, if it is one of the stops."""
        path = self._folder / where
        if where in self._stops and not path.exists():
            path.with_suffix(".new").write_text(str(os.getpid()))
            path.with_suffix(".new").rename(path)
            stepper = current_job().stepper
            while stepper is not None and not stepper._should_stop():
                time.sleep(0.01)


@job("test.step", timeout_seconds=120)
def step(session: Session, count: int, size: int, folder: str, stops: list[str]) -> int:
    """Write a row for each number, page by page."""
    numbers = Numbers(count, folder, stops)
    for page in current_job().steps(numbers, size):
        session.connection().execute(sa.insert(table_of(Ticket)), [{"title": f"did {number}"} for number in page])
        numbers.stop(f"writes {page[0]}")
    return os.getpid()


@job("test.heavy_step", queue="heavy", timeout_seconds=120)
def heavy_step(session: Session, count: int, size: int, folder: str, stops: list[str]) -> int:
    """The same in a process of its own."""
    return step(session, count, size, folder, stops)


@job("test.nap_in_steps", timeout_seconds=2)
def nap_in_steps(session: Session, naps: list[float]) -> None:
    """Takes its time in each page, longer than its limit in all, and writes a row."""
    for (seconds,) in current_job().steps(naps, 1):
        session.connection().execute(sa.insert(table_of(Ticket)).values(title="napped"))
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            time.sleep(0.01)


@job("test.heavy_nap_in_steps", queue="heavy", timeout_seconds=2)
def heavy_nap_in_steps(session: Session, naps: list[float]) -> None:
    """The same in a process of its own."""
    nap_in_steps(session, naps)


def note(file: str | None, what: str) -> None:
    """Append a line to a file: the process, the claim, what it does, and when, by a clock that all processes share."""
    if file is not None:
        claim = current_job().claim
        with Path(file).open("a") as lines:
            lines.write(f"{os.getpid()} {claim.id}/{claim.number} {what} {time.monotonic()}\n")


# What `test.act` and `test.act_in_chunks` do, set by a test.
behaviour: dict[str, Callable[..., Any]] = {}


@job("test.act", retry=RetryPolicy(delays_seconds=(60, 120)), timeout_seconds=2)
def act(session: Session, ticket_id: int = 0) -> Any:
    """Does what the test says."""
    return behaviour["act"](session, ticket_id)


@job("test.act_in_chunks", retry=RetryPolicy(delays_seconds=(60,)), chunk=50, takes=("ticket_id",))
def act_in_chunks(chunk: Chunk) -> None:
    """Does what the test says, with many."""
    behaviour["chunk"](chunk)


@job("test.echo")
def echo(session: Session, value: Any = None) -> Any:
    """Return its argument."""
    return value


@job("test.fail")
def fail(session: Session) -> None:
    """Fail, and is not retried."""
    raise ValueError("as it was asked to")


@job("test.mark", queue="bulk")
def mark(session: Session, number: int) -> None:
    """Write a row, past the hook that enqueues another job; every tenth fails."""
    session.connection().execute(sa.insert(table_of(Ticket)).values(title=f"marked {number}"))
    if number % 10 == 0:
        raise ValueError(number)


@job("test.finish")
def finish(session: Session, batch_id: str, completed: int, failed: int, cancelled: int, note: str = "") -> Any:
    """Return what it was given: the outcome of a batch."""
    return {"batch_id": batch_id, "counts": [completed, failed, cancelled], "note": note}


@job("test.touch")
def touch(session: Session, number: int = 0) -> None:
    """Write a row, past the hook that enqueues another job."""
    session.connection().execute(sa.insert(table_of(Ticket)).values(title=f"touched {number}"))
