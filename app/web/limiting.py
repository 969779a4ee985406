"""Rate limits: moving windows, counted in the broker for all processes.

While the broker is unavailable each process counts in memory, and no request waits: the publisher's circuit breaker is
shared. The limits are defined next to the endpoints.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv6Address, IPv6Network, ip_address
from math import ceil
from threading import Lock
from typing import NoReturn, TypeVar

import redis
import structlog
from flask import Flask, current_app, request
from limits import RateLimitItemPerSecond, WindowStats
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from werkzeug.exceptions import TooManyRequests

from app.web.keys import keyed_digest
from flask_belfry.core.presentation import rounded_up
from flask_belfry.outbox import publisher
from flask_belfry.outbox.publisher import LIMITS_PREFIX, Publisher

log = structlog.get_logger(__name__)

T = TypeVar("T")
# A customer has at least this network of IPv6 addresses (RFC 6177).
IPV6_PREFIX = 64
# The number of keys in memory above which expired windows are removed.
SWEPT_KEYS = 1_000


@dataclass(frozen=True)
class Limit:
    """A number of hits within a number of seconds, counted separately for each key."""

    name: str
    times: int
    seconds: int

    @cached_property
    def item(self) -> RateLimitItemPerSecond:
        """The limit as an item of the library."""
        return RateLimitItemPerSecond(self.times, self.seconds, namespace=self.name)


class LocalWindows:
    """Moving windows in this process's memory, with the methods of the library's limiter.

    The library's memory storage starts a thread at almost every hit, which scans all keys.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._expirations: dict[str, deque[float]] = {}  # of each key's hits, oldest first
        self._sweep_above = SWEPT_KEYS

    def hit(self, item: RateLimitItemPerSecond, *identifiers: str) -> bool:
        """Count a hit; return whether it was within the limit."""
        with self._lock:
            expirations, now = self._current(item, identifiers), time.time()
            if len(expirations) >= item.amount:
                return False
            expirations.append(now + item.get_expiry())
            self._expirations[item.key_for(*identifiers)] = expirations
            if len(self._expirations) > self._sweep_above:
                self._expirations = {
                    key: times for key, times in self._expirations.items() if times and times[-1] > now
                }
                self._sweep_above = max(SWEPT_KEYS, 2 * len(self._expirations))
            return True

    def test(self, item: RateLimitItemPerSecond, *identifiers: str) -> bool:
        """Return whether a hit would be within the limit."""
        return self.get_window_stats(item, *identifiers).remaining > 0

    def clear(self, item: RateLimitItemPerSecond, *identifiers: str) -> None:
        """Releases all times."""
        with self._lock:
            self._expirations.pop(item.key_for(*identifiers), None)

    def get_window_stats(self, item: RateLimitItemPerSecond, *identifiers: str) -> WindowStats:
        """Return when the oldest hit expires, and the number of remaining hits."""
        with self._lock:
            expirations = self._current(item, identifiers)
            return WindowStats(expirations[0] if expirations else time.time(), item.amount - len(expirations))

    def _current(self, item: RateLimitItemPerSecond, identifiers: tuple[str, ...]) -> deque[float]:
        expirations, now = self._expirations.get(item.key_for(*identifiers), deque()), time.time()
        while expirations and expirations[0] <= now:
            expirations.popleft()
        return expirations


Counters = MovingWindowRateLimiter | LocalWindows


class Limiter:
    """Counts in the broker, or in memory while the broker is unavailable."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._own = LocalWindows()

    def call(self, action: Callable[[Counters], T]) -> T:
        """Call `action` with the counters of the broker, or with those in memory if the broker fails."""
        breaker = self._publisher.breaker
        if breaker.admits():
            try:
                self._publisher.ownership.check(self._publisher.connection)
                result = action(self._shared)
            except redis.ResponseError as error:
                # The broker responds: a refused command, such as a script, need not stop the publisher.
                breaker.succeeded()
                log.warning("limits.in_memory", error=type(error).__name__, reason=str(error))
            except redis.RedisError as error:
                breaker.failed()
                log.warning("limits.in_memory", error=type(error).__name__)
            else:
                breaker.succeeded()
                return result
        return action(self._own)

    @cached_property
    def _shared(self) -> MovingWindowRateLimiter:
        # With a pool the URL is ignored.
        pool = self._publisher.connection.connection_pool
        return MovingWindowRateLimiter(RedisStorage("redis://", connection_pool=pool, key_prefix=LIMITS_PREFIX))


def init_app(app: Flask) -> None:
    """Create the limiter of `app`. Must come after `flask_belfry.outbox.init_app`."""
    app.extensions["limiter"] = Limiter(publisher(app))


def hit(limit: Limit, *key: str) -> None:
    """Count a hit of `key`. Raises TooManyRequests above the limit."""
    if is_exhausted(limit, *key):
        _refuse(limit, key)


def is_exhausted(limit: Limit, *key: str) -> bool:
    """Count a hit of `key`; return whether it exceeds the limit."""
    return _is_enabled() and not _call(lambda counters: counters.hit(limit.item, _digest(key)))


def test(limit: Limit, *key: str) -> None:
    """Raise TooManyRequests if a hit of `key` would exceed the limit; count nothing."""
    if _is_enabled() and not _call(lambda counters: counters.test(limit.item, _digest(key))):
        _refuse(limit, key)


def clear(limit: Limit, *key: str) -> None:
    """Reset the count of `key`."""
    if _is_enabled():
        _call(lambda counters: counters.clear(limit.item, _digest(key)))


def client_key() -> str:
    """Return the network of this request's client, see `network_of`."""
    return network_of(request.remote_addr or "")


def network_of(text: str) -> str:
    """Return an IP address, which may be empty, or the network of one customer for IPv6."""
    try:
        found = ip_address(text)
    except ValueError:  # a Unix socket has no IP address
        return text
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Network((found, IPV6_PREFIX), strict=False))
    return text


def _refuse(limit: Limit, key: tuple[str, ...]) -> NoReturn:
    resets_at = _call(lambda counters: counters.get_window_stats(limit.item, _digest(key))).reset_time
    seconds = max(1, ceil(resets_at - time.time()))
    raise TooManyRequests(f"Too many attempts. Try again in {rounded_up(seconds)}.", retry_after=seconds)


def _call(action: Callable[[Counters], T]) -> T:
    limiter: Limiter = current_app.extensions["limiter"]
    return limiter.call(action)


def _is_enabled() -> bool:
    return current_app.config["RATE_LIMITS_ENABLED"]


def _digest(key: tuple[str, ...]) -> str:
    # Email and IP addresses must not be stored in the broker.
    return keyed_digest("limits", "\0".join(key)).hex()
