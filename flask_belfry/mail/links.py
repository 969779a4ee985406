"""Absolute addresses for mails: made from PUBLIC_URL, because a worker has no request to take the host from."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from flask import current_app


def absolute_url(path: str) -> str:
    """PUBLIC_URL and a path on it, as `/reservations/42`."""
    return f"{current_app.config['PUBLIC_URL']}/{path.lstrip('/')}"


def page_url(endpoint: str, **values: Any) -> str:
    """The absolute address of one of our pages.

    Args:
        endpoint: as for `url_for`.
        values: the page's arguments; more become the query.
    """
    public = urlsplit(current_app.config["PUBLIC_URL"])
    adapter = current_app.url_map.bind(public.netloc, public.path or "/", url_scheme=public.scheme)
    return adapter.build(endpoint, values, force_external=True)
