"""Paths of the API, ids in paths, and sessions, which only pages have."""

from __future__ import annotations

from flask import Flask, Request, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from werkzeug.routing import BaseConverter

from flask_belfry.db.columns import MAX_INTEGER

API_PATH = "/api"
API_PREFIX = f"{API_PATH}/v1"
DOCS_PATH = f"{API_PATH}/docs"
MAX_ID = MAX_INTEGER


class IdConverter(BaseConverter):
    """`<id:name>` in a path: the id of a row. An id that exceeds the column's range becomes 0, which no row has.

    werkzeug's `int(min=1, max=…)` responds to an id out of range with 405 if the path has several methods.
    """

    regex = "[0-9]+"

    def to_python(self, value: str) -> int:
        """Return the id of any number of digits."""
        return int(value) if len(value) <= len(str(MAX_ID)) and int(value) <= MAX_ID else 0


class SessionOfPages(SecureCookieSessionInterface):
    """The session of pages. The API reads none, so that its responses do not vary with a cookie."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Called at the start of each request."""
        return self.make_null_session(app) if is_api_path(request.path) else super().open_session(app, request)


def is_api_request() -> bool:
    """Return whether the response is JSON, also for errors."""
    return is_api_path(request.path)


def is_api_path(path: str) -> bool:
    """Return whether a path, existing or not, belongs to the API. The documentation is a page."""
    return _is_under(API_PATH, path) and not _is_under(DOCS_PATH, path)


def _is_under(parent: str, path: str) -> bool:
    return path == parent or path.startswith(f"{parent}/")
