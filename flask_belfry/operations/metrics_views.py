"""`/metrics`, for Prometheus: with METRICS_TOKEN, or from this machine only."""

from __future__ import annotations

import hmac
from ipaddress import ip_address

from flask import Blueprint, Response, current_app, request

from flask_belfry.core.access import public

pages = Blueprint("metrics", __name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TEXT = "text/plain"
# What proxies add. ProxyFix, which reads them when proxies are trusted, leaves a mark.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")
TRUSTED = "werkzeug.proxy_fix.orig"


@pages.get("/metrics")
@public
def metrics() -> Response:
    """Return the metrics."""
    token = current_app.config["METRICS_TOKEN"]
    if token is None and not _is_local():
        return Response("Set METRICS_TOKEN: without it, only this machine may read the metrics.\n", 403, mimetype=TEXT)
    if token is not None and not hmac.compare_digest(_given_token(), token.encode()):
        challenge = {"WWW-Authenticate": "Bearer"}
        return Response("The metrics require METRICS_TOKEN as a bearer token.\n", 401, challenge, mimetype=TEXT)
    from flask_belfry.operations.metrics import exposition  # with prometheus_client: most processes need neither

    return Response(exposition(), content_type=CONTENT_TYPE)


def _given_token() -> bytes:
    given = request.authorization
    return (given.token or "").encode() if given is not None and given.type == "bearer" else b""


def _is_local() -> bool:
    """Return whether the client is on this machine. A proxy that is not trusted may be, its clients are not."""
    if TRUSTED not in request.environ and any(name in request.headers for name in FORWARDED):
        return False
    try:
        address = ip_address(request.remote_addr or "")
    except ValueError:  # a Unix socket has no IP address
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
