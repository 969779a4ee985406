"""The web process, as the Procfile starts it: slow clients hold no thread, and a stop answers what was accepted."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.processes import Processes, children_of
from tests.servers import free_port, wait_until
from tests.web_root import LARGE_BYTES, MAX_REQUEST_BYTES
from webserver import REJECTIONS, raise_file_limit

Connect = Callable[[bytes], socket.socket]

SECONDS = 60
APPLICATION = "tests.web_root:app"
GET = b"GET / HTTP/1.1\r\nHost: belfry\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: belfry\r\n"
LATE = b"POST / HTTP/1.1\r\nHost: belfry\r\nContent-Length: 100\r\n\r\nx"
SIZE = MAX_REQUEST_BYTES - 16  # what frames the chunks counts too
UPLOAD_BYTES = 20_000_000  # more than the system keeps for a server that does not read
SLOW_CLIENTS = 1_000
THREADS = 2
CLIENTS = 6
RELOADS = 3


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def processes(tmp_path) -> Iterator[Processes]:
    running = Processes({"WEB_THREADS": str(THREADS)}, tmp_path)
    yield running
    running.kill_all()
    assert "exception" not in running.output()


@pytest.fixture
def connect(port) -> Iterator[Connect]:
    """Opens a connection and sends the start of a request."""
    raise_file_limit()
    with ExitStack() as connections:

        def connect(data: bytes) -> socket.socket:
            connection = connections.enter_context(socket.socket())
            connection.settimeout(SECONDS)
            connection.connect(("127.0.0.1", port))
            connection.sendall(data)
            return connection

        yield connect


def test_a_wrong_setting_ends_the_web_process_with_its_line(processes, port):
    process = processes.start_web(port, "wsgi:app", APP_ENV="testing", MAIL_TIMEOUT_SECONDS="soon")
    assert process.wait(SECONDS) == 4
    lines = processes.output(process).splitlines()
    assert lines.count("belfry: MAIL_TIMEOUT_SECONDS must be seconds, more than 0: 'soon' is not") == 1


@pytest.fixture
def web(processes, port, connect) -> subprocess.Popen[bytes]:
    """The web process, which answers."""
    process = processes.web(port, APPLICATION)
    assert receive(connect(GET))[0] == 200
    return process


def receive(connection: socket.socket) -> tuple[int, bool, str]:
    """The status of the next response (0: none), whether it ends the connection, and its body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return 0, True, ""
        head += byte
    length = re.search(rb"Content-Length: (\d+)", head)
    body = b""
    while length and len(body) < int(length[1]):
        body += connection.recv(65536)
    return int(head.split()[1]), b"\r\nConnection: close\r\n" in head, body.decode()


def is_sigterm_pending(pid: int) -> bool:
    """Whether a stopped process will receive SIGTERM when it continues."""
    pending = re.search(r"ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return pending is not None and bool(int(pending[1], 16) & 1 << signal.SIGTERM - 1)


@pytest.mark.usefixtures("web")
def test_slow_clients_do_not_keep_others_waiting(connect):
    senders = [connect((GET[:-2], LATE)[number % 2]) for number in range(SLOW_CLIENTS)]
    readers = [connect(GET.replace(b"/", b"/large", 1)) for _ in range(2 * THREADS)]
    assert [reader.recv(8, socket.MSG_PEEK) for reader in readers] == [b"HTTP/1.1"] * len(readers)
    for sender in senders:
        sender.sendall(b"x")
    assert receive(connect(GET)) == (200, False, "page")
    assert [len(receive(reader)[2]) for reader in readers] == [LARGE_BYTES] * len(readers)


def test_a_request_that_arrives_too_slowly_is_refused(processes, port, connect):
    program = "import webserver; webserver.RECEIVE_SECONDS = 0; from gunicorn.app.wsgiapp import run; run()"
    options = ("--bind", f"127.0.0.1:{port}", "--no-control-socket", "--worker-class", "webserver.BufferingWorker")
    process = processes.start("python", "-c", program, APPLICATION, *options)
    wait_until(lambda: "Booting worker" in processes.output(process), seconds=SECONDS)
    for connection in [connect(start) for start in (GET[:-2], LATE) * REJECTIONS]:  # more than one pass refuses
        status, closes, _ = receive(connection)
        assert (status, closes, receive(connection)[0]) == (408, True, 0)


@pytest.mark.usefixtures("web")
@pytest.mark.parametrize(
    "body",
    [
        f"Content-Length: {MAX_REQUEST_BYTES + 1}\r\nExpect: 100-continue\r\n\r\n",
        f"Content-Length: {UPLOAD_BYTES}\r\n\r\n{'x' * UPLOAD_BYTES}",
        f"Transfer-Encoding: chunked\r\n\r\n{MAX_REQUEST_BYTES * 2:x}\r\n{'x' * (MAX_REQUEST_BYTES + 1)}",
    ],
    ids=["it waits", "it is sent", "it has no Content-Length"],
)
def test_the_application_refuses_a_body_that_is_too_large_before_it_has_arrived(connect, body):
    assert receive(connect(POST + body.encode())) == (413, True, "too large for this application")


MALFORMED = (
    "Transfer-Encoding: chunked\r\n\r\nx\r\n",
    "Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n1;a\r\nxy\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\nxyz\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 11\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    "Content-Length: -1\r\n\r\n",
    f"Content-Length: {'9' * 5_000}\r\n\r\n",
    "Content-Length: \u00b2\r\n\r\n",
    "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
)


@pytest.mark.usefixtures("web")
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_malformed_body_is_refused(connect, version):
    for body in MALFORMED:
        status, closes, _ = receive(connect(POST.replace(b"1.1", version) + body.encode()))
        assert (status, closes) == (400, True), body


@pytest.mark.usefixtures("web")
@pytest.mark.parametrize(
    "body",
    [
        f"Content-Length: {SIZE}\r\n\r\n{'x' * SIZE}",
        f"Transfer-Encoding: chunked\r\n\r\n{SIZE:x}\r\n{'x' * SIZE}\r\n0\r\n\r\n",
    ],
    ids=["it has a Content-Length", "it has no Content-Length"],
)
def test_a_large_body_arrives_whole(connect, body):
    assert receive(connect(POST + body.encode())) == (200, False, str(SIZE))


@pytest.mark.usefixtures("web")
def test_a_response_without_a_body_keeps_its_connection(connect):
    connection = connect(GET[:-2] + b'If-None-Match: "page"\r\n\r\n')
    assert receive(connection) == (304, False, "")
    connection.sendall(GET)
    assert receive(connection) == (200, False, "page")


def test_a_stop_answers_what_was_accepted_and_closes_what_is_idle(processes, web, connect):
    (worker,) = children_of(web.pid)
    idle = connect(GET)
    assert receive(idle) == (200, False, "page")
    begun = connect(LATE)
    os.kill(worker, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(worker).status() == psutil.STATUS_STOPPED, seconds=SECONDS)
    # Accepted by the system, not seen by the worker.
    waiting, silent = connect(GET), connect(b"")
    connect(GET).close()
    web.send_signal(signal.SIGTERM)
    wait_until(lambda: is_sigterm_pending(worker), seconds=SECONDS)
    os.kill(worker, signal.SIGCONT)
    assert receive(waiting) == (200, True, "page")
    silent.sendall(GET)
    assert receive(silent) == (200, True, "page")
    assert receive(idle)[0] == 0
    begun.sendall(b"x" * 99)
    assert receive(begun) == (200, True, "100")
    for connection in (waiting, silent, begun):
        connection.close()
    assert web.wait(SECONDS) == 0, processes.output()


class Client(threading.Thread):
    """Sends one request after another, on a connection that it keeps or on new ones that the server closes."""

    def __init__(self, port: int, stop: threading.Event, *, keeps: bool) -> None:
        super().__init__()
        self._port, self._stop_asked = port, stop
        self._request = GET if keeps else GET[:-2] + b"Connection: close\r\n\r\n"
        self.answered = 0
        self.errors: list[object] = []

    def run(self) -> None:
        connection: socket.socket | None = None
        while not self._stop_asked.is_set():
            is_reused = connection is not None
            connection = connection or socket.create_connection(("127.0.0.1", self._port), SECONDS)
            closes = True
            try:
                connection.sendall(self._request)
                status, closes, _ = receive(connection)
                assert status == 200 or (status == 0 and is_reused), status
                self.answered += status == 200
            except (OSError, AssertionError) as error:
                # A server may close an idle connection at any time; the request is then sent again on a new one.
                if not is_reused or not isinstance(error, ConnectionError):
                    self.errors.append(error)
            if closes:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


def test_reloads_under_load_leave_no_request_unanswered(processes, port, web):
    stop = threading.Event()
    clients = [Client(port, stop, keeps=number % 2 == 0) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        for _ in range(RELOADS):
            (before,) = children_of(web.pid)
            web.send_signal(signal.SIGHUP)
            wait_until(lambda gone=before: gone not in children_of(web.pid) and children_of(web.pid), seconds=SECONDS)
            counts = [client.answered for client in clients]
            wait_until(
                lambda c=counts: all(now.answered > n for now, n in zip(clients, c, strict=True)), seconds=SECONDS
            )
    finally:
        stop.set()
        for client in clients:
            client.join(SECONDS)
    assert [error for client in clients for error in client.errors] == [], processes.output()
