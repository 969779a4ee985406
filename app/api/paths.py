"""Which requests belong to the API, the sessions of those that do not, and ids in paths."""

from __future__ import annotations

from flask import Flask, Request, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from werkzeug.routing import BaseConverter

API_PATH = "/api"
API_PREFIX = f"{API_PATH}/v1"
DOCS_PATH = f"{API_PATH}/docs"
# PostgreSQL's integer, in which ids are kept.
MAX_ID = 2**31 - 1


class IdConverter(BaseConverter):
    """`<id:name>` in a path: the id of a row. One beyond what a database keeps is 0, which no row has.

    werkzeug's own `int(min=1, max=…)` answers an id out of its range with 405 where a path has several methods.
    """

    regex = "[0-9]+"

    def to_python(self, value: str) -> int:
        """Called with the digits, however many they are."""
        return int(value) if len(value) <= len(str(MAX_ID)) and int(value) <= MAX_ID else 0


class SessionOfPages(SecureCookieSessionInterface):
    """The session of the pages. The API reads none, so that its answers do not vary with a cookie."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Called at the beginning of every request."""
        return self.make_null_session(app) if is_api_path(request.path) else super().open_session(app, request)


def is_api_request() -> bool:
    """Whether the request is answered in JSON, errors included."""
    return is_api_path(request.path)


def is_api_path(path: str) -> bool:
    """Whether this path belongs to the API, also where nothing is. Its documentation is a page."""
    return path != DOCS_PATH and (path == API_PATH or path.startswith(f"{API_PATH}/"))
