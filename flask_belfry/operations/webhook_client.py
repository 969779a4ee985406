"""The HTTP client of webhooks. Imported when one is sent: few processes need urllib3.

Signatures are those of Standard Webhooks (github.com/standard-webhooks/standard-webhooks), which many libraries verify.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

import urllib3

from flask_belfry.core.logs import VERSION
from flask_belfry.operations.webhooks import PermanentWebhookError, WebhookError

TIMEOUT = urllib3.Timeout(connect=5.0, read=10.0)
PORTS = {"http": 80, "https": 443}
# A translator of IPv6 to IPv4 reaches the address in the last four bytes (RFC 6052).
_TRANSLATED = IPv6Network("64:ff9b::/96")
# What `is_global` of Python 3.11 does not know: translators of one network (RFC 8215), and an old way to write IPv4.
_NOT_GLOBAL = (IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))


def send(url: str, event_id: str, body: bytes, secret: bytes, *, allows_private: bool) -> None:
    """Send an event. Returns when the receiver has accepted it.

    Args:
        url: of the receiver.
        event_id: the same for each attempt and each receiver.
        body: the JSON.
        secret: the key of the signature.
        allows_private: whether the receiver may be on this machine or in a private network.

    Raises:
        WebhookError: it was not accepted.
        PermanentWebhookError: it was not accepted, and will not be.
    """
    parts = urlsplit(url)
    timestamp = str(int(time.time()))
    headers = {
        "Host": parts.netloc,
        "User-Agent": f"Belfry/{VERSION}",
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": signature(secret, event_id, timestamp, body),
    }
    address = _address_of(parts, allows_private=allows_private)
    try:
        with _pool(parts, address) as pool:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            # The body of the response is not read: it may be endless.
            response = pool.urlopen(
                "POST",
                path,
                body,
                headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
            )
            response.close()
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise WebhookError(f"{parts.hostname} does not respond ({type(error).__name__})") from None
    _check_status(parts.hostname, response)


def signature(secret: bytes, event_id: str, timestamp: str, body: bytes) -> str:
    """Return the value of `webhook-signature`."""
    digest = hmac.new(secret, b".".join((event_id.encode(), timestamp.encode(), body)), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def is_public(text: str) -> bool:
    """Return whether an IP address is one of the Internet, and of a single machine."""
    address = ip_address(text.partition("%")[0])
    return all(each.is_global and not each.is_multicast and not _is_local(each) for each in _reached(address))


def _reached(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
    """Return the addresses that a connection to this one may reach: it may contain one of IPv4."""
    if isinstance(address, IPv4Address):
        yield address
    elif address.ipv4_mapped:
        yield address.ipv4_mapped
    else:
        yield address
        if address.sixtofour:
            yield address.sixtofour
        if address in _TRANSLATED:
            yield IPv4Address(int(address) & 0xFFFFFFFF)


def _is_local(address: IPv4Address | IPv6Address) -> bool:
    return isinstance(address, IPv6Address) and (
        address.is_site_local or any(address in network for network in _NOT_GLOBAL)
    )


def _address_of(parts: SplitResult, *, allows_private: bool) -> str:
    """Resolve the host once: the connection is made to the address that was checked."""
    host = parts.hostname or ""
    try:
        found = socket.getaddrinfo(host, parts.port or PORTS[parts.scheme], type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise WebhookError(f"{host} cannot be resolved ({type(error).__name__})") from None
    addresses = [str(address[0]) for *_, address in found]
    private = [address for address in addresses if not is_public(address)]
    if private and not allows_private:
        raise PermanentWebhookError(
            f"{host} is {private[0]}, which is not an address of the Internet: set WEBHOOK_ALLOW_PRIVATE to allow it"
        )
    return addresses[0]


def _pool(parts: SplitResult, address: str) -> urllib3.HTTPConnectionPool:
    port = parts.port or PORTS[parts.scheme]
    if parts.scheme == "http":
        return urllib3.HTTPConnectionPool(address, port, timeout=TIMEOUT)
    # The certificate must be the host's, whose address it is connected to.
    return urllib3.HTTPSConnectionPool(
        address, port, timeout=TIMEOUT, server_hostname=parts.hostname, assert_hostname=parts.hostname
    )


def _check_status(host: str | None, response: urllib3.BaseHTTPResponse) -> None:
    status = response.status
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise PermanentWebhookError(f"{host} answered {status}: redirects are not followed; change WEBHOOK_URLS")
    if status == 410:
        raise PermanentWebhookError(f"{host} answered 410: it accepts no more events; remove it from WEBHOOK_URLS")
    raise WebhookError(f"{host} answered {status}", response.headers.get("Retry-After"))
