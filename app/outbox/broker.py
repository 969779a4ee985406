"""The connection to Redis and the circuit breaker before it. The only place that reads REDIS_URL."""

from __future__ import annotations

import threading
import time
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")


def connect(url: str, *, connect_timeout_seconds: float, timeout_seconds: float | None) -> redis.Redis:
    """A client for `url`; nothing is sent before its first command.

    Args:
        url: `redis://`, `rediss://`, `unix://` or `redis+sentinel://host:port,host:port/service/db`.
        connect_timeout_seconds: how long opening a connection may take.
        timeout_seconds: how long one answer may take; None waits for ever (blocking pops).
    """
    # The client's own default is to try three more times, with pauses: here somebody waits for the answer.
    options: dict[str, Any] = {
        "socket_connect_timeout": connect_timeout_seconds,
        "socket_timeout": timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }
    parts = urlsplit(url)
    if parts.scheme not in SENTINEL_SCHEMES:
        return redis.Redis.from_url(url, **options)
    return _connect_sentinel(url, options)


def _connect_sentinel(url: str, options: dict[str, Any]) -> redis.Redis:
    parts = urlsplit(url)
    hosts = [host.rpartition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
    service, _, database = parts.path.strip("/").partition("/")
    sentinel = Sentinel(
        [(host, int(port)) for host, _, port in hosts],
        sentinel_kwargs=options,
        ssl=parts.scheme.startswith("rediss"),
        **options,
    )
    return sentinel.master_for(service or "mymaster", db=int(database or 0), password=parts.password)


class CircuitBreaker:
    """Keeps callers from waiting for a broker that does not answer.

    Args:
        retry_seconds: how long it stays open after a failure; then one caller may try.
    """

    def __init__(self, retry_seconds: float) -> None:
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._closed_again_at = 0.0

    def admits(self) -> bool:
        """Whether a call may be tried now. After a failure only one caller at a time is let through to try."""
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
        """The call failed: nobody waits for `retry_seconds`."""
        with self._lock:
            self._closed_again_at = time.monotonic() + self._retry_seconds
