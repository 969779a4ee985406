"""What is open to everybody: pages and endpoints that are marked here. All others require a user with a confirmed email
address, whom `app.accounts` checks before they are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask

View = TypeVar("View", bound=Callable[..., Any])


def public(view: View) -> View:
    """Opens a page or an endpoint to everybody. Goes right above the function, below all other decorators."""
    view.__dict__["is_public"] = True
    return view


def is_public(view: object) -> bool:
    """Whether a view is open to everybody."""
    return hasattr(view, "is_public")


def for_unconfirmed(view: View) -> View:
    """Opens a page or an endpoint to users who have yet to confirm their email address. Goes right above the function,
    below all other decorators."""
    view.__dict__["is_for_unconfirmed"] = True
    return view


def is_for_unconfirmed(view: object) -> bool:
    """Whether a view is open to users who have yet to confirm their email address."""
    return hasattr(view, "is_for_unconfirmed")


def open_endpoints(app: Flask, *endpoints: str) -> None:
    """Opens views that a library has brought."""
    for endpoint in endpoints:
        view = app.view_functions[endpoint]
        # Flask's own is a method, others may be shared with another application.
        app.view_functions[endpoint] = public(lambda view=view, **values: view(**values))
