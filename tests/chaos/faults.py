"""What can go wrong, and how it is done: the kinds of faults that a plan draws from."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import redis
from sqlalchemy.exc import SQLAlchemyError

from flask_belfry.db import db
from flask_belfry.outbox.models import PauseKind
from flask_belfry.outbox.pauses import pause, resume
from tests import fcm
from tests.chaos.domain import LIMIT_KEY
from tests.chaos.plan import Kind, Planned
from tests.chaos.services import Kill, Service
from tests.chaos.stack import SCHEDULERS, Stack
from tests.processes import children_of
from tests.smtp import CUT, HANG

# A process manager gives a process a little more than its grace.
STOP_MARGIN_SECONDS = 10.0
# How long a work horse, or the child of a process that starts just now, is waited for.
VICTIM_SECONDS = 4.0

Seconds = tuple[float, float]
BLOW: Seconds = (0.0, 0.0)
SHORT: Seconds = (0.5, 3.0)
LONG: Seconds = (-1.0, -1.0)  # longer than RESCUE_AFTER_SECONDS
# The time in which a process that was asked to end does so, and the next one starts.
DEPLOY: Seconds = (6.0, 6.0)
AWAY: Seconds = (1.0, 8.0)
# So long that something meets a refusal, of which there are few.
REFUSING: Seconds = (3.0, 8.0)

Strike = Callable[[Stack, Planned], bool]
Choose = Callable[[Service, int], int | None]


# ── Processes ────────────────────────────────────────────────────────────────────────────────────────────────────


def _main(service: Service, lot: int) -> int | None:
    return service.pid if service.status() is None else None


def _child(service: Service, lot: int) -> int | None:
    """One of its children: a worker of a parent, or of gunicorn."""
    return _one(lambda: service.children, lot)


def _horse(service: Service, lot: int) -> int | None:
    """The work horse of the heavy worker."""
    return _one(lambda: [horse for worker in service.children for horse in _children(worker)], lot)


def _one(find: Callable[[], Sequence[int]], lot: int) -> int | None:
    ends_at = time.monotonic() + VICTIM_SECONDS
    while time.monotonic() < ends_at:
        if found := find():
            return found[lot % len(found)]
        time.sleep(0.005)
    return None


def _children(pid: int) -> Sequence[int]:
    try:
        return children_of(pid)
    except (FileNotFoundError, ProcessLookupError):
        return []


def _worker_pid(service: Service, pid: int) -> int:
    """The process in the name of the worker: a work horse works in its parent's."""
    return next((worker for worker in service.children if pid in _children(worker)), pid)


def _kill(choose: Choose) -> Strike:
    def do(stack: Stack, fault: Planned) -> bool:
        service = stack.manager.services[fault.target]
        pid = choose(service, fault.lot)
        if pid is None:
            return False
        service.is_expected_to_end |= pid == service.pid
        stack.manager.kill(pid, _worker_pid(service, pid))
        if fault.target in SCHEDULERS:
            stack.stalls.append(time.time())
        return True

    return do


def _freeze(choose: Choose) -> Strike:
    def do(stack: Stack, fault: Planned) -> bool:
        service = stack.manager.services[fault.target]
        pid = choose(service, fault.lot)
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            stack.stalls.append(time.time())
            stack.freezes.append(Kill(_worker_pid(service, pid), time.time()))
            time.sleep(fault.seconds)
            os.kill(pid, signal.SIGCONT)
        return True

    return do


def _deploy(stack: Stack, fault: Planned) -> bool:
    service = stack.manager.services[fault.target]
    pid = _main(service, fault.lot)
    if pid is None:
        return False
    service.is_expected_to_end = True
    if fault.target in SCHEDULERS:
        stack.stalls.append(time.time())
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    ends_at = time.monotonic() + stack.grace_seconds + STOP_MARGIN_SECONDS
    while service.pid == pid and service.status() is None:
        if time.monotonic() > ends_at:
            stack.notes.append(f"{service.name} ({pid}) did not end {STOP_MARGIN_SECONDS:g} s past its grace")
            stack.manager.kill(pid)
            break
        time.sleep(0.05)
    return True


# ── Valkey ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _server(name: str, do: Callable[[Stack, Planned], None]) -> Strike:
    def strike_server(stack: Stack, fault: Planned) -> bool:
        with stack.locks[name]:
            do(stack, fault)
        if name in ("valkey", "postgres"):
            stack.stalls.append(time.time())
        return True

    return strike_server


def _flush(stack: Stack, fault: Planned) -> None:
    stack.valkey.client().flushall()


def _restart_valkey(stack: Stack, fault: Planned) -> None:
    stack.valkey.stop()
    stack.valkey.start()


def _kill_valkey(stack: Stack, fault: Planned) -> None:
    stack.valkey.kill()
    stack.valkey.start()


def _valkey_away(stack: Stack, fault: Planned) -> None:
    stack.valkey.stop()
    time.sleep(fault.seconds)
    stack.valkey.start()


def _valkey_silent(stack: Stack, fault: Planned) -> None:
    stack.valkey.freeze()
    time.sleep(fault.seconds)
    stack.valkey.thaw()


def _valkey_full(stack: Stack, fault: Planned) -> None:
    client: Any = stack.valkey.client()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    time.sleep(fault.seconds)
    client.config_set("maxmemory", 0)


def _valkey_read_only(stack: Stack, fault: Planned) -> None:
    client: redis.Redis = stack.valkey.client()
    client.replicaof("127.0.0.1", "1")  # a primary that is not there, as in a failover
    time.sleep(fault.seconds)
    client.replicaof("NO", "ONE")


# ── PostgreSQL ───────────────────────────────────────────────────────────────────────────────────────────────────


def _restart_postgres(stack: Stack, fault: Planned) -> None:
    stack.postgres.stop("fast")
    stack.postgres.start()


def _crash_postgres(stack: Stack, fault: Planned) -> None:
    stack.postgres.stop("immediate")
    stack.postgres.start()


def _cut_postgres(stack: Stack, fault: Planned) -> None:
    with psycopg.connect(stack.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )


# ── Pauses ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _pause(kind: PauseKind, name: str) -> Strike:
    """Pause and resume, or pause with an end: every second pause is left to end by itself."""

    def do(stack: Stack, fault: Planned) -> bool:
        ends_by_itself = fault.lot % 2 == 0
        duration = timedelta(seconds=fault.seconds) if ends_by_itself else None
        _commit(stack, lambda: pause(db.session(), kind, name, duration=duration))
        time.sleep(fault.seconds)
        if not ends_by_itself:
            _commit(stack, lambda: resume(db.session(), kind, name))
        stack.stalls.append(time.time())
        return True

    return do


def _commit(stack: Stack, write: Callable[[], object]) -> None:
    """Commit what an operator asks for, again until the database answers."""
    with stack.app.app_context():
        while True:
            try:
                write()
                db.session.commit()
            except SQLAlchemyError:
                db.session.rollback()
                time.sleep(0.1)
            else:
                return


# ── SMTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _trouble(at: str, do: str, most: int | None = None) -> Strike:
    def trouble(stack: Stack, fault: Planned) -> None:
        added = stack.smtp.fail(at, do, times=None if most is None else 1 + fault.lot % most)
        time.sleep(fault.seconds)
        stack.smtp.mend(added)

    return _server("smtp", trouble)


def _smtp_away(stack: Stack, fault: Planned) -> None:
    stack.smtp.stop()
    time.sleep(fault.seconds)
    stack.smtp.start()


# ── FCM ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fcm_fails(failure: fcm.Fault, most: int | None = None) -> Strike:
    def fail(stack: Stack, fault: Planned) -> None:
        stack.fcm.fail(None, failure, times=None if most is None else 1 + fault.lot % most)
        time.sleep(fault.seconds)
        stack.fcm.mend()

    return _server("fcm", fail)


def _fcm_away(stack: Stack, fault: Planned) -> None:
    stack.fcm.stop()
    time.sleep(fault.seconds)
    stack.fcm.start()


def _fcm_revokes(stack: Stack, fault: Planned) -> None:
    stack.fcm.revoke_access_tokens()


_TABLE: tuple[tuple[str, tuple[str, ...], Seconds, Strike], ...] = (
    ("kill light worker", ("light",), BLOW, _kill(_child)),
    ("kill pool's child", ("pool",), BLOW, _kill(_child)),
    ("kill pool's parent", ("pool",), BLOW, _kill(_main)),
    ("kill heavy worker", ("heavy",), BLOW, _kill(_child)),
    ("kill work horse", ("heavy",), BLOW, _kill(_horse)),
    ("kill scheduler", SCHEDULERS, BLOW, _kill(_main)),
    ("kill web master", ("web",), BLOW, _kill(_main)),
    ("kill web worker", ("web",), BLOW, _kill(_child)),
    ("kill load", ("load",), BLOW, _kill(_main)),
    ("deploy light worker", ("light",), DEPLOY, _deploy),
    ("deploy pool", ("pool",), DEPLOY, _deploy),
    ("deploy heavy worker", ("heavy",), DEPLOY, _deploy),
    ("deploy scheduler", SCHEDULERS, DEPLOY, _deploy),
    ("deploy web", ("web",), DEPLOY, _deploy),
    ("freeze light worker", ("light",), SHORT, _freeze(_child)),
    ("freeze light worker for long", ("light",), LONG, _freeze(_child)),
    ("freeze pool's child", ("pool",), SHORT, _freeze(_child)),
    ("freeze pool's child for long", ("pool",), LONG, _freeze(_child)),
    ("freeze heavy worker", ("heavy",), SHORT, _freeze(_child)),
    ("freeze heavy worker for long", ("heavy",), LONG, _freeze(_child)),
    ("freeze work horse", ("heavy",), SHORT, _freeze(_horse)),
    ("freeze work horse for long", ("heavy",), LONG, _freeze(_horse)),
    ("freeze scheduler", SCHEDULERS, SHORT, _freeze(_main)),
    ("freeze scheduler for long", SCHEDULERS, LONG, _freeze(_main)),
    ("freeze web worker", ("web",), SHORT, _freeze(_child)),
    ("flush Valkey", ("valkey",), BLOW, _server("valkey", _flush)),
    ("restart Valkey", ("valkey",), BLOW, _server("valkey", _restart_valkey)),
    ("kill Valkey", ("valkey",), BLOW, _server("valkey", _kill_valkey)),
    ("Valkey away", ("valkey",), AWAY, _server("valkey", _valkey_away)),
    ("Valkey silent", ("valkey",), AWAY, _server("valkey", _valkey_silent)),
    ("Valkey full", ("valkey",), AWAY, _server("valkey", _valkey_full)),
    ("Valkey read-only", ("valkey",), AWAY, _server("valkey", _valkey_read_only)),
    ("restart PostgreSQL", ("postgres",), BLOW, _server("postgres", _restart_postgres)),
    ("crash PostgreSQL", ("postgres",), BLOW, _server("postgres", _crash_postgres)),
    ("cut PostgreSQL's connections", ("postgres",), BLOW, _server("postgres", _cut_postgres)),
    ("pause a queue", ("bulk",), SHORT, _pause(PauseKind.QUEUE, "bulk")),
    ("pause a job", ("chaos.flaky",), SHORT, _pause(PauseKind.JOB, "chaos.flaky")),
    ("pause a limit key", (LIMIT_KEY,), SHORT, _pause(PauseKind.LIMIT, LIMIT_KEY)),
    ("SMTP defers", ("smtp",), SHORT, _trouble("content", "451 4.3.0 later")),
    ("SMTP refuses", ("smtp",), REFUSING, _trouble("content", "554 5.6.0 refused by the chaos", 10)),
    ("SMTP hangs before taking a mail", ("smtp",), SHORT, _trouble("content", HANG)),
    ("SMTP hangs after taking a mail", ("smtp",), SHORT, _trouble("accepted", HANG, 10)),
    ("SMTP cuts before its 250", ("smtp",), SHORT, _trouble("accepted", CUT, 10)),
    ("SMTP cuts after its 250", ("smtp",), SHORT, _trouble("answered", CUT)),
    ("SMTP away", ("smtp",), SHORT, _server("smtp", _smtp_away)),
    ("FCM away", ("fcm",), AWAY, _server("fcm", _fcm_away)),
    ("FCM unavailable", ("fcm",), SHORT, _fcm_fails(fcm.UNAVAILABLE)),
    ("FCM throttles", ("fcm",), SHORT, _fcm_fails(fcm.throttled("3"))),
    ("FCM refuses", ("fcm",), REFUSING, _fcm_fails(fcm.INVALID_SOMETHING, 10)),
    ("FCM hangs", ("fcm",), SHORT, _fcm_fails(fcm.Fault(fcm.HANG), 10)),
    ("FCM revokes access tokens", ("fcm",), BLOW, _server("fcm", _fcm_revokes)),
)
_KINDS = {name: Kind(name, targets, seconds) for name, targets, seconds, _ in _TABLE}
_STRIKES = {name: strike for name, _, _, strike in _TABLE}


def kinds(rescue_after_seconds: float, names: Sequence[str] = ()) -> tuple[Kind, ...]:
    """The kinds of faults.

    Args:
        rescue_after_seconds: RESCUE_AFTER_SECONDS of the stack: a long freeze is longer.
        names: which; all by default.
    """
    longer = (rescue_after_seconds + 2, rescue_after_seconds + 5)
    chosen = [_KINDS[name] for name in names or _KINDS]
    return tuple(replace(kind, seconds=longer) if kind.seconds == LONG else kind for kind in chosen)


def strike(stack: Stack, fault: Planned) -> bool:
    """Inject the fault, and undo it when its time is over. Return whether it had a target."""
    return _STRIKES[fault.kind.name](stack, fault)
