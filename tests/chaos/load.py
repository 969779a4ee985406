"""The load: a process whose threads change reservations and enqueue jobs, over HTTP and with sessions of their own,
send notifications and begin bulk operations, for several schools.

It goes on whatever fails, and writes the fate of each transaction into its book.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.accounts import User
from app.reservations import Reservation, ReservationStatus
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.outbox import batch, enqueue
from tests.chaos.book import UNDONE, Book, Fate
from tests.chaos.domain import AFTER, BROKEN, CHILD, THEN, AuditEvent
from tests.chaos.notifier import Notifier
from tests.chaos.operator import Operator
from tests.chaos.root import app
from tests.chaos.transactions import OfSchool, transact

HTTP_SECONDS = 5
MAX_OPEN = 50
# Heavy jobs run one by one: more of them would wait for each other, which says nothing of a rescue.
SHARES = {
    "chaos.quick": 30,
    "chaos.slow": 20,
    "chaos.flaky": 15,
    "chaos.chain": 10,
    "chaos.heavy": 3,
    "chaos.limited": 15,
    "a batch": 8,
    "a successor": 8,
    "chaos.steps": 6,
    "chaos.snoozing": 6,
    BROKEN: 10,
}
# How often a thread of each kind makes a transaction, compared to the others.
PAUSES = {"notifier": 3.0, "operator": 8.0}


class Sessions:
    """Transactions on sessions of the application, as a command or a job makes them."""

    def __init__(self, app: Flask, school: OfSchool, dice: random.Random) -> None:
        self._app = app
        self._school = school
        self._dice = dice

    def __call__(self, key: str) -> Fate:
        """Makes one transaction; it commits or is rolled back on purpose, or fails."""
        return transact(self._app, self._school.id, lambda session: self._fill(session, key))

    def _fill(self, session: Session, key: str) -> bool:
        self._dice.choice([self._book, self._change, self._change_in_bulk])(session, key)
        effects = [effect for number in range(self._dice.randint(0, 3)) for effect in self._ask(f"{key}/{number}")]
        if self._dice.random() < 0.3:
            self._fill_and_undo(session, key)
        session.add(AuditEvent(key=key, effects=effects))
        return self._dice.random() >= 0.25

    def _fill_and_undo(self, session: Session, key: str) -> None:
        savepoint = session.begin_nested()
        self._book(session, key + UNDONE)
        self._change(session, key)
        self._ask(key + UNDONE)
        session.flush()
        savepoint.rollback()

    def _book(self, session: Session, key: str) -> None:
        start = utc_now() + timedelta(days=self._dice.randint(1, 300))
        for _ in range(self._dice.randint(1, 3)):
            customer_id = self._dice.choice(self._school.people)
            session.add(Reservation(school_id=self._school.id, customer_id=customer_id, start_time=start, note=key))

    def _change(self, session: Session, key: str) -> None:
        for reservation in self._some_pending(session):
            reservation.status = self._next_status()

    def _change_in_bulk(self, session: Session, key: str) -> None:
        ids = [reservation.id for reservation in self._some_pending(session)]
        statement = sa.update(Reservation).where(Reservation.id.in_(ids)).values(status=self._next_status())
        session.execute(statement)

    def _some_pending(self, session: Session) -> list[Reservation]:
        query = sa.select(Reservation).where(Reservation.status == ReservationStatus.PENDING)
        query = query.order_by(Reservation.id.desc()).limit(self._dice.randint(1, 3))
        return list(session.scalars(query.with_for_update(skip_locked=True)))

    def _next_status(self) -> ReservationStatus:
        return self._dice.choice([ReservationStatus.CONFIRMED, ReservationStatus.CANCELLED])

    def _ask(self, key: str) -> list[str]:
        """Enqueue a job of some kind; return the keys of the effects that must follow."""
        seconds = self._dice.uniform(0.5, 4.0)
        name = self._dice.choices(list(SHARES), list(SHARES.values()))[0]
        match name:
            case "a batch":
                return self._ask_batch(key)
            case "a successor":
                enqueue("chaos.quick", key=key + AFTER, after=enqueue("chaos.flaky", key=key))
                return [key, key + AFTER]
            case "chaos.steps":
                pages = self._dice.randint(2, 8)
                enqueue(name, key=key, pages=pages)
                return [key, *(f"{key}/page{page}" for page in range(pages))]
            case "chaos.slow":
                enqueue(name, key=key, seconds=seconds)
            case "chaos.heavy" | "chaos.limited":
                enqueue(name, key=key, seconds=seconds / 8)
            case _:
                enqueue(name, key=key, delay=seconds if self._dice.random() < 0.2 else None)
        return [key, key + CHILD] if name == "chaos.chain" else [key]

    def _ask_batch(self, key: str) -> list[str]:
        names = self._dice.choices(["chaos.quick", "chaos.flaky"], k=self._dice.randint(1, 5))
        keys = [f"{key}/{number}" for number in range(len(names))]
        with batch("chaos", then="chaos.then", then_args={"key": key + THEN, "jobs": len(names)}):
            for name, of_job in zip(names, keys, strict=True):
                enqueue(name, key=of_job)
        return [*keys, key + THEN]


class Client:
    """Transactions of the web process, asked for over the API with an access token."""

    def __init__(self, url: str, token: str, dice: random.Random) -> None:
        self._url = url + "/api/v1/reservations"
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._dice = dice
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._open: list[int] = []

    def __call__(self, key: str) -> Fate:
        """Makes a reservation, moves one to another status, or asks for a move that is refused."""
        if not self._open or self._dice.random() < 0.5:
            return self._book(key)
        id = self._open.pop(self._dice.randrange(len(self._open)))
        # The note changes first; `completed` does not follow `pending`, so then all of it is rolled back.
        status = self._dice.choice(["confirmed", "cancelled", "completed"])
        fate, _ = self._send("PATCH", f"{self._url}/{id}", {"note": key, "status": status})
        return fate

    def _book(self, key: str) -> Fate:
        start = utc_now() + timedelta(days=self._dice.randint(1, 300))
        fate, answer = self._send("POST", self._url, {"start_time": start.isoformat(), "note": key})
        if fate is Fate.COMMITTED and len(self._open) < MAX_OPEN:
            self._open.append(answer["id"])
        return fate

    def _send(self, method: str, url: str, body: dict[str, Any]) -> tuple[Fate, Any]:
        request = urllib.request.Request(url, json.dumps(body).encode(), self._headers, method=method)
        try:
            with self._opener.open(request, timeout=HTTP_SECONDS) as answer:
                return Fate.COMMITTED, json.load(answer)
        except urllib.error.HTTPError as error:
            return (Fate.ROLLED_BACK if error.code < 500 else Fate.UNSURE), None
        except (OSError, ValueError, urllib.error.URLError):
            # Refused, cut, or silent: the answer to a commit may be among what was lost.
            return Fate.UNSURE, None


def repeat(transact: Callable[[str], Fate], name: str, book: Book, pause_seconds: float, done: threading.Event) -> None:
    """Makes transactions until `done`; an error other than an outage ends the process."""
    number = 0
    while not done.wait(random.uniform(0, 2 * pause_seconds)):
        number += 1
        key = f"{name}.{number}"
        book.write(key, Fate.ASKED)
        book.write(key, transact(key))


def main() -> None:
    """Runs until SIGTERM. Settings come from the environment, see `Stack`."""
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    settings = json.loads(os.environ["CHAOS_LOAD"])
    book, schools = Book(Path(settings["book"])), _schools(settings["tokens"])
    kinds = Counter("client" if number % 3 == 0 else "sessions" for number in range(settings["threads"]))
    kinds += Counter(notifier=settings["notifiers"], operator=settings["operators"])
    threads: list[threading.Thread] = []
    for kind, count in kinds.items():
        for number in range(count):
            dice = random.Random(f"{settings['seed']}/{kind}/{number}")
            school = schools[number % len(schools)]
            name = f"s{school.id}.{os.getpid()}.{int(time.time())}.{kind}{number}"
            pause_seconds = settings["pause_seconds"] * PAUSES.get(kind, 1.0)
            arguments = (_of_kind(kind, settings["url"], school, dice), name, book, pause_seconds, done)
            threads.append(threading.Thread(target=_guarded, args=arguments))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _of_kind(kind: str, url: str, school: OfSchool, dice: random.Random) -> Callable[[str], Fate]:
    if kind == "client":
        return Client(url, school.token, dice)
    made = {"sessions": Sessions, "notifier": Notifier, "operator": Operator}[kind]
    return made(app, school, dice)


def _guarded(*arguments: Any) -> None:
    try:
        repeat(*arguments)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)


def _schools(tokens: dict[str, str]) -> list[OfSchool]:
    """The schools with their people, of which the database is asked until it answers."""
    while True:
        try:
            with app.app_context():
                people = [list(db.session.scalars(_people(int(id)))) for id in tokens]
        except SQLAlchemyError:
            time.sleep(0.5)
        else:
            return [OfSchool(int(id), ids, tokens[id]) for id, ids in zip(tokens, people, strict=True)]


def _people(school_id: int) -> sa.Select[int]:
    return sa.select(User.id).where(User.school_id == school_id).order_by(User.id)


if __name__ == "__main__":
    main()
