"""The worker class of the web process: gunicorn runs the processes, waitress the connections.

gunicorn's own threaded worker holds a thread while a client sends a request or reads a response, so a few slow clients
stop it. waitress receives requests and sends responses in one loop; a thread only runs the application. gunicorn has
what waitress lacks: the listening socket that outlives a worker, and the signals.

gunicorn's master imports this module and lives longer than the code that its workers load: nothing of the application
may be imported here.
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

# A request must have arrived after so many seconds, plus one for each MIN_BYTES_PER_SECOND that have.
RECEIVE_SECONDS = 20
MIN_BYTES_PER_SECOND = 500
# A client that accepts nothing of a response for so long has left.
SEND_SECONDS = 60
# A stopping worker closes connections that have been idle for as long: who has just connected, or received a response,
# may be sending a request. So long, too, a client has to close a connection after the last response.
LINGER_SECONDS = 2
# So many slow requests are refused at a time; others wait meanwhile.
REFUSALS, REFUSALS_EVERY_SECONDS = 25, 0.1
MAX_HEAD_BYTES = 32 * 1024
# What is larger goes to a temporary file.
MEMORY_BYTES = 64 * 1024
MAX_OPEN_FILES = 65536
NEVER_SECONDS = 2**31

# Untyped: the published types of waitress lack what a subclass needs.
Parser: Any = HTTPRequestParser
Task: Any = WSGITask
Channel: Any = HTTPChannel


class RequestTimeout(Error):
    """The answer to a request that arrives too slowly."""

    code = 408
    reason = "Request Timeout"


class BufferedRequest(Parser):
    """A request, from its first byte until all of it has been received."""

    error: Any = None

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self._begun_at = time.monotonic()

    def received(self, data: bytes) -> int:
        """Consumes what belongs to this request; leaves a body that is too large unread."""
        consumed = super().received(data)
        if isinstance(self.error, RequestEntityTooLarge):
            # The application answers, in its own format, from the size alone.
            self.error = None
            self.headers["CONNECTION"] = "close"
            self.headers["CONTENT_LENGTH"] = str(max(self.content_length, self.body_bytes_received))
        if self.completed:
            # waitress would otherwise invite the body of a request that it has refused or that has none.
            self.expect_continue = False
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Parses the head. Raises ParsingError, also for a length of more digits than Python reads."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise ParsingError("Content-Length is invalid") from error
        # A proxy that believes the other header sees another end of the request (RFC 9112, 6.1). waitress leaves
        # Transfer-Encoding in requests of HTTP/1.0, which has no chunks.
        if "TRANSFER_ENCODING" in self.headers or (self.chunked and "CONTENT_LENGTH" in self.headers):
            raise ParsingError("Content-Length and Transfer-Encoding contradict each other")

    def is_too_slow(self) -> bool:
        """Whether it should have arrived by now."""
        received = self.header_bytes_received + self.body_bytes_received
        return time.monotonic() > self._begun_at + RECEIVE_SECONDS + received / MIN_BYTES_PER_SECOND


class Response(Task):
    """The application's response to one request."""

    def build_response_header(self) -> bytes:
        """Announces the end of the connection if the worker is stopping."""
        if not self.channel.server.accepting:
            self.request.headers["CONNECTION"] = "close"
        must_close = (
            self.close_on_finish
            or self.version == "1.0"
            or self.request.headers.get("CONNECTION", "").lower() == "close"
        )
        head = super().build_response_header()
        if not self.has_body and not must_close:
            # waitress closes after a response without a length; 204 and 304, which answer polling, end with the head.
            self.close_on_finish = False
            head = head.replace(b"\r\nConnection: close\r\n", b"\r\n", 1)
        return head


class Connection(Channel):
    """A client's connection. It closes in two steps (RFC 9112, 9.6): unread input would destroy the response."""

    parser_class = BufferedRequest
    task_class = Response
    _half_closed_at: float | None = None

    def received(self, data: bytes) -> bool:
        """Discards what follows the last request."""
        return self._half_closed_at is None and super().received(data)

    def handle_write(self) -> None:
        """Sends what is left of the response; after the last one, waits for the client to close."""
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
        """Refuses a request that arrives too slowly; closes a connection that is idle or unread for too long.

        Returns:
            whether a request was refused.
        """
        if self.requests:
            return False
        if self.request is not None and not self.close_when_flushed:
            if self.request.is_too_slow():
                self._refuse(self.request)
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

    def _refuse(self, request: BufferedRequest) -> None:
        request.error = RequestTimeout(f"not received within {RECEIVE_SECONDS} s")
        with self.requests_lock:
            self.request = None
            self.requests.append(request)
        self.server.add_task(self)

    def _has_input(self) -> bool:
        """Whether something has arrived that the loop has not seen yet."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False


class Sockets(dict[int, Any]):
    """The sockets of waitress, by file descriptor, and their events.

    The loop of waitress asks every socket in every round what it waits for. With 1,000 connections that costs more than
    a request does, and slow clients cause many rounds. This one asks only those whose answer may have changed.
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
        """Called before the socket is closed."""
        with self._lock:
            super().__delitem__(descriptor)
            self._watch(descriptor, 0)

    def handle_events(self, seconds: float) -> None:
        """Handles the next events, which must come within this time."""
        for descriptor in tuple(self._changed):
            self._ask(descriptor)
        for key, events in self._selector.select(seconds):
            self._changed.add(key.fd)
            if (entry := self.get(key.fd)) is not None:
                flags = (select.POLLIN, select.POLLOUT)[events == selectors.EVENT_WRITE]
                wasyncore.readwrite(entry, flags)

    def ask_all(self) -> None:
        """Has the next round ask every socket what it waits for."""
        self._changed.update(tuple(self))

    def _ask(self, descriptor: int) -> None:
        with self._lock:
            self._changed.discard(descriptor)
            entry = self.get(descriptor)
            if entry is None:
                return
            # While a thread answers a request, the connection changes without an event. Looked at first: what follows
            # is the last word once the thread has finished.
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
        """Loads the application. One that refuses its settings would do so again: the master ends with it."""
        try:
            super().load_wsgi()
        except SystemExit as refusal:
            raise AppImportError(str(refusal.code)) from refusal
        application: Any = self.wsgi
        if log_start := getattr(application, "extensions", {}).get("log_start"):
            log_start("web", threads=self.cfg.threads)

    def run(self) -> None:
        """Serves until it is told to stop, then answers what has been accepted, within the graceful timeout."""
        # waitress warns of each request that waits for a thread.
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
            # The application believes its proxies by a setting of its own.
            clear_untrusted_proxy_headers=False,
            recv_bytes=MEMORY_BYTES,
            inbuf_overflow=MEMORY_BYTES,
            outbuf_overflow=MEMORY_BYTES,
            # A thread does not wait for a slow reader, whatever the length of the response.
            outbuf_high_watermark=2**30,
            max_request_header_size=MAX_HEAD_BYTES,
            # waitress refuses a body of this length, the application a longer one.
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
        self._expire_at = 0.0  # what is idle is closed first
        ends_at = time.monotonic() + self.cfg.graceful_timeout
        while self._connections() and time.monotonic() < ends_at:
            self._serve(0.1, idle_seconds=LINGER_SECONDS)

    def _serve(self, seconds: float, *, idle_seconds: float) -> None:
        """Handles the next events; ends what has taken too long, once in this time."""
        self.notify()
        self._sockets.handle_events(min(seconds, max(0.0, self._expire_at - time.monotonic())))
        if time.monotonic() < self._expire_at:
            return
        refused = 0
        for connection in self._connections():
            refused += connection.expire(idle_seconds)
            if refused == REFUSALS:
                break
        self._sockets.ask_all()
        self._expire_at = time.monotonic() + (REFUSALS_EVERY_SECONDS if refused == REFUSALS else seconds)

    def _accept(self, listener: BaseWSGIServer) -> None:
        """Accepts all connections that the system has completed; waitress accepts one in each round."""
        before = None
        while len(self._sockets) != before:
            before = len(self._sockets)
            BaseWSGIServer.handle_accept(listener)

    def _connections(self) -> list[Connection]:
        return [entry for entry in tuple(self._sockets.values()) if isinstance(entry, Connection)]


def raise_file_limit() -> int:
    """Lets the process open as many files as it may; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(soft, MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit
