"""The migration to schools, over rows that were there before: nothing is lost, and all of it is the one school's."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from flask_migrate import downgrade, upgrade

from flask_belfry.db import Base, db
from flask_belfry.db.columns import new_id
from flask_belfry.db.tenancy import OfSchool
from tests.conftest import make_app

NOW = "2026-01-02 03:04:05.000000"
ROWS = (
    "INSERT INTO users (id, username, username_key, email, name, password_hash, role, active, created_at,"
    " session_nonce) VALUES (7, 'ada', 'ada', 'ada@example.org', 'Ada', '!', 'member', true,"
    f" '{NOW}', '{new_id().replace('-', '')}')",
    "INSERT INTO access_tokens (id, hash, user_id, name, created_at, expires_at)"
    f" VALUES (3, 'x', 7, 'login', '{NOW}', '{NOW}')",
    "INSERT INTO resources (id, name, capacity, active) VALUES (5, 'Hall', 10, true)",
    "INSERT INTO reservations (id, customer_id, resource_id, start_time, duration_minutes, end_time, party_size, note,"
    f" status, created_at, updated_at) VALUES (9, 7, 5, '{NOW}', 60, '2026-01-02 04:04:05.000000', 1, '', 'pending',"
    f" '{NOW}', '{NOW}')",
    "INSERT INTO status_changes (id, subject_type, subject_id, field, at)"
    f" VALUES ('{new_id().replace('-', '')}', 'reservation', '9', 'status', '{NOW}')",
    "INSERT INTO status_changes (id, subject_type, subject_id, field, at)"
    f" VALUES ('{new_id().replace('-', '')}', 'schedule', 'x', 'paused_at', '{NOW}')",
)
OVERLAPPING = ROWS[3].replace("(9, 7", "(10, 7")


def test_what_was_there_belongs_to_the_one_school(empty_database, tmp_path):
    environ = {"APP_ENV": "testing", "DATABASE_URL": empty_database, "REDIS_URL": "redis://127.0.0.1:1"}
    app = make_app(environ, tmp_path / "migrated")
    with app.app_context():
        upgrade(revision="0001")
        run(*ROWS)
        upgrade(revision="0004")
        check_migrated()
        downgrade(revision="0001")
        assert all("school_id" not in columns(table) for table in of_schools())
        assert values("SELECT id FROM access_tokens") == [3]
        with pytest.raises(sa.exc.IntegrityError):
            run(OVERLAPPING)
        upgrade(revision="0004")
        check_migrated()
        db.engine.dispose()


def check_migrated() -> None:
    assert values("SELECT slug FROM schools") == ["school"]
    for table in of_schools():
        assert values(f"SELECT DISTINCT school_id FROM {table}") == values("SELECT id FROM schools"), table
    assert values("SELECT school_id FROM status_changes ORDER BY subject_type") == [
        *values("SELECT id FROM schools"),
        None,
    ]
    assert values("SELECT id FROM access_tokens") == [3]  # which go with their user, when that is deleted
    columns_of = "INSERT INTO reservations (school_id, "
    for broken in (
        OVERLAPPING.replace("INSERT INTO reservations (", columns_of).replace("VALUES (", "VALUES (1, "),
        "UPDATE users SET role = 'king'",
        "UPDATE reservations SET party_size = 0",
        "UPDATE resources SET capacity = 0",
        "UPDATE users SET school_id = NULL",
        "UPDATE users SET school_id = 99",
        "DELETE FROM users",
    ):
        with pytest.raises(sa.exc.IntegrityError):
            run(broken)


def of_schools() -> list[str]:
    """The tables of schools that this revision has."""
    models = {mapper.class_.__tablename__ for mapper in Base.registry.mappers if issubclass(mapper.class_, OfSchool)}
    return sorted(models & set(sa.inspect(db.engine).get_table_names()))


def columns(table: str) -> set[str]:
    return {column["name"] for column in sa.inspect(db.engine).get_columns(table)}


def run(*statements: str) -> None:
    with db.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def values(query: str) -> list:
    with db.engine.connect() as connection:
        return list(connection.exec_driver_sql(query).scalars())
