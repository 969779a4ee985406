"""Checks of what DNS says about the sender: SPF (RFC 7208), DKIM (RFC 6376) and DMARC (RFC 7489).

Receivers refuse mail, or call it spam, if these records do not fit. DNS that does not respond is not a failure.
"""

from __future__ import annotations

import re
import time
from email.utils import parseaddr
from ipaddress import ip_address
from typing import TYPE_CHECKING

from flask import current_app

from flask_belfry.core.settings.casts import public_domain
from flask_belfry.mail.errors import MailError

if TYPE_CHECKING:
    from dns.resolver import Resolver

# For one check: less than the limit of all checks of `flask doctor`.
LIFETIME_SECONDS = 1.2
# RFC 2606 and RFC 6761.
RESERVED = re.compile(r"(?:.*\.)?(?:test|example|example\.(?:com|net|org))")
_SPF = re.compile(r"(?i)v=spf1(?: |$)")
_DMARC = re.compile(r"(?i)v\s*=\s*DMARC1\s*;.*\bp\s*=\s*(none|quarantine|reject)\b")
_DKIM_KEY = re.compile(r"(?i)(?:^|;)\s*p\s*=\s*([^;\s]*)")


class SenderDomainError(MailError):
    """A record of the sender's domain is missing or wrong; the message says what to publish."""


def check_spf() -> str | None:
    """Check the SPF record of the domain of the return path; None if that is not a public domain.

    Raises:
        SenderDomainError: there is not exactly one.
    """
    domain = _public(_return_path_domain())
    if domain is None:
        return _not_public(_return_path_domain())
    found = _texts(domain, LIFETIME_SECONDS)
    if found is None:
        return _unreachable(domain)
    records = [text for text in found if _SPF.match(text)]
    if len(records) == 1:
        return f"{domain}: {records[0]}"
    if records:
        raise SenderDomainError(f"{domain} has {len(records)} SPF records, and receivers use none: merge them into one")
    raise SenderDomainError(f'{domain} has no SPF record: publish {domain}. TXT "v=spf1 {_mechanism()} ~all"')


def check_dkim() -> str | None:
    """Check the DKIM key of MAIL_DKIM_SELECTOR; None if the sender's domain is not public.

    Raises:
        SenderDomainError: there is no key, or it is revoked.
    """
    domain, selector = _public(_sender_domain()), current_app.config["MAIL_DKIM_SELECTOR"]
    if domain is None:
        return _not_public(_sender_domain())
    if selector is None:
        return "selector unknown: set MAIL_DKIM_SELECTOR to that of the server that signs the mails"
    name = f"{selector}._domainkey.{domain}"
    found = _texts(name, LIFETIME_SECONDS)
    if found is None:
        return _unreachable(name)
    keys = [match[1] for text in found if (match := _DKIM_KEY.search(text))]
    if not keys:
        raise SenderDomainError(f'{name} has no DKIM key: publish {name}. TXT "v=DKIM1; k=rsa; p=<the public key>"')
    if not any(keys):
        raise SenderDomainError(f"{name} is revoked, its key is empty: publish the key, or change MAIL_DKIM_SELECTOR")
    return f"{name} has a key"


def check_dmarc() -> str | None:
    """Check the DMARC record of the sender's domain, or of a parent domain; None if the domain is not public.

    Raises:
        SenderDomainError: there is not exactly one, or it is invalid.
    """
    domain = _public(_sender_domain())
    if domain is None:
        return _not_public(_sender_domain())
    labels, ends_at = domain.split("."), time.monotonic() + LIFETIME_SECONDS
    for first in range(len(labels) - 1):
        name = ".".join(["_dmarc", *labels[first:]])
        found = _texts(name, ends_at - time.monotonic())
        if found is None:
            return _unreachable(name)
        records = [text for text in found if text.lower().startswith("v=dmarc1")]
        if len(records) > 1:
            raise SenderDomainError(f"{name} has {len(records)} DMARC records, and receivers use none: publish one")
        if records:
            return f"{name}: {_valid_dmarc(name, records[0])}"
    raise SenderDomainError(f'{domain} has no DMARC record: publish _dmarc.{domain}. TXT "v=DMARC1; p=none"')


def make_resolver() -> Resolver:
    """Return a resolver with the name servers of this host."""
    # Imported here: only `flask doctor` needs it.
    from dns.resolver import Resolver

    return Resolver()


def _valid_dmarc(name: str, record: str) -> str:
    if not _DMARC.match(record):
        raise SenderDomainError(f'{name} has no valid policy: publish {name}. TXT "v=DMARC1; p=none"')
    return record


def _texts(name: str, within_seconds: float) -> list[str] | None:
    """Return the TXT records of a name; None if DNS does not respond."""
    from dns.exception import DNSException
    from dns.resolver import NXDOMAIN, NoAnswer

    try:
        answer = make_resolver().resolve(name, "TXT", search=False, lifetime=within_seconds)
    except (NXDOMAIN, NoAnswer):
        return []
    except (DNSException, OSError):
        return None
    return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]


def _unreachable(name: str) -> str:
    return f"not checked: DNS did not respond for {name}"


def _not_public(domain: str) -> str | None:
    is_production = current_app.config["APP_ENV"] == "production"
    return f"not checked: {domain or 'the sender'} is not a public domain" if is_production else None


def _public(domain: str) -> str | None:
    name = public_domain(domain)
    return None if name is None or RESERVED.fullmatch(name) else name


def _sender_domain() -> str:
    return parseaddr(current_app.config["MAIL_DEFAULT_SENDER"])[1].rpartition("@")[2]


def _return_path_domain() -> str:
    bounce_address: str | None = current_app.config["MAIL_BOUNCE_ADDRESS"]
    return bounce_address.rpartition("@")[2] if bounce_address else _sender_domain()


def _mechanism() -> str:
    """Return the term of an SPF record that allows MAIL_SERVER to send."""
    server: str = current_app.config["MAIL_SERVER"] or "<the mail server>"
    try:
        return f"ip{ip_address(server).version}:{server}"
    except ValueError:
        return f"a:{server}"
