"""Registrations over HTTP, with everything well, with a mail server that hangs, and without the broker."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection

from bench.cases.web import ask, percentiles
from bench.contestants import Desk
from bench.errors import BenchError
from bench.figures import Comparison, Quantity
from bench.ground import Ground, Grounds
from bench.plan import Plan
from tests.servers import free_port

REGISTRATIONS = 200
WARM_UP = 20
HASHES = 50
HASH = Quantity("registration_hash", "ms")
HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Situation:
    """What a registration meets.

    Args:
        name: in figures.
        smtp_delay_seconds: how long the mail server takes for a mail; infinity: it never says a word.
        has_broker: whether the broker is there when people register.
    """

    name: str
    smtp_delay_seconds: float = 0.0
    has_broker: bool = True


WELL = Situation("well")
TROUBLES = (Situation("hanging_mail", smtp_delay_seconds=math.inf), Situation("no_broker", has_broker=False))


def registration(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """The time of a registration, one after the other, with workers and a scheduler running; and that of its hash."""
    for database in plan.databases:
        measures = {
            situation.name: partial(_register, grounds, plan.belfry, database, situation, plan.scaled(REGISTRATIONS))
            for situation in (WELL, *TROUBLES)
        }
        named = {f"{database}.{name}": measure for name, measure in measures.items()}
        for quantity, values in plan.measure(named).items():
            well = values[f"{database}.{WELL.name}"]
            yield Comparison(quantity, database, {plan.belfry.name: well})
            for trouble in TROUBLES if quantity != HASH else ():
                name = quantity.name.replace("registration", f"registration_{trouble.name}")
                own = {plan.belfry.name: values[f"{database}.{trouble.name}"], WELL.name: well}
                yield Comparison(Quantity(name, quantity.unit), database, own)


def _register(
    grounds: Grounds, desk: Desk, database: str, situation: Situation, registrations: int
) -> Mapping[Quantity, float]:
    with grounds.fresh(database, situation.smtp_delay_seconds) as ground:
        desk.step(ground, "prepare", 1)
        seconds_of_hash = desk.step(ground, "hash_passwords", HASHES)
        desk.start_all(ground, port := free_port())
        ground.wait_until_listening(port)
        if not situation.has_broker:
            ground.valkey.stop()
        seconds = _registrations(port, WARM_UP + registrations, is_queued=situation.has_broker)[WARM_UP:]
        _check(ground, WARM_UP + registrations)
        return percentiles("registration", seconds) | {HASH: seconds_of_hash * 1_000}


def _registrations(port: int, count: int, *, is_queued: bool) -> list[float]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        return [_join(connection, number, is_queued) for number in range(count)]
    finally:
        connection.close()


def _join(connection: HTTPConnection, number: int, is_queued: bool) -> float:
    body = {"username": f"new{number}", "email": f"new{number}@example.org", "password": "correct horse battery"}
    seconds, status, content = ask(connection, "POST", "/api/v1/auth/register", body, HEADERS)
    if status != 201 or json.loads(content)["email_info"]["email_queued"] is not is_queued:
        raise BenchError(f"a registration was answered with {status}: {content[:200].decode()}")
    return seconds


def _check(ground: Ground, registrations: int) -> None:
    (asked,) = ground.query("SELECT count(*) FROM email_messages WHERE kind = 'confirmation'")
    if asked != registrations:
        raise BenchError(f"{registrations} registrations asked for {asked} mails")
