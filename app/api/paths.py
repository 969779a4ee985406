"""Which requests belong to the API, and the sessions of those that do not."""

from __future__ import annotations

from flask import Flask, Request, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

API_PATH = "/api"
API_PREFIX = f"{API_PATH}/v1"
DOCS_PATH = f"{API_PATH}/docs"


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
