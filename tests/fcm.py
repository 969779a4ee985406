"""A server for tests that speaks FCM HTTP v1 and the exchange of its access tokens, on a real socket, and fails as
tests require."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

PROJECT = "belfry-test"
EMAIL = f"sender@{PROJECT}.iam.gserviceaccount.com"
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# google-auth names the real server, whatever the file's `token_uri` is.
AUDIENCE = "https://oauth2.googleapis.com/token"
MAX_JWT_SECONDS = 3600
MAX_TTL_SECONDS = 28 * 24 * 3600
MAX_BYTES = 4096
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
HANG = 0  # a status: the server says nothing until it is mended or stopped
HANG_SECONDS = 60


@dataclass(frozen=True)
class Fault:
    """An answer to give instead of accepting a message.

    Args:
        status: of HTTP; HANG says nothing.
        body: the JSON; a text is sent as it is.
        headers: further ones.
    """

    status: int
    body: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def _error(status: int, name: str, message: str, code: str | None = None, *fields: str) -> Any:
    details: list[Any] = [{"@type": FCM_ERROR, "errorCode": code}] if code else []
    if fields:
        violations = [{"field": name, "description": message} for name in fields]
        details.append({"@type": BAD_REQUEST, "fieldViolations": violations})
    return {"error": {"code": status, "message": message, "status": name, "details": details}}


NOT_A_TOKEN = "The registration token is not a valid FCM registration token"
UNREGISTERED = Fault(404, _error(404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED"))
OTHER_SENDER = Fault(403, _error(403, "PERMISSION_DENIED", "SenderId mismatch", "SENDER_ID_MISMATCH"))
INVALID_TOKEN = Fault(400, _error(400, "INVALID_ARGUMENT", NOT_A_TOKEN, "INVALID_ARGUMENT"))
INVALID_TOKEN_FIELD = Fault(400, _error(400, "INVALID_ARGUMENT", "Invalid value", "INVALID_ARGUMENT", "message.token"))
INVALID_DATA = Fault(
    400, _error(400, "INVALID_ARGUMENT", "Invalid value at 'message.data[0].value'", None, "message.data[0].value")
)
INVALID_SOMETHING = Fault(
    400, _error(400, "INVALID_ARGUMENT", "Request contains an invalid argument.", "INVALID_ARGUMENT")
)
UNAVAILABLE = Fault(503, _error(503, "UNAVAILABLE", "The service is currently unavailable.", "UNAVAILABLE"))
INTERNAL = Fault(500, _error(500, "INTERNAL", "Internal error encountered.", "INTERNAL"))
FORBIDDEN = Fault(403, _error(403, "PERMISSION_DENIED", "Permission 'cloudmessaging.messages.create' denied"))
NO_APNS_KEY = Fault(
    401, _error(401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service", "THIRD_PARTY_AUTH_ERROR")
)
UNAUTHENTICATED = Fault(
    401, _error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials. Expected OAuth 2 access token")
)


def throttled(retry_after: str | None = "60") -> Fault:
    """The answer to a project that sends too much."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    body = _error(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Messages'.", "QUOTA_EXCEEDED")
    return Fault(429, body, headers)


@dataclass
class FcmServer:
    """Listens on a port of 127.0.0.1 between `start` and `stop`.

    Args:
        latency_seconds: how long each message takes.

    `accepted` holds the messages that it has accepted, `accepted_at` when, in Unix time; `requests` counts the others
    too, and `refused` holds the targets of those that met a 4xx other than 429.
    """

    latency_seconds: float = 0.0
    accepted: list[dict[str, Any]] = field(default_factory=list)
    accepted_at: list[float] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    requests: int = 0
    exchanges: int = 0
    connections: int = 0
    open_connections: int = 0
    # What the token server answers instead.
    token_fault: Fault | None = None
    _faults: dict[str | None, list[tuple[Fault, int | None]]] = field(default_factory=dict)
    _access_tokens: dict[str, float] = field(default_factory=dict)
    _answering: int = 0

    def __post_init__(self) -> None:
        self._server: _Server | None = None
        self._changed = threading.Condition()
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None, "the server is not started"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> FcmServer:
        """Begins to listen, on the same port as before when it did before."""
        port = self._server.server_address[1] if self._server else 0
        self.stopped.clear()
        self._server = _Server(("127.0.0.1", port), _Exchange)
        self._server.owner = self
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stops listening and cuts every connection, after the answers to what it has accepted."""
        assert self._server is not None, "the server is not started"
        self.stopped.set()
        self._server.shutdown()
        with self._changed:
            self._changed.wait_for(lambda: not self._answering, timeout=2)
        self._server.cut_all()
        self._server.server_close()

    def settings(self, folder: Path) -> dict[str, str]:
        """The settings of an application whose messages are to come here; its credentials are written to a folder."""
        path = folder / "service-account.json"
        info = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": _private_key_text(),
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(info))
        return {"FCM_CREDENTIALS": str(path), "FCM_ENDPOINT": self.url}

    def fail(self, token: str | None, fault: Fault, *, times: int | None = None) -> None:
        """Answers messages to this token, or to all, with a fault; that often, or always."""
        with self._changed:
            self._faults.setdefault(token, []).append((fault, times))

    def hang(self) -> None:
        """Says nothing to a client that met a HANG, until the server is mended or stopped."""
        ends_at = time.monotonic() + HANG_SECONDS
        while (self._faults or self.token_fault) and not self.stopped.wait(0.05) and time.monotonic() < ends_at:
            pass

    def mend(self) -> None:
        """Accepts every message again."""
        with self._changed:
            self._faults.clear()

    def revoke_access_tokens(self) -> None:
        """Answers 401 to every access token that it has issued."""
        with self._changed:
            self._access_tokens.clear()

    def tokens(self) -> list[str]:
        """The targets of the accepted messages."""
        with self._changed:
            return [message.get("token") or message["fid"] for message in self.accepted]

    def wait_for(self, messages: int, timeout_seconds: float = 20.0) -> None:
        """Waits until that many messages were accepted; fails after the timeout."""
        with self._changed:
            has_come = self._changed.wait_for(lambda: len(self.accepted) >= messages, timeout_seconds)
        assert has_come, f"{len(self.accepted)} of {messages} messages came in {timeout_seconds} s"

    def count(self, change: int) -> None:
        """Counts a connection that begins or ends."""
        with self._changed:
            self.connections += max(change, 0)
            self.open_connections += change

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Counts a request that is being answered."""
        with self._changed:
            self._answering += 1
        try:
            yield
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()

    def exchange(self, form: Mapping[str, list[str]]) -> Fault:
        """The answer of the token server."""
        with self._changed:
            self.exchanges += 1
        if self.token_fault is not None:
            return self.token_fault
        problem = _problem_of_grant(form)
        if problem is not None:
            return Fault(400, {"error": "invalid_grant", "error_description": problem})
        with self._changed:
            access_token = f"access-{self.exchanges}"
            self._access_tokens[access_token] = time.time() + MAX_JWT_SECONDS
        return Fault(200, {"access_token": access_token, "expires_in": MAX_JWT_SECONDS, "token_type": "Bearer"})

    def answer(self, path: str, authorization: str, body: bytes) -> Fault:
        """The answer to a message, which is recorded if it is accepted."""
        access_token = authorization.removeprefix("Bearer ")
        with self._changed:
            self.requests += 1
            if self._access_tokens.get(access_token, 0.0) < time.time():
                return UNAUTHENTICATED
        if path != f"/v1/projects/{PROJECT}/messages:send":
            return Fault(404, _error(404, "NOT_FOUND", "Requested entity was not found."))
        message = json.loads(body)["message"]
        if (problem := _problem_of_message(message)) is not None:
            return problem
        time.sleep(self.latency_seconds)
        with self._changed:
            if self.stopped.is_set():
                return Fault(HANG)
            target = message.get("token") or message.get("fid")
            if (fault := self._strike(target)) is not None:
                if 400 <= fault.status < 500 and fault.status != 429:
                    self.refused.add(target)
                return fault
            self.accepted.append(message)
            self.accepted_at.append(time.time())
            number = len(self.accepted)
            self._changed.notify_all()
        return Fault(200, {"name": f"projects/{PROJECT}/messages/{number}"})

    def _strike(self, token: str) -> Fault | None:
        for key in (token, None):
            for index, (fault, times) in enumerate(self._faults.get(key, [])):
                if times != 0:
                    if times is not None:
                        self._faults[key][index] = (fault, times - 1)
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100
    owner: FcmServer

    def __init__(self, *arguments: Any) -> None:
        self._open: set[Any] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut_all(self) -> None:
        for request in list(self._open):
            with suppress(OSError):  # closed by the other side already
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections of killed clients end in errors."""


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.owner.count(1)

    def finish(self) -> None:
        try:
            super().finish()
        finally:  # the client was killed
            self.server.owner.count(-1)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.owner.answering():
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        owner = self.server.owner
        if self.path == "/token":
            answer = owner.exchange(parse_qs(body.decode()))
        else:
            answer = owner.answer(self.path, self.headers.get("Authorization", ""), body)
        if answer.status == HANG:
            owner.hang()
            self.close_connection = True
            return
        content = answer.body.encode() if isinstance(answer.body, str) else json.dumps(answer.body).encode()
        with suppress(ConnectionError):  # the client was killed
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@cache
def _private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _private_key_text() -> str:
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return _private_key().private_bytes(*formats).decode()


def _problem_of_grant(form: Mapping[str, list[str]]) -> str | None:
    """Why an assertion (RFC 7523) is refused."""
    if form.get("grant_type") != [GRANT]:
        return "unsupported grant type"
    try:
        head, claims, signature = form["assertion"][0].split(".")
        _private_key().public_key().verify(
            _decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        said = json.loads(_decoded(claims))
    except (KeyError, ValueError, InvalidSignature):
        return "Invalid JWT Signature."
    is_known = said["iss"] == EMAIL and said["aud"] == AUDIENCE and SCOPE in said["scope"].split()
    is_in_time = said["iat"] - 60 <= time.time() < said["exp"] <= said["iat"] + MAX_JWT_SECONDS
    return None if is_known and is_in_time else "Invalid JWT."


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _problem_of_message(message: Mapping[str, Any]) -> Fault | None:
    """The real server's refusal of a message that is not one."""

    def invalid(field: str) -> Fault:
        return Fault(400, _error(400, "INVALID_ARGUMENT", f"Invalid value at '{field}'", "INVALID_ARGUMENT", field))

    if sum(name in message for name in ("token", "fid", "topic", "condition")) != 1:
        return invalid("message")
    data: Mapping[str, Any] = message.get("data", {})
    if not all(isinstance(value, str) for value in data.values()):
        return invalid("message.data[0].value")
    if any(name in ("from", "message_type") or name.startswith(("google", "gcm")) for name in data):
        return invalid("message.data")
    texts = [*message.get("notification", {}).values(), *data, *data.values()]
    if sum(len(text.encode()) for text in texts) > MAX_BYTES:
        return Fault(400, _error(400, "INVALID_ARGUMENT", "Android message is too big", "INVALID_ARGUMENT"))
    ttl = message.get("android", {}).get("ttl", "0s")
    if not re.fullmatch(r"\d+(\.\d+)?s", ttl) or float(ttl[:-1]) > MAX_TTL_SECONDS:
        return invalid("message.android.ttl")
    if len(message.get("apns", {}).get("headers", {}).get("apns-collapse-id", "").encode()) > 64:
        return invalid("message.apns.headers")
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,32}", message.get("webpush", {}).get("headers", {}).get("Topic", "")):
        return invalid("message.webpush.headers")
    return None
