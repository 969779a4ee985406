"""Who gets a mail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from flask_belfry.mail.recipients import check_email, distinct_recipients


@pytest.fixture(params=["testing"])
def app(request: pytest.FixtureRequest) -> Iterator[Flask]:
    app = Flask(__name__)
    app.config["APP_ENV"] = request.param
    with app.app_context():
        yield app


@pytest.mark.parametrize(
    ("given", "email"),
    [
        ("ada@example.org", "ada@example.org"),
        (" Ada@EXAMPLE.org ", "Ada@example.org"),
        ("ada@school.test", "ada@school.test"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
    ],
)
def test_a_valid_address_is_brought_into_the_form_of_smtp(app: Flask, given: str, email: str) -> None:
    assert check_email(given) == (email, None)


@pytest.mark.parametrize(
    "given", [None, "", "  ", "ada", "ada@", "@example.org", "a b@example.org", "ada@x.org\nBcc: eve@x.org", "ü@x.org"]
)
def test_an_invalid_address_has_a_problem(app: Flask, given: str | None) -> None:
    assert check_email(given).problem


@pytest.mark.parametrize("app", ["production"], indirect=True)
def test_email_addresses_for_tests_are_invalid_in_production(app: Flask) -> None:
    assert check_email("ada@school.test").problem


def test_each_person_is_counted_once_whatever_the_case(app: Flask) -> None:
    people = distinct_recipients(["Ada@example.org", "bob@example.org", "ada@EXAMPLE.org", None, ""])
    assert [person.email for person in people] == ["Ada@example.org", "bob@example.org", ""]


def test_the_digest_of_a_person_does_not_depend_on_the_case(app: Flask) -> None:
    assert check_email("Ada@example.org").digest == check_email("ada@example.org").digest


def test_the_desks_address_is_taken_as_the_setting_takes_it(app: Flask) -> None:
    assert check_email("root@localhost").problem
    app.config["ADMIN_EMAIL"] = "root@localhost"
    assert check_email("root@localhost") == ("root@localhost", None)
