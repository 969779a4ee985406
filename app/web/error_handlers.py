"""Error handlers: JSON for the API, a page for browsers."""

from __future__ import annotations

import structlog
from flask import Flask, Response, g, make_response, render_template, request
from flask.typing import ResponseReturnValue
from flask_login import current_user
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException, ServiceUnavailable
from werkzeug.http import HTTP_STATUS_CODES

from app.api import error_response, is_api_request
from flask_belfry.core.database_errors import is_database_away, is_transient
from flask_belfry.core.errors import AppError
from flask_belfry.core.presentation import sentence
from flask_belfry.db import db

log = structlog.get_logger(__name__)

# Replaces names of the protocol such as "Unprocessable Entity".
TITLES = {
    400: "The request is invalid",
    401: "Log in first",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict with another change",
    413: "Too large",
    422: "Invalid values",
    429: "Please wait",
    500: "Internal error",
    503: "Temporarily unavailable",
}
HINTS = {
    400: "Go back, reload the page and try again.",
    403: "If you need this, ask the school's office.",
    404: "The URL may be mistyped, or the page was deleted.",
    405: "Go back and try again from the page.",
    409: "Reload the page to see the current state.",
    413: "Send a smaller file or a shorter text.",
    422: "Go back and correct the values.",
    429: "Nothing was changed.",
    500: "The error was recorded. Try again in a moment.",
    503: "Try again in a moment. If you were saving something, check first whether it was saved.",
}
RETRY_AFTER_SECONDS = 5
# Replaces werkzeug's messages, which overlap with the hints.
MESSAGES = {
    404: "This page does not exist.",
    405: "This URL does not accept this method.",
    413: "The request is too large.",
}
FORM_EXPIRED = "This form has expired, and nothing was saved. Reload the page and submit the form again."


def init_app(app: Flask) -> None:
    """Handle all errors of `app`, also for URLs without a route."""
    app.register_error_handler(AppError, handle_error)
    app.register_error_handler(HTTPException, handle_error)
    app.register_error_handler(SQLAlchemyError, handle_database_error)


def handle_error(error: AppError | HTTPException) -> ResponseReturnValue:
    """Return the response for an error of a view; Flask wraps an unexpected exception in a 500."""
    # The page must not read uncommitted changes of the failed request.
    db.session.rollback()
    return error_response(error) if is_api_request() else page_response(error)


def handle_database_error(error: SQLAlchemyError) -> ResponseReturnValue:
    """Respond with 503 to a transient database error; any other database error is a 500."""
    if not is_transient(error):
        raise error
    is_away = is_database_away(error)
    log.warning("database.away" if is_away else "database.busy", error=type(error).__name__, reason=str(error))
    message = "The database does not answer." if is_away else "The database is busy."
    return handle_error(ServiceUnavailable(message, retry_after=RETRY_AFTER_SECONDS))


def page_response(error: AppError | HTTPException) -> Response:
    """Return the page of an error."""
    code, message = _code_and_message(error)
    if code >= 500 and not isinstance(error, ServiceUnavailable):
        message = "An internal error occurred."
        log.error("request.failed", error=type(error).__name__, reason=str(error))
    # The shell has the navigation, which is for logged-in users. Loading the user takes a query, so not after an
    # internal error, which may be the database's, and not for a static file. If this query fails, its error has a page
    # of its own.
    has_shell = code < 500 and request.endpoint != "static" and current_user.is_authenticated
    page = render_template(
        "errors/shell.html" if has_shell else "errors/bare.html",
        code=code,
        title="The form has expired" if isinstance(error, CSRFError) else TITLES.get(code, "Error"),
        message=sentence(message),
        hint=None if isinstance(error, CSRFError) else HINTS.get(code),
        page_before=_page_before(),
        request_id=g.get("request_id"),
    )
    response = make_response(page, code)
    if isinstance(error, HTTPException):
        response.headers.extend((n, v) for n, v in error.get_headers(request.environ) if n in ("Allow", "Retry-After"))
    return response


def _code_and_message(error: AppError | HTTPException) -> tuple[int, str]:
    if isinstance(error, AppError):
        return error.status, error.message
    if isinstance(error, CSRFError):
        return 400, FORM_EXPIRED
    code = error.code or 500
    is_own = error.description != type(error).description
    return code, (None if is_own else MESSAGES.get(code)) or error.description or HTTP_STATUS_CODES.get(code, "Error")


def _page_before() -> str | None:
    """Return the URL of the page of this site that sent the request, unless it is the one that failed."""
    before = request.referrer or ""
    is_ours = before.startswith(request.host_url)
    is_another = request.method == "POST" or before != request.url
    return before if is_ours and is_another else None
