"""Notifications to 10,000 people: how long accepting one takes, and how fast its mails are sent."""

from __future__ import annotations

import http.client
import math
import time
from collections.abc import Iterator, Mapping
from functools import partial

from bench.cases.mails import compare_rates
from bench.cases.web import ask
from bench.contestants import Desk
from bench.errors import BenchError
from bench.figures import Comparison, Quantity, percentile
from bench.ground import START_SECONDS, Ground, Grounds
from bench.plan import Plan
from tests.servers import free_port

ACCEPTED_PEOPLE = 10_000
TIMES = 5
PEOPLE = {"belfry": 10_000, "celery": 1_500}
SLOW_PEOPLE = {"belfry": 4_000, "celery": 300}
PUSHES = {"belfry": 4_000, "celery": 100}
SCHEDULED = 1_000
RESETS = 20
UNSENT = "SELECT count(*) FROM scheduled_notifications WHERE state <> 'sent'"
LATENESS = {
    "sqlite": "(julianday(sent.created_at) - julianday(send_at)) * 86400",
    "postgresql": "EXTRACT(EPOCH FROM sent.created_at - send_at)",
}
LONGEST_FIRST = (
    "SELECT {lateness} FROM scheduled_notifications JOIN notifications AS sent ON sent.id = notification_id "
    "ORDER BY 1 DESC LIMIT 1 OFFSET {offset}"
)
HEADERS = {"Content-Type": "application/json"}
ACCEPT = Quantity("notification_accept_p50", "ms")


def notification_accept(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """The time of accepting a notification to 10,000 people, with its commit: the median of five."""
    for database in plan.databases:
        measure = partial(_accept, grounds, plan.belfry, database, plan.scaled(ACCEPTED_PEOPLE))
        yield from plan.compare(database, {plan.belfry.name: measure})


def bulk_mails(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """Mails per second of one notification, to a server that answers at once."""
    yield from compare_rates(grounds, plan, Quantity("bulk_mails", "mails/s"), PEOPLE, _notify)


def bulk_mails_50ms(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """The same, to a server that takes 50 ms for each."""
    yield from compare_rates(grounds, plan, Quantity("bulk_mails_50ms", "mails/s"), SLOW_PEOPLE, _notify, 0.05)


def push_50ms(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """Push messages per second of one notification, to a server that takes 50 ms for each."""
    for database in plan.databases:
        measures = {
            desk.name: partial(_push, grounds, desk, database, plan.scaled(PUSHES[desk.name])) for desk in plan.desks
        }
        yield from plan.compare(database, measures)


def scheduled_lateness(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """How long after its time each of 1,000 notifications that are scheduled in one minute is accepted."""
    for database in plan.databases:
        measure = partial(_lateness, grounds, plan.belfry, database, plan.scaled(SCHEDULED))
        yield from plan.compare(database, {plan.belfry.name: measure})


def reset_in_bulk(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """From a request for a password reset, while a notification is mailed to 10,000 people, to its mail."""
    for database in plan.databases:
        measure = partial(_resets, grounds, plan.belfry, database, plan)
        yield from plan.compare(database, {plan.belfry.name: measure})


def _accept(grounds: Grounds, desk: Desk, database: str, people: int) -> Mapping[Quantity, float]:
    with grounds.fresh(database) as ground:
        desk.step(ground, "prepare", people)
        taken = [desk.step(ground, "notify")["seconds"] for _ in range(TIMES)]
        return {ACCEPT: percentile(taken, 50) * 1_000}


def _notify(ground: Ground, desk: Desk, people: int) -> None:
    desk.step(ground, "prepare", people)
    desk.step(ground, "notify")


def _resets(grounds: Grounds, desk: Desk, database: str, plan: Plan) -> Mapping[Quantity, float]:
    people, resets = plan.scaled(ACCEPTED_PEOPLE), plan.scaled(RESETS)
    with grounds.fresh(database) as ground:
        desk.step(ground, "prepare", people)
        desk.step(ground, "hire", resets)
        desk.start_all(ground, port := free_port())
        ground.wait_until_listening(port)
        desk.step(ground, "notify")
        ground.wait(lambda: len(ground.accepted()) > 0, START_SECONDS)
        seconds = [_reset(ground, port, f"staff{number}@example.org") for number in range(1, resets + 1)]
        if len(ground.accepted()) >= people:
            raise BenchError("the notification was sent before the last password was reset")
        return {Quantity(f"reset_in_bulk_p{percent}", "s"): percentile(seconds, percent) for percent in (50, 99)}


def _reset(ground: Ground, port: int, email: str) -> float:
    begun = time.time()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        _, status, content = ask(connection, "POST", "/api/v1/auth/password-reset", {"email": email}, HEADERS)
    finally:
        connection.close()
    if status != 202:
        raise BenchError(f"a password reset was answered with {status}: {content[:200].decode()}")
    ground.wait(lambda: email in ground.recipients(), START_SECONDS, every=0.02)
    return ground.recipients()[email] - begun


def _push(grounds: Grounds, desk: Desk, database: str, people: int) -> Mapping[Quantity, float]:
    """Between the first and the last message that the server accepted."""
    with grounds.fresh(database) as ground:
        log = ground.start_fcm(0.05)
        desk.step(ground, "prepare", people)
        desk.step(ground, "register_devices")
        desk.step(ground, "notify_by_push")
        desk.start_workers(ground)
        ground.wait(lambda: log.read_text().count("\n") >= people)
        accepted = [float(line) for line in log.read_text().splitlines()]
        if len(accepted) > people:
            raise BenchError(f"{desk.name} sent {len(accepted)} push messages instead of {people}")
        return {Quantity("push_50ms", "messages/s"): (people - 1) / (max(accepted) - min(accepted))}


def _lateness(grounds: Grounds, desk: Desk, database: str, count: int) -> Mapping[Quantity, float]:
    with grounds.fresh(database) as ground:
        desk.step(ground, "prepare", 1)
        desk.start_all(ground, free_port())
        desk.step(ground, "schedule_within_a_minute", count)
        ground.wait(lambda: ground.query(UNSENT) == (0,))
        return {Quantity(f"scheduled_lateness_p{percent}", "s"): _late(ground, count, percent) for percent in (50, 99)}


def _late(ground: Ground, count: int, percent: int) -> float:
    offset = count - max(1, math.ceil(count * percent / 100))
    (seconds,) = ground.query(LONGEST_FIRST.format(lateness=LATENESS[ground.database], offset=offset))
    return float(seconds)
