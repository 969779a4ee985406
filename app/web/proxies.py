"""Where a request comes from. Behind proxies the connection's own address is the proxy's: how many of them are to be
believed is a setting."""

from __future__ import annotations

from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

# As in the columns that keep them: an IPv6 address with a zone is shorter.
IP_ADDRESS_CHARACTERS = 64
USER_AGENT_CHARACTERS = 160


def init_app(app: Flask) -> None:
    """Has `app` believe the X-Forwarded-For and -Proto of its proxies, and of nobody else."""
    proxies = app.config["TRUSTED_PROXIES"]
    if proxies > 0:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies)


def client_ip_address() -> str | None:
    """The network address of whoever makes this request; None when the server was not told."""
    return (request.remote_addr or "")[:IP_ADDRESS_CHARACTERS] or None


def user_agent() -> str | None:
    """What the request's browser or program calls itself, shortened."""
    printable = "".join(letter for letter in request.user_agent.string if letter.isprintable())
    return printable[:USER_AGENT_CHARACTERS] or None
