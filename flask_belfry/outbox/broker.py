"""The connection to Redis and its circuit breaker. The only place that reads REDIS_URL."""

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
    """Return a client for `url`. It connects at its first command.

    Args:
        url: a URL that `read_broker_url` accepts.
        connect_timeout_seconds: the time limit for opening a connection; with Sentinel, for all hosts together.
        timeout_seconds: the time limit for one reply; None waits without a limit (blocking pops).
    """
    address = read_broker_url(url)
    # By default the client retries three times, with pauses: too long for a request.
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
    # A Sentinel that does not reply must leave time for the others, and for the primary.
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
    """Sends the broker's password to a Sentinel, and connects without one where the Sentinel has none."""

    def on_connect_check_health(self, check_health: bool = True) -> None:
        try:
            super().on_connect_check_health(check_health)
        except redis.AuthenticationError:
            if not self.password:
                raise
            self.username = self.password = None
            super().on_connect_check_health(check_health)


class _EncryptedSentinelConnection(_SentinelConnection, redis.SSLConnection):
    """A `_SentinelConnection` over TLS."""


class CircuitBreaker:
    """Keeps callers from waiting for an unavailable broker, and a request from waiting for it twice.

    Args:
        retry_seconds: how long it stays open after a failure; then one caller may try again.
    """

    def __init__(self, retry_seconds: float) -> None:
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._closed_again_at = 0.0

    def admits(self) -> bool:
        """Return whether a call may be tried now. After a failure only one caller at a time may."""
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
        """Record a successful call: all callers may call again."""
        with self._lock:
            self._closed_again_at = 0.0

    def failed(self) -> None:
        """Record a failed call: no caller may call for `retry_seconds`, and this request not again."""
        if has_request_context():
            g.broker_failed = True
        with self._lock:
            self._closed_again_at = time.monotonic() + self._retry_seconds
