"""`flask demo …`."""

from __future__ import annotations

import sqlalchemy as sa

from app.accounts import User, authenticate
from app.demo.commands import DEMO_PASSWORD
from app.reservations import Reservation, ReservationStatus, Resource, history_of
from flask_belfry.core.clock import utc_now
from flask_belfry.mail import EmailMessage
from flask_belfry.outbox import JobRecord
from tests.job_records import count
from tests.reservation_factories import make_reservation, make_user


def run(app, *arguments, **options):
    return app.test_cli_runner().invoke(args=["demo", *arguments], **options)


def test_load_makes_a_school_once_and_sends_nothing(app, session):
    first, second = run(app, "load"), run(app, "load")
    assert first.exit_code == second.exit_code == 0, first.output + second.output
    assert 20 <= count(session, Reservation) <= 30
    assert count(session, Resource) == 3
    assert set(session.scalars(sa.select(Reservation.status))) == set(ReservationStatus)
    assert count(session, EmailMessage) == count(session, JobRecord) == 0


def test_load_ends_with_the_logins_and_they_work(app, session):
    last = run(app, "load").output.splitlines()[-4:]
    titles = {"admin": "admin", "staff": "staff", "reader": "staff, read-only", "member": "member"}
    for line, (name, title) in zip(last, titles.items(), strict=True):
        email, password, shown = line.split(maxsplit=2)
        assert (email, password, shown) == (f"{name}@example.org", DEMO_PASSWORD, f"({title})")
        user = authenticate(email, password)
        assert (user.role, user.is_operator) == (title.partition(",")[0], name in ("admin", "staff"))


def test_demo_reservations_have_a_history(app, session):
    run(app, "load")
    row = session.scalars(sa.select(Reservation).where(Reservation.status == "completed").limit(1)).one()
    assert [entry.to_status for entry in history_of(row)] == ["completed", "confirmed", "pending"]
    assert row.end_time > row.start_time


def test_the_demo_is_made_in_the_past_and_before_it_begins(app, session):
    run(app, "load")
    for row in session.scalars(sa.select(Reservation)):
        assert row.created_at < utc_now()
        assert row.created_at < row.start_time


def test_the_login_page_shows_the_logins_while_the_demo_is_loaded(app, client):
    assert DEMO_PASSWORD not in client.get("/login").text
    run(app, "load")
    assert DEMO_PASSWORD in client.get("/login").text


def test_wipe_removes_the_demo_and_nothing_else(app, session):
    own = make_reservation(make_user())
    run(app, "load")
    resource = session.scalars(sa.select(Resource)).first()
    own.resource = resource
    session.commit()
    assert run(app, "wipe", input="n\n").exit_code == 1
    result = run(app, "wipe", "--yes")
    assert result.exit_code == 0, result.output
    session.expire_all()
    assert list(session.scalars(sa.select(Reservation))) == [own]
    assert list(session.scalars(sa.select(Resource))) == [resource]
    assert count(session, User) == 1
    assert run(app, "load").exit_code == 0


def test_in_production_both_refuse(app, session):
    app.config["APP_ENV"] = "production"
    assert run(app, "load").exit_code == 1
    assert "--force" in run(app, "load").stderr
    assert run(app, "wipe", "--yes").exit_code == 1
    assert count(session, User) == 0
    assert run(app, "load", "--force").exit_code == 0
