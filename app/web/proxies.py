"""The IP address and the user agent of a client, behind the trusted number of proxies."""

from __future__ import annotations

from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

# The length of the columns: an IPv6 address with a zone is shorter.
IP_ADDRESS_CHARACTERS = 64
USER_AGENT_CHARACTERS = 160


def init_app(app: Flask) -> None:
    """Trust the X-Forwarded-For and X-Forwarded-Proto headers of TRUSTED_PROXIES proxies, and no others."""
    proxies = app.config["TRUSTED_PROXIES"]
    if proxies > 0:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies)


def client_ip_address() -> str | None:
    """Return the IP address of this request's client, or None if the server does not know it."""
    return (request.remote_addr or "")[:IP_ADDRESS_CHARACTERS] or None


def user_agent() -> str | None:
    """Return the User-Agent header of this request without control characters, shortened, or None."""
    printable = "".join(letter for letter in request.user_agent.string if letter.isprintable())
    return printable[:USER_AGENT_CHARACTERS] or None
