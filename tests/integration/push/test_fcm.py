"""The client and a server that speaks FCM HTTP v1."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import urllib3

from app.push.errors import (
    DeviceGoneError,
    MessageRefusedError,
    PayloadRefusedError,
    PushCredentialsError,
    PushUnavailableError,
    ThrottledError,
)
from app.push.fcm import FcmClient
from app.push.messages import PushMessage
from app.push.models import DeviceKind
from flask_belfry.core.clock import utc_now
from tests import fcm
from tests.fcm import Fault, FcmServer
from tests.servers import free_port

ID = "0190a2b4-7c3d-7e5f-8a9b-0c1d2e3f4a5b"
MESSAGE = PushMessage(ID, "Snow", "No school today.", {"lesson": "7"})


@pytest.fixture
def server() -> Iterator[FcmServer]:
    """A running server."""
    server = FcmServer().start()
    yield server
    server.stop()


@pytest.fixture
def client(server: FcmServer, tmp_path: Path) -> FcmClient:
    """A client of it, which waits less."""
    return make_client(server, tmp_path)


def make_client(server: FcmServer, folder: Path, *, read: float = 5.0) -> FcmClient:
    settings = server.settings(folder)
    timeout = urllib3.Timeout(connect=2.0, read=read)
    return FcmClient(Path(settings["FCM_CREDENTIALS"]), settings["FCM_ENDPOINT"], connections=4, timeout=timeout)


def send(client: FcmClient, message: PushMessage = MESSAGE, token: str = "device") -> None:
    client.send(message, DeviceKind.TOKEN, token)


def test_a_message_has_its_text_its_data_and_one_target(server, client):
    send(client)
    client.send(MESSAGE, DeviceKind.FID, "installation")
    by_token, by_fid = server.accepted
    assert by_token["token"] == "device"
    assert "fid" not in by_token
    assert by_fid["fid"] == "installation"
    assert "token" not in by_fid
    assert by_token["notification"] == {"title": "Snow", "body": "No school today."}
    assert by_token["data"] == {"lesson": "7"}


def test_messages_share_a_connection_and_an_access_token(server, client):
    for _ in range(5):
        send(client)
    assert (server.connections, server.exchanges, len(server.accepted)) == (1, 1, 5)


def test_a_message_is_kept_until_it_expires_and_replaces_the_one_before(server, client):
    send(client, PushMessage(ID, "Snow", "", {}, utc_now() + timedelta(hours=1)))
    (message,) = server.accepted
    key = ID.replace("-", "")
    ttl = int(message["android"]["ttl"].removesuffix("s"))
    assert 3590 <= ttl <= 3600
    assert message["webpush"]["headers"] == {"TTL": str(ttl), "Topic": key}
    until = int(message["apns"]["headers"]["apns-expiration"])
    assert abs(until - utc_now().timestamp() - 3600) < 10
    assert message["android"]["collapse_key"] == message["apns"]["headers"]["apns-collapse-id"] == key


@pytest.mark.parametrize("expires_at", [None, utc_now() + timedelta(days=90)])
def test_a_message_is_kept_for_28_days_at_most(server, client, expires_at):
    send(client, PushMessage(ID, "Snow", "", {}, expires_at))
    assert server.accepted[0]["android"]["ttl"] == "2419200s"


@pytest.mark.parametrize("text", ["a" * 5_000, "ä" * 5_000, "🏫" * 5_000])
def test_a_body_that_is_too_long_for_fcm_is_cut(server, client, text):
    send(client, PushMessage(ID, "t" * 200, text, {"name": "v" * 1_000}))
    body = server.accepted[0]["notification"]["body"]
    assert body.endswith("…")
    assert text.startswith(body.removesuffix("…"))
    assert len(body.encode()) > 2_400


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (fcm.UNREGISTERED, DeviceGoneError),
        (fcm.OTHER_SENDER, DeviceGoneError),
        (fcm.INVALID_TOKEN, DeviceGoneError),
        (fcm.INVALID_TOKEN_FIELD, DeviceGoneError),
        (fcm.INVALID_DATA, PayloadRefusedError),
        (fcm.INVALID_SOMETHING, MessageRefusedError),
        (fcm.UNAVAILABLE, PushUnavailableError),
        (fcm.INTERNAL, PushUnavailableError),
        (Fault(502, "<html>Bad gateway</html>"), PushUnavailableError),
        (fcm.FORBIDDEN, PushCredentialsError),
        (fcm.NO_APNS_KEY, PushCredentialsError),
        (Fault(404, {"error": {"code": 404, "status": "NOT_FOUND"}}), PushCredentialsError),
        (Fault(404, "[]"), PushCredentialsError),
        (Fault(302, "", {"Location": "http://127.0.0.1:1/"}), MessageRefusedError),
    ],
)
def test_a_refusal_is_an_error_of_what_it_concerns(server, client, fault, error):
    server.fail("device", fault)
    with pytest.raises(error) as raised:
        send(client)
    assert type(raised.value) is error
    assert "device" not in str(raised.value)


def test_an_error_that_quotes_the_token_does_not_show_it(server, client):
    error = {"code": 400, "message": f"Invalid value {'x' * 290} 'device'", "status": "INVALID_ARGUMENT"}
    server.fail("device", Fault(400, {"error": error}))
    with pytest.raises(MessageRefusedError, match="Invalid value") as raised:
        send(client)
    assert "dev" not in str(raised.value)


def test_the_access_token_is_renewed_once_after_401(server, client):
    send(client)
    server.revoke_access_tokens()
    send(client)
    assert (server.exchanges, len(server.accepted)) == (2, 2)
    server.fail(None, fcm.UNAUTHENTICATED)
    with pytest.raises(PushCredentialsError):
        send(client)
    assert (server.exchanges, server.requests) == (3, 5)


def test_threads_renew_a_refused_access_token_once(server, client):
    send(client)
    server.revoke_access_tokens()
    threads = [threading.Thread(target=send, args=(client,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (server.exchanges, len(server.accepted)) == (2, 5)


def test_a_refused_key_for_apns_renews_no_access_token(server, client):
    server.fail("device", fcm.NO_APNS_KEY)
    with pytest.raises(PushCredentialsError):
        send(client)
    assert (server.exchanges, server.requests) == (1, 1)


@pytest.mark.parametrize(("retry_after", "seconds"), [("7", 7), (None, 60), ("soon", 60), ("0", 1), ("864000", 3_600)])
def test_throttling_stops_all_messages_of_the_process(server, client, retry_after, seconds):
    server.fail("device", fcm.throttled(retry_after))
    for token in ("device", "another"):
        with pytest.raises(ThrottledError) as raised:
            send(client, token=token)
        assert seconds - 1 < raised.value.retry_after_seconds <= seconds
    assert server.requests == 1


def test_an_unavailable_server_names_its_delay(server, client):
    server.fail("device", Fault(503, fcm.UNAVAILABLE.body, {"Retry-After": "30"}))
    with pytest.raises(PushUnavailableError) as raised:
        send(client)
    assert raised.value.retry_after_seconds == 30


def test_silence_and_a_closed_port_are_an_unavailable_server(server, client, tmp_path):
    impatient = make_client(server, tmp_path, read=0.2)
    server.fail("device", Fault(fcm.HANG))
    with pytest.raises(PushUnavailableError, match="ReadTimeoutError"):
        send(impatient)
    credentials = Path(server.settings(tmp_path)["FCM_CREDENTIALS"])
    with pytest.raises(PushUnavailableError, match="NewConnectionError"):
        send(FcmClient(credentials, f"http://127.0.0.1:{free_port()}", connections=1))


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (Fault(503, ""), PushUnavailableError, "503"),
        (Fault(400, {"error": "invalid_grant", "error_description": "Bad JWT"}), PushCredentialsError, "Bad JWT"),
    ],
)
def test_a_failed_exchange_of_tokens_is_not_repeated_here(server, client, fault, error, text):
    server.token_fault = fault
    with pytest.raises(error, match=text):
        send(client)
    assert (server.exchanges, server.requests) == (1, 0)


def test_a_key_that_the_server_does_not_know_is_refused(server, client, tmp_path, monkeypatch):
    other = fcm._private_key.__wrapped__()
    monkeypatch.setattr(fcm, "_private_key", lambda: other)
    with pytest.raises(PushCredentialsError, match="Invalid JWT Signature"):
        client.check()


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"project_id": "p", "private_key": "secret"})])
def test_a_file_that_is_not_a_service_account_is_refused_without_its_content(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(PushCredentialsError, match="FCM_CREDENTIALS is not") as raised:
        FcmClient(path, "http://127.0.0.1:1", connections=1)
    assert "secret" not in str(raised.value)
