"""Reads a REDIS_URL: `redis://`, `rediss://` and `unix://` like redis-py, or the URL of Sentinels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import RedisError
from redis.connection import Connection, parse_url

DIRECT_SCHEMES = ("redis", "rediss", "unix")
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
# Options that are not the connection's own.
POOL_OPTIONS = ("max_connections",)
SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True)
class BrokerAddress:
    """Where the broker is.

    Args:
        options: what a connection to it is made with.
        sentinels: hosts and ports of the Sentinels that know where it is; none for a fixed address.
        service: the name under which they know it.
        is_encrypted: whether it, and the Sentinels, are spoken to over TLS.
    """

    options: dict[str, Any]
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    is_encrypted: bool = False


def read_broker_url(text: str) -> BrokerAddress:
    """Reads `redis[s]://[user:password@]host[:port][/database]`, `unix://path`, or
    `redis[s]+sentinel://[user:password@]host:port[,host:port…]/service[/database]`, each with options in its query.

    Raises:
        ValueError: the URL is invalid.
    """
    scheme, _, rest = text.partition("://")
    if scheme in DIRECT_SCHEMES:
        options = _options(text)
        _check_options(options)
        return BrokerAddress(options, is_encrypted=scheme == "rediss")
    if scheme not in SENTINEL_SCHEMES:
        raise ValueError(text)
    authority, _, tail = rest.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    path, mark, query = tail.partition("?")
    service, _, database = path.strip("/").partition("/")
    if not service:
        raise ValueError(text)
    # The rest is read as it is without Sentinel.
    options = _options(f"{scheme.removesuffix('+sentinel')}://{credentials}{at}sentinel/{database}{mark}{query}")
    _check_options({name: value for name, value in options.items() if name not in SENTINEL_OPTIONS})
    del options["host"]
    options.pop("connection_class", None)  # that of Sentinel's client does the same
    sentinels = tuple(_host_and_port(host) for host in hosts.split(","))
    return BrokerAddress(options, sentinels, unquote(service), scheme.startswith("rediss"))


def _options(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        is_valid = bool(parts.path)
    else:
        # redis-py reads a database that is not a number as 0. `.port` raises ValueError for what is not a port.
        database = parts.path.strip("/")
        is_valid = bool(parts.hostname) and parts.port != 0 and (not database or database.isdecimal())
    if not is_valid:
        raise ValueError(url)
    return dict(parse_url(url))


def _check_options(options: Mapping[str, Any]) -> None:
    """Makes a connection without opening it: it refuses options that it does not have."""
    of_connection = {name: value for name, value in options.items() if name not in POOL_OPTIONS}
    connection_class = of_connection.pop("connection_class", Connection)
    try:
        # Replies are read as bytes, by RQ too.
        if connection_class(**of_connection).encoder.decode_responses:
            raise ValueError("decode_responses")
    except (TypeError, RedisError) as error:
        raise ValueError(str(error)) from error


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(text)
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(text)
    return unquote(host), int(port)
