"""`Idempotency-Key`: what is asked for twice is done once, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from app.accounts import AccessToken
from app.api import IdempotencyRecord, prune_idempotency_records
from app.reservations import Reservation
from flask_belfry.mail import EmailMessage
from flask_belfry.outbox import JobRecord
from tests.job_records import count
from tests.reservation_factories import PASSWORD, bearer, make_reservation, make_resource, make_user, tomorrow
from tests.simultaneous import at_once

LIST, TOKENS, LOGIN = "/api/v1/reservations", "/api/v1/me/tokens", "/api/v1/auth/login"
once_is_enough = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def ask(client):
    """Asks for a reservation of tomorrow, with a key."""
    headers = bearer(make_user())

    def ask(key: str = "a-key", client=client, headers=headers, **body):
        body = {"start_time": tomorrow().isoformat(), **body}
        return client.post(LIST, json=body, headers={**headers, "Idempotency-Key": key})

    return ask


def test_the_same_request_again_is_answered_again_and_done_once(ask, session):
    first = ask()
    done = [count(session, model) for model in (Reservation, JobRecord, EmailMessage)]
    again = ask()
    assert first.status_code == again.status_code == 201
    assert again.data == first.data
    assert (again.location, again.headers["ETag"]) == (first.location, first.headers["ETag"])
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert [count(session, model) for model in (Reservation, JobRecord, EmailMessage)] == done
    assert done[0] == 1


def test_of_many_at_once_one_does_it(app, ask, session):
    answers = at_once(app, 4, lambda client: ask(client=client))
    made = [answer for answer in answers if answer.status_code == 201]
    assert made
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.data for answer in made}) == 1
    assert count(session, Reservation) == 1


@once_is_enough
def test_a_key_belongs_to_one_request(ask, session):
    ask()
    answer = ask(note="another")
    assert answer.status_code == 422
    assert answer.json["errors"].keys() == {"Idempotency-Key"}
    assert ask("another-key", note="another").status_code == 201
    assert count(session, Reservation) == 2


@once_is_enough
def test_a_key_belongs_to_one_user(ask, session):
    first = ask()
    other = ask(headers=bearer(make_user()))
    assert other.status_code == 201
    assert other.json["id"] != first.json["id"]


@once_is_enough
def test_a_request_without_a_key_is_done_each_time(client, session):
    headers = bearer(make_user())
    for _ in range(2):
        client.post(LIST, json={"start_time": tomorrow().isoformat()}, headers=headers)
    assert count(session, Reservation) == 2
    assert count(session, IdempotencyRecord) == 0


@once_is_enough
def test_an_error_is_not_kept(ask, session):
    room = make_resource()
    row = make_reservation(resource_id=room.id)
    assert ask(resource_id=room.id).status_code == 409
    session.delete(row)
    session.commit()
    assert ask(resource_id=room.id).status_code == 201


def test_a_crash_before_the_commit_leaves_neither_the_effect_nor_the_answer(app, ask, session, monkeypatch):
    app.config["PROPAGATE_EXCEPTIONS"] = False
    with monkeypatch.context() as patched:
        patched.setattr("app.api.idempotency._record", lambda *_, **__: 1 / 0)
        assert ask().status_code == 500
    assert count(session, Reservation) == count(session, JobRecord) == 0
    assert ask().status_code == 201
    assert count(session, Reservation) == count(session, IdempotencyRecord) == 1


@once_is_enough
@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "caf\u00e9"])
def test_an_unusable_key_is_refused(ask, key, session):
    answer = ask(key)
    assert answer.status_code == 422
    assert answer.json["errors"].keys() == {"Idempotency-Key"}
    assert count(session, Reservation) == 0


@once_is_enough
def test_an_answer_with_a_secret_is_kept_nowhere(client, session):
    headers = {**bearer(make_user()), "Idempotency-Key": "a-key"}
    body = {"name": "Cron", "scopes": ["read"]}
    made = client.post(TOKENS, json=body, headers=headers)
    assert made.status_code == 201
    assert made.json["token"] not in str(session.execute(sa.select(IdempotencyRecord.__table__)).one())
    assert client.post(TOKENS, json=body, headers=headers).status_code == 409
    personal = sa.select(AccessToken.name).where(AccessToken.name == "Cron")
    assert session.scalars(personal).all() == ["Cron"]


@once_is_enough
def test_public_endpoints_record_no_idempotency_key(client, session):
    user = make_user()
    headers = {**bearer(user), "Idempotency-Key": "a-key"}
    for _ in range(2):
        answer = client.post(LOGIN, json={"username": user.username, "password": PASSWORD}, headers=headers)
        assert answer.status_code == 200
    assert count(session, IdempotencyRecord) == 0


@once_is_enough
def test_answers_are_pruned_after_a_day(ask, session, clock):
    ask()
    clock.shift(timedelta(hours=23))
    assert prune_idempotency_records(session) == 0
    clock.shift(timedelta(hours=2))
    assert prune_idempotency_records(session) == 1
