"""Users, resources and reservations for tests. Each function writes and commits; names count up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from typing import Any

import sqlalchemy as sa
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.accounts import AddressState, LoginAddress, Role, User, hash_password, issue_pair
from app.reservations import Reservation, ReservationStatus, Resource
from app.schools import School, create_school, default_school
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db

PASSWORD = "correct horse battery"
HERE = "127.0.0.1"  # of Flask's test client
_numbers = count(1)


@cache
def password_hash() -> str:
    """Hashed once: it is slow on purpose."""
    return hash_password(PASSWORD)


def make_school() -> School:
    """Another school than that of the installation."""
    number = next(_numbers)
    school = create_school(f"School {number}", f"school-{number}")
    db.session.commit()
    return school


def make_user(role: Role = Role.MEMBER, **values: Any) -> User:
    """A user with `PASSWORD` and a known login address: logins of the test client send no mail about a new address.

    Staff may operate jobs and mails unless `may_operate` is False.
    """
    name = f"{role.value}{next(_numbers)}"
    defaults = {
        "username": name,
        "email": f"{name}@example.org",
        "confirmed_at": utc_now(),
        "name": name.title(),
        "password_hash": password_hash(),
        "may_operate": role is Role.STAFF,
    }
    user = User(**{"role": role, **defaults, **values})
    here = {"network": HERE, "ip_address": HERE, "state": AddressState.TRUSTED}
    db.session.add_all([user, LoginAddress(user=user, **here)])
    db.session.commit()
    return user


def make_resource(**values: Any) -> Resource:
    """A room for ten, of the school of the installation unless `school_id` is given."""
    given = {"name": f"Room {next(_numbers)}", "capacity": 10, **values}
    given.setdefault("school_id", default_school().id)
    resource = Resource(**given)
    db.session.add(resource)
    db.session.commit()
    return resource


def make_reservation(customer: User | None = None, **values: Any) -> Reservation:
    """A pending reservation of tomorrow."""
    customer = customer or make_user()
    defaults = {"customer": customer, "school_id": customer.school_id, "start_time": tomorrow()}
    reservation = Reservation(**defaults | values)
    db.session.add(reservation)
    db.session.commit()
    return reservation


def insert_reservations(customer: User, number: int, status: ReservationStatus, start_time: datetime) -> None:
    """Many rows at once, past every hook."""
    row = {
        "school_id": customer.school_id,
        "customer_id": customer.id,
        "start_time": start_time,
        "end_time": start_time + timedelta(hours=1),
        "status": status,
    }
    db.session.connection().execute(sa.insert(Reservation), [row] * number)
    db.session.commit()


def tomorrow(hour: int = 10) -> datetime:
    """Tomorrow at a full hour, UTC."""
    return (utc_now() + timedelta(days=1)).astimezone(UTC).replace(hour=hour, minute=0, second=0, microsecond=0)


def bearer(user: User) -> dict[str, str]:
    """The header of an API request by `user`."""
    pair = issue_pair(user)
    db.session.commit()
    return {"Authorization": f"Bearer {pair.access_token}"}


def caller(client: FlaskClient, user: User, path: str) -> Callable[..., TestResponse]:
    """A function that calls the API as `user`: with a method, and another path than `path` if it is given."""
    token = bearer(user)

    def call(method: str, path: str = path, headers: Mapping[str, str] | None = None, **options: Any) -> TestResponse:
        return client.open(path, method=method, headers={**token, **(headers or {})}, **options)

    return call


def log_in(client: FlaskClient, user: User) -> FlaskClient:
    """The client with the session of `user`."""
    answer = client.post("/login", data={"login": user.username, "password": PASSWORD})
    assert answer.status_code == 302, answer.text
    return client
