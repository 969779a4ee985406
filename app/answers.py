"""How an error becomes an answer: JSON for the API, a page for people. What the errors are stands in errors.py."""

from __future__ import annotations

import structlog
from flask import Flask, Response, g, make_response, render_template, request
from flask.typing import ResponseReturnValue
from flask_login import current_user
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException, ServiceUnavailable
from werkzeug.http import HTTP_STATUS_CODES

from app.api import error_answer, is_api_request
from app.database_errors import is_database_away, is_transient
from app.errors import AppError
from app.extensions import db
from app.presentation import sentence

log = structlog.get_logger(__name__)

HINTS = {
    400: "Go back, reload the page and try again.",
    403: "If you need this, ask the school's office.",
    404: "The address may be mistyped, or what it named is gone.",
    405: "Go back and try again from the page.",
    409: "Reload the page to see how it stands now.",
    429: "Nothing is lost: it works again after that time.",
    500: "It is on record. Try again in a moment.",
    503: "Try again in a moment. If you were saving something, look first whether it was saved.",
}
RETRY_AFTER_SECONDS = 5
# In place of werkzeug's own words, which say half of what the hints say.
MESSAGES = {
    404: "There is no such page.",
    405: "This address does not take that.",
}


def init_app(app: Flask) -> None:
    """Answers every error of `app`, also those of addresses that do not exist."""
    app.register_error_handler(AppError, answer_error)
    app.register_error_handler(HTTPException, answer_error)
    app.register_error_handler(SQLAlchemyError, answer_outage)


def answer_error(error: AppError | HTTPException) -> ResponseReturnValue:
    """Called with whatever a view raised; an unexpected exception comes wrapped in a 500."""
    # The page reads nothing of what the failed request left in its transaction.
    db.session.rollback()
    return error_answer(error) if is_api_request() else page_answer(error)


def answer_outage(error: SQLAlchemyError) -> ResponseReturnValue:
    """Called with errors of the database: one that passes by itself is a 503, any other is a failure of ours."""
    if not is_transient(error):
        raise error
    is_away = is_database_away(error)
    log.warning("database.away" if is_away else "database.busy", error=type(error).__name__, reason=str(error))
    message = "The database does not answer." if is_away else "The database is busy."
    return answer_error(ServiceUnavailable(message, retry_after=RETRY_AFTER_SECONDS))


def page_answer(error: AppError | HTTPException) -> Response:
    """The error's page."""
    code, message = _code_and_message(error)
    if code >= 500 and not isinstance(error, ServiceUnavailable):
        message = "Something went wrong on our side."
        log.error("request.failed", error=type(error).__name__, reason=str(error))
    page = render_template(
        "errors/shell.html" if _has_shell(code) else "errors/bare.html",
        code=code,
        title=HTTP_STATUS_CODES.get(code, "Error"),
        message=sentence(message),
        hint=HINTS.get(code),
        request_id=g.get("request_id"),
    )
    answer = make_response(page, code)
    if isinstance(error, HTTPException):
        answer.headers.extend((n, v) for n, v in error.get_headers(request.environ) if n in ("Allow", "Retry-After"))
    return answer


def _code_and_message(error: AppError | HTTPException) -> tuple[int, str]:
    if isinstance(error, AppError):
        return error.status, error.message
    code = error.code or 500
    is_own = error.description != type(error).description
    return code, (None if is_own else MESSAGES.get(code)) or error.description or HTTP_STATUS_CODES.get(code, "Error")


def _has_shell(code: int) -> bool:
    """Whether the page has the navigation, which is for those who are logged in.

    To know them takes a query: not after a failure, which may be the database's, and not for a static file. Should this
    query fail, that is a failure, with a page of its own.
    """
    return code < 500 and request.endpoint != "static" and current_user.is_authenticated
