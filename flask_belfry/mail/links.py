"""Absolute addresses for mails: made from PUBLIC_URL, because a worker has no request to take the host from."""

from __future__ import annotations

from flask import current_app


def absolute_url(path: str) -> str:
    """PUBLIC_URL and a path on it, as `/reservations/42`."""
    return f"{current_app.config['PUBLIC_URL']}/{path.lstrip('/')}"
