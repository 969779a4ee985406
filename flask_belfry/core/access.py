"""Marks public pages and endpoints, and those that accept large bodies.

Pages that are not public require a user with a confirmed email address, which `app.accounts` checks before it calls
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask

View = TypeVar("View", bound=Callable[..., Any])


def public(view: View) -> View:
    """Make a page or an endpoint public. Put it directly above the function, below all other decorators."""
    view.__dict__["is_public"] = True
    return view


def is_public(view: object) -> bool:
    """Return whether a view is public."""
    return hasattr(view, "is_public")


def for_unconfirmed(view: View) -> View:
    """Allow a page or an endpoint to users who have not confirmed their email address. Put it directly above the
    function, below all other decorators."""
    view.__dict__["is_for_unconfirmed"] = True
    return view


def is_for_unconfirmed(view: object) -> bool:
    """Return whether a view allows users who have not confirmed their email address."""
    return hasattr(view, "is_for_unconfirmed")


def accept_body(max_bytes: int) -> Callable[[View], View]:
    """Mark a view that accepts a larger body, at most MAX_REQUEST_BYTES. Put it directly above the function, below all
    other decorators."""

    def mark(view: View) -> View:
        view.__dict__["max_body_bytes"] = max_bytes
        return view

    return mark


def open_endpoints(app: Flask, *endpoints: str) -> None:
    """Make views of a library public."""
    for endpoint in endpoints:
        view = app.view_functions[endpoint]
        # Flask's own view is a method; others may be shared with another application.
        app.view_functions[endpoint] = public(lambda view=view, **values: view(**values))
