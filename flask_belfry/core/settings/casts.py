"""Conversion of environment variables to values, and a description of the valid values of each kind of setting.
The settings are defined in config.py."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import getaddresses
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import idna

from flask_belfry.core.settings.broker_urls import read_broker_url
from flask_belfry.core.settings.database_urls import check_database_url

TRUE_WORDS = frozenset({"true", "1", "yes", "on"})
FALSE_WORDS = frozenset({"false", "0", "no", "off"})
# Of the secrets of Standard Webhooks.
WEBHOOK_PREFIX = "whsec_"


@dataclass(frozen=True)
class Cast:
    """A kind of setting: `convert` raises ValueError for invalid text; `valid_values` describes the valid values."""

    valid_values: str
    convert: Callable[[str], Any]

    def __call__(self, text: str) -> Any:
        return self.convert(text)


def _to_boolean(text: str) -> bool:
    word = text.lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError(text)


LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
# A dot-atom (RFC 5322, section 3.2.3) in ASCII: SMTPUTF8, which allows other letters, is not used.
LOCAL_PART = re.compile(r"(?=.{1,64}$)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
MAX_DOMAIN_CHARACTERS = 253
MAX_NAME_CHARACTERS = 60
# A local part has at most 64 characters (RFC 5321, section 4.5.3.1.1), and a token of 40 is added.
BOUNCE_LOCAL_CHARACTERS = 24
# RFC 6761 and 6762, ICANN's `internal`, and what machines without a name are called.
PRIVATE_DOMAINS = frozenset(
    {"localhost", "localdomain", "localdomain4", "localdomain6", "local", "internal", "invalid"}
)


def ascii_domain(text: str) -> str:
    """Return a domain as SMTP and DNS use it: internationalised names in Punycode. Raises ValueError."""
    # Underscores are no IDNA, but names of machines and containers have them.
    name = text if text.isascii() else idna.encode(text, uts46=True).decode("ascii")
    if len(name) > MAX_DOMAIN_CHARACTERS or not all(LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(text)
    return name


def public_domain(text: str) -> str | None:
    """Return the domain in ASCII when it may be a public name of a host on the Internet, otherwise None."""
    try:
        name = ascii_domain(text.lower().removesuffix("."))
    except ValueError:
        return None
    labels = name.split(".")
    is_public = len(labels) > 1 and labels[-1] not in PRIVATE_DOMAINS and not labels[-1].isdecimal()
    return name if is_public and "_" not in name else None


def _to_host(text: str) -> str:
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        return ascii_domain(text.removesuffix("."))


def _to_email_address(text: str) -> str:
    # Looser than what people may register with: root@localhost is a fine address for an operator.
    local, _, domain = text.rpartition("@")
    if not LOCAL_PART.fullmatch(local):
        raise ValueError(text)
    if not domain.startswith("["):
        return f"{local}@{ascii_domain(domain)}"
    return f"{local}@{address_literal(domain.removeprefix('[').removesuffix(']').removeprefix('IPv6:'))}"


def _to_bounce_address(text: str) -> str:
    email = _to_email_address(text)
    if len(email.rpartition("@")[0]) > BOUNCE_LOCAL_CHARACTERS:
        raise ValueError(text)
    return email


def address_literal(text: str) -> str:
    """An IP address as SMTP writes it in place of a domain (RFC 5321, section 4.1.3)."""
    found = ip_address(text)
    return f"[IPv6:{found}]" if isinstance(found, IPv6Address) else f"[{found}]"


def _to_mailbox(text: str) -> str:
    ((_, email),) = getaddresses([text])  # two of them are a name that lacks its quotation marks
    if not text.isprintable():
        raise ValueError(text)
    return text.replace(email, _to_email_address(email))


def _to_zone_name(text: str) -> str:
    try:
        return ZoneInfo(text).key
    except (LookupError, OSError) as error:
        raise ValueError(text) from error


def _to_existing_file(text: str) -> Path:
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise ValueError(text)
    return path


def _split_url(text: str, schemes: tuple[str, ...]) -> str:
    parts = urlsplit(text)
    if parts.scheme not in schemes:
        raise ValueError(text)
    return parts.netloc


def _to_broker_url(text: str) -> str:
    read_broker_url(text)
    return text


def _to_database_url(text: str) -> str:
    check_database_url(text)
    return text


def _to_web_url(text: str) -> str:
    if not _split_url(text, ("http", "https")):
        raise ValueError(text)
    return text.rstrip("/")


def _to_short_name(text: str) -> str:
    if len(text) > MAX_NAME_CHARACTERS or not text.isprintable():
        raise ValueError(text)
    return text


def _to_web_urls(text: str) -> tuple[str, ...]:
    urls = tuple(part.strip() for part in text.split(","))
    for url in urls:
        parts = urlsplit(url)
        # `port` raises ValueError for one that is not a number.
        is_url = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if not is_url or parts.username or not url.isascii():
            raise ValueError(text)
    return urls


def _to_sentry_dsn(text: str) -> str:
    parts = urlsplit(text)
    is_dsn = parts.scheme in ("http", "https") and parts.hostname and parts.username and parts.port != 0
    if not is_dsn or not parts.path.rpartition("/")[2].isdecimal():
        raise ValueError(text)
    return text


def _to_webhook_secret(text: str) -> bytes:
    secret = base64.b64decode(text.removeprefix(WEBHOOK_PREFIX), validate=True)
    if not text.startswith(WEBHOOK_PREFIX) or not 24 <= len(secret) <= 64:
        raise ValueError(text)
    return secret


def text(valid_values: str = "text") -> Cast:
    return Cast(valid_values, str)


def long_text(least: int) -> Cast:
    def convert(value: str) -> str:
        if len(value) < least:
            raise ValueError(value)
        return value

    return Cast(f"at least {least} characters", convert)


def whole_number(least: int, most: int | None = None) -> Cast:
    def convert(value: str) -> int:
        number = int(value)
        if number < least or (most is not None and number > most):
            raise ValueError(value)
        return number

    return Cast(f"a whole number from {least}" + (f" to {most}" if most is not None else ""), convert)


def seconds(above: float = 0, least: float | None = None) -> Cast:
    """A duration that may have a fraction; with `least`, that one is allowed too."""

    def convert(value: str) -> float:
        number = float(value)
        is_enough = number > above if least is None else number >= least
        if not is_enough or number == float("inf"):
            raise ValueError(value)
        return number

    return Cast(f"seconds, more than {above:g}" if least is None else f"seconds, from {least:g}", convert)


def choice(*words: str, either_case: bool = False) -> Cast:
    def convert(value: str) -> str:
        word = value.upper() if either_case else value
        if word not in words:
            raise ValueError(value)
        return word

    return Cast(" or ".join([", ".join(words[:-1]), words[-1]]), convert)


def some_of(*words: str) -> Cast:
    """Some of the words, separated by commas."""

    def convert(value: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in value.split(","))
        if not set(found) <= set(words):
            raise ValueError(value)
        return found

    return Cast(f"some of {', '.join(words)}, separated by commas", convert)


def _to_delays(value: str) -> tuple[int, ...]:
    delays = tuple(int(part) for part in value.split(","))
    if min(delays) < 0:
        raise ValueError(value)
    return delays


def numbers_by_name(*names: str, what: str) -> Cast:
    """Numbers from 1 by name, as `payment=30,academic=120`."""

    def convert(value: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for part in value.split(","):
            name, _, number = part.partition("=")
            name = name.strip()
            if name not in names or name in found or int(number) < 1:
                raise ValueError(value)
            found[name] = int(number)
        return found

    return Cast(f"`name={what}`, separated by commas; names: {', '.join(names)}", convert)


boolean = Cast("true or false", _to_boolean)
whole_seconds = Cast("whole seconds, from 1", whole_number(1).convert)
delays_in_seconds = Cast("whole seconds, separated by commas", _to_delays)
email_address = Cast("an email address (before the @ only ASCII)", _to_email_address)
mailbox = Cast("an email address (before the @ only ASCII), with or without a name", _to_mailbox)
bounce_address = Cast(
    f"an email address (before the @ at most {BOUNCE_LOCAL_CHARACTERS} ASCII characters)", _to_bounce_address
)
domain_name = Cast("a domain name", ascii_domain)
host = Cast("the name or IP address of a server", _to_host)
zone_name = Cast("a time zone's name, as Europe/Berlin", _to_zone_name)
short_name = Cast(f"a text of 1 to {MAX_NAME_CHARACTERS} printable characters", _to_short_name)
existing_file = Cast("the path of a file that exists", _to_existing_file)
web_url = Cast("an http:// or https:// URL", _to_web_url)
database_url = Cast("a sqlite:///file or postgresql:// URL, with valid options", _to_database_url)
broker_url = Cast("a redis://, rediss://, unix:// or redis+sentinel:// URL, with valid options", _to_broker_url)
web_urls = Cast("http:// or https:// URLs without user names, separated by commas", _to_web_urls)
webhook_secret = Cast("`whsec_` and 24 to 64 bytes in base64", _to_webhook_secret)
sentry_dsn = Cast("a DSN of Sentry, as https://KEY@HOST/PROJECT", _to_sentry_dsn)
