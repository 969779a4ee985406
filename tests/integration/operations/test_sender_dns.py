"""`flask doctor` and the records of the sender's domain, in a DNS server on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.rcode
import pytest

from flask_belfry.db import db
from flask_belfry.mail import sender_dns
from tests.conftest import make_app
from tests.dns_server import DnsServer

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

SPF = "v=spf1 a:smtp.school.org -all"
DMARC = "v=DMARC1; p=quarantine; pct=50"
KEY = "v=DKIM1; k=rsa; p=" + "A" * 380
GOOD = {
    "bounces.school.org": [SPF, "another record"],
    "s1._domainkey.mail.school.org": [KEY],
    "_dmarc.school.org": [DMARC],
}
SENDER = {
    "MAIL_DEFAULT_SENDER": "School <no-reply@mail.school.org>",
    "MAIL_BOUNCE_ADDRESS": "b@bounces.school.org",
    "MAIL_DKIM_SELECTOR": "s1",
    "MAIL_SERVER": "smtp.school.org",
    "MAIL_ENABLED": "true",
}
PARTS = ("spf", "dkim", "dmarc")


@pytest.fixture
def dns_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DnsServer]:
    server = DnsServer(dict(GOOD))
    monkeypatch.setattr(sender_dns, "make_resolver", server.resolver)
    yield server
    server.stop()


@pytest.fixture
def find(settings: dict[str, Any], tmp_path: Path) -> Callable[..., dict[str, tuple[bool, str]]]:
    def run(**more: str) -> dict[str, tuple[bool, str]]:
        # The SMTP server is not what is tested: a closed port ends its check.
        app = make_app(settings | SENDER | {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": "1"} | more, tmp_path)
        with app.app_context():
            rows = json.loads(app.test_cli_runner().invoke(args=["doctor", "--json"]).stdout)
            db.session.remove()
            db.engine.dispose()
        return {row["part"]: (row["is_ok"], row["message"]) for row in rows if row["part"] in PARTS}

    return run


def test_records_that_fit_are_shown(dns_server: DnsServer, find: Any) -> None:
    assert find() == {
        "spf": (True, f"bounces.school.org: {SPF}"),
        "dkim": (True, "s1._domainkey.mail.school.org has a key"),
        "dmarc": (True, f"_dmarc.school.org: {DMARC}"),
    }


def test_missing_records_are_printed_as_they_must_be_published(dns_server: DnsServer, find: Any) -> None:
    dns_server.records = {}
    assert find() == {
        "spf": (
            False,
            'bounces.school.org has no SPF record: publish bounces.school.org. TXT "v=spf1 ip4:127.0.0.1 ~all"',
        ),
        "dkim": (
            False,
            "s1._domainkey.mail.school.org has no DKIM key: "
            'publish s1._domainkey.mail.school.org. TXT "v=DKIM1; k=rsa; p=<the public key>"',
        ),
        "dmarc": (
            False,
            'mail.school.org has no DMARC record: publish _dmarc.mail.school.org. TXT "v=DMARC1; p=none"',
        ),
    }


def test_wrong_records_are_named(dns_server: DnsServer, find: Any) -> None:
    dns_server.records = {
        "bounces.school.org": [SPF, "v=spf1 -all", "v=spf10 is another version"],
        "s1._domainkey.mail.school.org": ["v=DKIM1; p="],
        "_dmarc.mail.school.org": ["v=DMARC1; sp=none"],
        "_dmarc.school.org": [DMARC],
    }
    found = find()
    assert not any(is_ok for is_ok, _ in found.values())
    assert found["spf"][1].startswith("bounces.school.org has 2 SPF records")
    assert "revoked" in found["dkim"][1]
    assert "no valid policy" in found["dmarc"][1]
    dns_server.records = {"_dmarc.mail.school.org": [DMARC, "v=DMARC1; p=none"]}
    assert find()["dmarc"][1].startswith("_dmarc.mail.school.org has 2 DMARC records")


def test_an_unknown_selector_is_not_an_error(dns_server: DnsServer, find: Any) -> None:
    is_ok, message = find(MAIL_DKIM_SELECTOR="")["dkim"]
    assert is_ok
    assert message.startswith("selector unknown: set MAIL_DKIM_SELECTOR")


@pytest.mark.parametrize("trouble", ["silent", "servfail", "no configuration"])
def test_dns_that_does_not_respond_is_not_a_failure(
    dns_server: DnsServer, find: Any, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_dns, "LIFETIME_SECONDS", 0.1)
    dns_server.is_silent = trouble == "silent"
    dns_server.fails_with = dns.rcode.SERVFAIL
    if trouble == "no configuration":
        monkeypatch.undo()
        monkeypatch.setattr("dns.resolver.Resolver.read_resolv_conf", _without_configuration)
    found = find()
    assert {part: is_ok for part, (is_ok, _) in found.items()} == dict.fromkeys(PARTS, True)
    assert all(message.startswith("not checked: DNS did not respond for ") for _, message in found.values())


@pytest.mark.parametrize("sender", ["no-reply@belfry.localhost", "no-reply@mail.example.org", "root@school.test"])
def test_a_domain_that_is_not_public_is_not_looked_up(dns_server: DnsServer, find: Any, sender: str) -> None:
    assert find(MAIL_DEFAULT_SENDER=sender, MAIL_BOUNCE_ADDRESS="") == {}
    assert find(MAIL_ENABLED="false") == {}
    assert dns_server.names == []


def _without_configuration(*_: object) -> None:
    from dns.resolver import NoResolverConfiguration

    raise NoResolverConfiguration
