"""Errors of the database end up in logs and in the records of attempts: they name no value."""

from __future__ import annotations

import traceback

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from app.accounts import User
from flask_belfry.db import db, table_of
from tests.reservation_factories import make_user

EMAIL = "ada@example.org"
HASH = "$argon2id$v=19$secret"


def unique_address() -> None:
    row = db.session.execute(sa.select(table_of(User)).where(User.email == EMAIL)).one()
    values = dict(row._mapping, fs_uniquifier="other", password_hash=HASH)
    del values["id"]
    db.session.connection().execute(sa.insert(table_of(User)), [values, values])


def missing_value() -> None:
    db.session.connection().execute(sa.insert(table_of(User)).values(email=EMAIL, password_hash=HASH, username=None))


def unreadable_value() -> None:
    if db.engine.dialect.name == "sqlite":
        db.session.execute(sa.text("SELECT json(:email)"), {"email": EMAIL})
    else:
        db.session.execute(sa.text("SELECT CAST(:email AS integer)"), {"email": EMAIL})


@pytest.mark.parametrize("fail", [unique_address, missing_value, unreadable_value])
def test_an_error_of_the_database_shows_no_value(app, session, fail):
    make_user(email=EMAIL)
    session.commit()
    with pytest.raises(DBAPIError) as caught:
        fail()
    session.rollback()
    text = "".join(traceback.format_exception(caught.value)) + str(caught.value) + str(caught.value.orig)
    assert "ada@" not in text
    assert "argon2" not in text
    assert "email" in text  # the statement, or the constraint
