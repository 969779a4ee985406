"""The worker class of the web process: gunicorn manages the processes, waitress the connections.

gunicorn's own threaded worker occupies a thread while a client sends a request or reads a response, so a few slow
clients block it. waitress receives requests and sends responses in one loop; a thread only runs the application.
gunicorn provides what waitress lacks: the listening socket that outlives a worker, and the signals.

gunicorn's master imports this module and outlives the code that its workers load: this module must not import the
application.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import selectors
import socket
import threading
import time
from functools import partial
from typing import Any

from gunicorn.errors import AppImportError
from gunicorn.workers.base import Worker
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import BaseWSGIServer, create_server
from waitress.task import WSGITask
from waitress.utilities import Error, RequestEntityTooLarge, queue_logger

# A request must have arrived after RECEIVE_SECONDS, plus one second for each MIN_BYTES_PER_SECOND received.
RECEIVE_SECONDS = 20
MIN_BYTES_PER_SECOND = 500
# A client that reads nothing of a response for this long is disconnected.
SEND_SECONDS = 60
# A stopping worker closes connections that have been idle for this long: a client that has just connected, or received
# a response, may be sending a request. A client has as long to close a connection after the last response.
LINGER_SECONDS = 2
# The most slow requests that are rejected at a time; the others wait.
REJECTIONS, REJECTIONS_EVERY_SECONDS = 25, 0.1
MAX_HEAD_BYTES = 32 * 1024
# Larger bodies go to a temporary file.
MEMORY_BYTES = 64 * 1024
MAX_OPEN_FILES = 65536
NEVER_SECONDS = 2**31

# Untyped: the published types of waitress lack what a subclass needs.
Parser: Any = HTTPRequestParser
Task: Any = WSGITask
Channel: Any = HTTPChannel


class RequestTimeout(Error):
    """The response to a request that arrives too slowly."""

    code = 408
    reason = "Request Timeout"


class BufferedRequest(Parser):
    """A request, from its first byte until it is complete."""

    error: Any = None

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self._begun_at = time.monotonic()

    def received(self, data: bytes) -> int:
        """Consume the bytes of this request; leave a body that is too large unread."""
        consumed = super().received(data)
        if isinstance(self.error, RequestEntityTooLarge):
            # The application responds, in its own format, to the announced size.
            self.error = None
            self.headers["CONNECTION"] = "close"
            self.headers["CONTENT_LENGTH"] = str(max(self.content_length, self.body_bytes_received))
        if self.completed:
            # waitress would otherwise send 100 Continue for a request that it has rejected or that has no body.
            self.expect_continue = False
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the head. Raise ParsingError, also for a length with more digits than Python converts."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise ParsingError("Content-Length is invalid") from error
        # A proxy that uses the other header sees another end of the request (RFC 9112, 6.1). waitress ignores
        # Transfer-Encoding in requests of HTTP/1.0, which has no chunks.
        if "TRANSFER_ENCODING" in self.headers or (self.chunked and "CONTENT_LENGTH" in self.headers):
            raise ParsingError("Content-Length and Transfer-Encoding contradict each other")

    def is_too_slow(self) -> bool:
        """Return whether it should have arrived by now."""
        received = self.header_bytes_received + self.body_bytes_received
        return time.monotonic() > self._begun_at + RECEIVE_SECONDS + received / MIN_BYTES_PER_SECOND


class Response(Task):
    """The application's response to one request."""

    def build_response_header(self) -> bytes:
        """Announce the end of the connection if the worker is stopping."""
        if not self.channel.server.accepting:
            self.request.headers["CONNECTION"] = "close"
        must_close = (
            self.close_on_finish
            or self.version == "1.0"
            or self.request.headers.get("CONNECTION", "").lower() == "close"
        )
        head = super().build_response_header()
        if not self.has_body and not must_close:
            # waitress closes after a response without a length; 204 and 304, frequent in polling, end with the head.
            self.close_on_finish = False
            head = head.replace(b"\r\nConnection: close\r\n", b"\r\n", 1)
        return head


class Connection(Channel):
    """A client's connection. It closes in two steps (RFC 9112, 9.6): unread input would destroy the response."""

    parser_class = BufferedRequest
    task_class = Response
    _half_closed_at: float | None = None

    def received(self, data: bytes) -> bool:
        """Discard what follows the last request."""
        return self._half_closed_at is None and super().received(data)

    def handle_write(self) -> None:
        """Send the rest of the response; after the last one, wait for the client to close."""
        if not self.close_when_flushed or self.will_close:
            super().handle_write()
            return
        self._flush_exception(self._flush_some)
        if self.will_close or not self.connected:
            self.handle_close()
        elif not self.total_outbufs_len:
            self.close_when_flushed = False
            self.request = None
            self._half_closed_at = time.monotonic()
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:  # the client was faster
                self.handle_close()

    def expire(self, idle_seconds: float) -> bool:
        """Reject a request that arrives too slowly; close a connection that is idle or unread for too long.

        Returns:
            whether a request was rejected.
        """
        if self.requests:
            return False
        if self.request is not None and not self.close_when_flushed:
            if self.request.is_too_slow():
                self._reject(self.request)
                return True
        elif self._is_abandoned(time.time() - self.last_activity, idle_seconds):
            self.handle_close()
        return False

    def _is_abandoned(self, quiet_seconds: float, idle_seconds: float) -> bool:
        if self.total_outbufs_len or self.close_when_flushed:
            return quiet_seconds > SEND_SECONDS
        if self._half_closed_at is not None:
            return quiet_seconds > LINGER_SECONDS or time.monotonic() > self._half_closed_at + SEND_SECONDS
        return quiet_seconds > idle_seconds and not self._has_input()

    def _reject(self, request: BufferedRequest) -> None:
        request.error = RequestTimeout(f"not received within {RECEIVE_SECONDS} s")
        with self.requests_lock:
            self.request = None
            self.requests.append(request)
        self.server.add_task(self)

    def _has_input(self) -> bool:
        """Return whether bytes have arrived that the loop has not read yet."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False


class Sockets(dict[int, Any]):
    """The sockets of waitress, by file descriptor, and their events.

    The loop of waitress polls every socket in every round for the events it waits for. With 1,000 connections that
    costs more than a request, and slow clients cause many rounds. This one only polls those that may have changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, int] = {}
        self._changed: set[int] = set()
        # A thread that runs the application may close a connection.
        self._lock = threading.Lock()

    def __setitem__(self, descriptor: int, entry: Any) -> None:
        super().__setitem__(descriptor, entry)
        self._changed.add(descriptor)

    def __delitem__(self, descriptor: int) -> None:
        """Unregister the socket; called before it is closed."""
        with self._lock:
            super().__delitem__(descriptor)
            self._watch(descriptor, 0)

    def handle_events(self, seconds: float) -> None:
        """Handle the next events within `seconds`."""
        for descriptor in tuple(self._changed):
            self._update(descriptor)
        for key, events in self._selector.select(seconds):
            self._changed.add(key.fd)
            if (entry := self.get(key.fd)) is not None:
                flags = (select.POLLIN, select.POLLOUT)[events == selectors.EVENT_WRITE]
                wasyncore.readwrite(entry, flags)

    def update_all(self) -> None:
        """Have the next round poll every socket for the events it waits for."""
        self._changed.update(tuple(self))

    def _update(self, descriptor: int) -> None:
        with self._lock:
            self._changed.discard(descriptor)
            entry = self.get(descriptor)
            if entry is None:
                return
            # While a thread processes a request, the connection changes without an event. Checked first: the state read
            # below is final once the thread has finished.
            if entry.accepting or getattr(entry, "requests", None):
                self._changed.add(descriptor)
            if entry.readable():
                self._watch(descriptor, selectors.EVENT_READ)
            else:
                self._watch(descriptor, selectors.EVENT_WRITE if entry.writable() else 0)

    def _watch(self, descriptor: int, events: int) -> None:
        before = self._watched.pop(descriptor, 0)
        if events:
            self._watched[descriptor] = events
        if not before and events:
            self._selector.register(descriptor, events)
        elif before and not events:
            self._selector.unregister(descriptor)
        elif before != events:
            self._selector.modify(descriptor, events)


class BufferingWorker(Worker):
    """A gunicorn worker whose threads never wait for a client."""

    _expire_at = 0.0

    def load_wsgi(self) -> None:
        """Load the application. When it rejects its settings, the master ends: a new worker would fail too."""
        try:
            super().load_wsgi()
        except SystemExit as error:
            raise AppImportError(str(error.code)) from error
        application: Any = self.wsgi
        if log_start := getattr(application, "extensions", {}).get("log_start"):
            log_start("web", threads=self.cfg.threads)

    def run(self) -> None:
        """Serve until the worker is stopped, then respond to accepted requests within the graceful timeout."""
        # waitress logs a warning for each request that waits for a thread.
        queue_logger.setLevel(logging.ERROR)
        application: Any = self.wsgi
        listening: list[Any] = self.sockets
        self._sockets = Sockets()
        create_server(
            application,
            map=self._sockets,
            sockets=[entry.sock for entry in listening],
            backlog=self.cfg.backlog,
            threads=self.cfg.threads,
            connection_limit=min(self.cfg.worker_connections, raise_file_limit() // 2),
            # The application has a setting of its own for trusted proxies.
            clear_untrusted_proxy_headers=False,
            recv_bytes=MEMORY_BYTES,
            inbuf_overflow=MEMORY_BYTES,
            outbuf_overflow=MEMORY_BYTES,
            # A thread does not wait for a slow reader, whatever the length of the response.
            outbuf_high_watermark=2**30,
            max_request_header_size=MAX_HEAD_BYTES,
            # waitress rejects bodies from this length on, the application those longer than MAX_CONTENT_LENGTH.
            max_request_body_size=application.config["MAX_CONTENT_LENGTH"] + 1,
            cleanup_interval=NEVER_SECONDS,  # connections expire below
        )
        listeners: list[Any] = [entry for entry in self._sockets.values() if isinstance(entry, BaseWSGIServer)]
        for listener in listeners:
            listener.channel_class = Connection
            listener.handle_accept = partial(self._accept, listener)
        while self.alive and self.ppid == os.getppid():
            self._serve(1.0, idle_seconds=self.cfg.keepalive)
        for listener in listeners:
            # Closing the socket resets the connections that the system has completed.
            listener.handle_accept()
            wasyncore.dispatcher.close(listener)
        self._expire_at = 0.0  # idle connections are closed first
        ends_at = time.monotonic() + self.cfg.graceful_timeout
        while self._connections() and time.monotonic() < ends_at:
            self._serve(0.1, idle_seconds=LINGER_SECONDS)

    def _serve(self, seconds: float, *, idle_seconds: float) -> None:
        """Handle the next events; once in `seconds`, expire connections."""
        self.notify()
        self._sockets.handle_events(min(seconds, max(0.0, self._expire_at - time.monotonic())))
        if time.monotonic() < self._expire_at:
            return
        rejected = 0
        for connection in self._connections():
            rejected += connection.expire(idle_seconds)
            if rejected == REJECTIONS:
                break
        self._sockets.update_all()
        self._expire_at = time.monotonic() + (REJECTIONS_EVERY_SECONDS if rejected == REJECTIONS else seconds)

    def _accept(self, listener: BaseWSGIServer) -> None:
        """Accept all connections that the system has completed; waitress accepts one per round."""
        before = None
        while len(self._sockets) != before:
            before = len(self._sockets)
            BaseWSGIServer.handle_accept(listener)

    def _connections(self) -> list[Connection]:
        return [entry for entry in tuple(self._sockets.values()) if isinstance(entry, Connection)]


def raise_file_limit() -> int:
    """Raise the limit of open files as far as allowed; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(soft, MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit
