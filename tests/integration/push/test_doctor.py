"""What `flask doctor` reports of push."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flask_belfry.operations.problems import check_all
from tests import fcm
from tests.conftest import make_app
from tests.fcm import Fault, FcmServer

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def server() -> Iterator[FcmServer]:
    """A running server."""
    server = FcmServer().start()
    yield server
    server.stop()


def found(settings, folder) -> list[tuple[bool, str]]:
    app = make_app(settings, folder)
    with app.app_context():
        return [(each.is_ok, each.message) for each in check_all(app) if each.part == "push"]


def test_without_credentials_push_is_not_a_part(settings, tmp_path):
    assert found(settings, tmp_path) == []


def test_accepted_credentials_are_ok(settings, server, tmp_path):
    settings |= server.settings(tmp_path)
    assert found(settings, tmp_path) == [(True, "project belfry-test: the credentials are accepted")]
    assert (server.exchanges, server.requests) == (1, 0)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault(400, {"error": "invalid_grant", "error_description": "Bad"}), "invalid_grant: Bad: check FCM_CRED"),
        (Fault(503, ""), "answered 503: check the network"),
        (Fault(fcm.HANG), "does not respond (ReadTimeoutError): check the network"),
    ],
)
def test_what_is_wrong_is_named_within_the_limit(settings, server, tmp_path, fault, text):
    settings |= server.settings(tmp_path)
    server.token_fault = fault
    ((is_ok, message),) = found(settings, tmp_path)
    assert not is_ok
    assert text in message


def test_a_file_that_is_not_a_service_account_is_named(settings, tmp_path):
    path = tmp_path / "file.json"
    path.write_text("{}")
    ((is_ok, message),) = found(settings | {"FCM_CREDENTIALS": str(path)}, tmp_path)
    assert not is_ok
    assert message.startswith("FCM_CREDENTIALS is not a service account file")
