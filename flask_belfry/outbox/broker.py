"""The connection to Redis and the circuit breaker before it. The only place that reads REDIS_URL."""

from __future__ import annotations

import threading
import time
from typing import Any

import redis
from flask import g, has_request_context
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from flask_belfry.core.settings.broker_urls import BrokerAddress, read_broker_url


def connect(url: str, *, connect_timeout_seconds: float, timeout_seconds: float | None) -> redis.Redis:
    """A client for `url`; nothing is sent before its first command.

    Args:
        url: an address that `read_broker_url` reads.
        connect_timeout_seconds: how long opening a connection may take; through Sentinel, of all addresses together.
        timeout_seconds: how long one answer may take; None waits for ever (blocking pops).
    """
    address = read_broker_url(url)
    # The client's own default is to try three more times, with pauses: here somebody waits for the answer.
    options: dict[str, Any] = {
        "socket_connect_timeout": connect_timeout_seconds,
        "socket_timeout": timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }
    if address.sentinels:
        return _connect_through_sentinel(address, options)
    return redis.Redis.from_url(url, **options)


def _connect_through_sentinel(address: BrokerAddress, options: dict[str, Any]) -> redis.Redis:
    of_primary = {**options, **address.options}
    of_sentinels = {name: value for name, value in of_primary.items() if name != "db"}
    for name in ("username", "password"):
        if (own := of_primary.pop(f"sentinel_{name}", None)) is not None:
            of_sentinels[name] = own
        of_sentinels.pop(f"sentinel_{name}", None)
    # One that is silent must leave time for the others, and for the primary that they name.
    share_seconds = options["socket_connect_timeout"] / (len(address.sentinels) + 1)
    of_primary["socket_connect_timeout"] = share_seconds
    of_sentinels |= {"socket_connect_timeout": share_seconds, "socket_timeout": share_seconds}
    connection_class = _EncryptedSentinelConnection if address.is_encrypted else _SentinelConnection
    sentinel = Sentinel([], ssl=address.is_encrypted, **of_primary)
    sentinel.sentinels = [
        redis.Redis(
            connection_pool=redis.ConnectionPool(connection_class, host=host, port=port, **of_sentinels),
        )
        for host, port in address.sentinels
    ]
    return sentinel.master_for(address.service)


class _SentinelConnection(redis.Connection):
    """Gives a Sentinel the broker's password, and does without where the Sentinel has none."""

    def on_connect_check_health(self, check_health: bool = True) -> None:
        try:
            super().on_connect_check_health(check_health)
        except redis.AuthenticationError:
            if not self.password:
                raise
            self.username = self.password = None
            super().on_connect_check_health(check_health)


class _EncryptedSentinelConnection(_SentinelConnection, redis.SSLConnection):
    """The same over TLS."""


class CircuitBreaker:
    """Keeps callers from waiting for a broker that does not answer, and a request from waiting for it twice.

    Args:
        retry_seconds: how long it stays open after a failure; then one caller may try.
    """

    def __init__(self, retry_seconds: float) -> None:
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._closed_again_at = 0.0

    def admits(self) -> bool:
        """Whether a call may be tried now. After a failure only one caller at a time is let through to try."""
        if has_request_context() and g.get("broker_failed", False):
            return False
        with self._lock:
            now = time.monotonic()
            if self._closed_again_at == 0.0:
                return True
            if now < self._closed_again_at:
                return False
            self._closed_again_at = now + self._retry_seconds
            return True

    @property
    def is_open(self) -> bool:
        """Whether the last call failed."""
        return self._closed_again_at != 0.0

    def succeeded(self) -> None:
        """The call came through: everybody may call."""
        with self._lock:
            self._closed_again_at = 0.0

    def failed(self) -> None:
        """The call failed: nobody waits for `retry_seconds`, and this request no more at all."""
        if has_request_context():
            g.broker_failed = True
        with self._lock:
            self._closed_again_at = time.monotonic() + self._retry_seconds
