"""How an error becomes JSON, in the one shape that all errors of the API have."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import structlog
from flask import Response, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from flask_belfry.core.errors import AppError, ForbiddenError

log = structlog.get_logger(__name__)

# What a client sent is part of what is said of it: an error is not longer than a person would read.
MAX_FIELDS = 50
MAX_MESSAGES = 10
MAX_MESSAGE_CHARACTERS = 500
MAX_NAME_CHARACTERS = 100

BEARER_CHALLENGE = 'Bearer realm="belfry"'


class UnauthenticatedError(AppError):
    """Nobody is logged in, or the access token is unknown, expired or revoked."""

    status = 401

    @classmethod
    def of_request(cls) -> UnauthenticatedError:
        """What whoever makes this request of the API is told."""
        given = "This access token is unknown, expired or revoked: log in again."
        missing = "Log in at /api/v1/auth/login and send the access token: Authorization: Bearer <token>."
        return cls(given if request.authorization else missing)


class ScopeError(ForbiddenError):
    """The user may do this, and the token that was presented may not.

    Args:
        message: for people.
        scope: what the token would need; None: no personal token is taken.
    """

    def __init__(self, message: str, scope: str | None = None) -> None:
        super().__init__(message)
        self.scope = scope


class StaleError(AppError):
    """The row is no longer what the caller saw: look again, and decide anew."""

    status = 412


def error_response(error: AppError | HTTPException) -> Response:
    """The JSON of an error, with the headers that belong to it."""
    if isinstance(error, AppError):
        return _app_error_answer(error)
    return _http_error_answer(error)


def _app_error_answer(error: AppError) -> Response:
    if error.status >= 500:
        log.error("request.failed", error=type(error).__name__, reason=error.message)
        return _answer(error.status, "Something went wrong on our side.", {})
    answer = _answer(error.status, error.message, error.fields)
    if challenge := _challenge(error):
        answer.headers["WWW-Authenticate"] = challenge
    return answer


def _http_error_answer(error: HTTPException) -> Response:
    data: Mapping[str, Any] = getattr(error, "data", None) or {}
    fields = _flat_errors(data.get("errors") or data.get("messages") or {})
    message = data.get("message") or ("Some fields are wrong." if fields else error.description)
    answer = _answer(error.code or 500, str(message), fields)
    for name, value in error.get_headers():
        # Allow of a 405, Retry-After of a 429.
        if name.lower() not in ("content-type", "content-length"):
            answer.headers[name] = value
    return answer


def _answer(code: int, message: str, fields: Mapping[str, list[str]]) -> Response:
    status = HTTP_STATUS_CODES.get(code, "Error")
    errors = {
        name[:MAX_NAME_CHARACTERS]: [text[:MAX_MESSAGE_CHARACTERS] for text in messages[:MAX_MESSAGES]]
        for name, messages in islice(fields.items(), MAX_FIELDS)
    }
    answer = jsonify({"code": code, "status": status, "message": message[:MAX_MESSAGE_CHARACTERS], "errors": errors})
    answer.status_code = code
    return answer


def _challenge(error: AppError) -> str | None:
    """RFC 6750, section 3: the reason is given only to those who sent a token."""
    if isinstance(error, ScopeError):
        needed = f', scope="{error.scope}"' if error.scope else ""
        return f'{BEARER_CHALLENGE}, error="insufficient_scope"{needed}'
    if error.status != 401:
        return None
    return f'{BEARER_CHALLENGE}, error="invalid_token"' if request.authorization else BEARER_CHALLENGE


def _flat_errors(messages: Mapping[str, Any]) -> dict[str, list[str]]:
    """webargs' messages, {location: {field: [...]}}, without the location, and nested fields joined by dots."""
    flat: dict[str, list[str]] = {}
    for of_location in messages.values():
        _flatten("", of_location, flat)
    return flat


def _flatten(name: str, messages: Any, into: dict[str, list[str]]) -> None:
    if isinstance(messages, Mapping):
        for key, below in messages.items():
            _flatten(f"{name}.{key}" if name else str(key), below, into)
    else:
        said = messages if isinstance(messages, list) else [messages]
        into.setdefault(name or "body", []).extend(str(message) for message in said)
