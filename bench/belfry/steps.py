"""What a case asks of Belfry, each step in a process of its own: `python -m bench.belfry.steps STEP [NUMBER]`.

`bench/peers/django_celery/steps.py` has the same steps. Each prints its result as one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from flask_migrate import upgrade

from app.accounts import Role, User, issue_token
from app.columns import utc_now
from app.extensions import db
from app.outbox import JobRequest, enqueue_many
from app.reservations import Reservation, ReservationStatus
from bench.belfry.root import app


def prepare(customers: int) -> dict[str, str]:
    """Makes the tables, a member of staff with a token, and customers with the ids 1, 2, …"""
    upgrade()
    common = {"password_hash": "none", "created_at": utc_now()}
    names = [f"customer{n}" for n in range(1, customers + 1)]
    people = [
        {"username": name, "username_key": name, "email": f"{name}@example.org", "name": name, **common}
        for name in names
    ]
    db.session.execute(sa.insert(User), people)
    staff = User(username="staff", email="staff@example.org", name="Staff", role=Role.STAFF, **common)
    db.session.add(staff)
    token, _ = issue_token(staff)
    db.session.commit()
    return {"authorization": f"Bearer {token}"}


def confirm(_: int) -> None:
    """Confirms all reservations in one transaction: one mail with its job for each."""
    db.session.execute(sa.update(Reservation).values(status=ReservationStatus.CONFIRMED))
    db.session.commit()


def enqueue_noops(count: int) -> None:
    """Asks for jobs that do nothing."""
    enqueue_many("bench.noop", [JobRequest({"n": n}) for n in range(count)])
    db.session.commit()


STEPS: dict[str, Callable[[int], Any]] = {step.__name__: step for step in (prepare, confirm, enqueue_noops)}

if __name__ == "__main__":
    with app.app_context():
        print(json.dumps(STEPS[sys.argv[1]](int(sys.argv[2]))))
