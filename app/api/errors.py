"""Errors of the API, and their JSON, which has one form."""

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

# Errors repeat what the client sent: limit them to what a person would read.
MAX_FIELDS = 50
MAX_MESSAGES = 10
MAX_MESSAGE_CHARACTERS = 500
MAX_NAME_CHARACTERS = 100

BEARER_CHALLENGE = 'Bearer realm="belfry"'


class UnauthenticatedError(AppError):
    """The request has no login, or its access token is unknown, expired or revoked."""

    status = 401

    @classmethod
    def of_request(cls) -> UnauthenticatedError:
        """Return the error for the current request to the API."""
        given = "This access token is unknown, expired or revoked: log in again."
        missing = "Log in at /api/v1/auth/login and send the access token: Authorization: Bearer <token>."
        return cls(given if request.authorization else missing)


class ScopeError(ForbiddenError):
    """The user may do this, but the scopes of the token do not allow it.

    Args:
        message: for people.
        scope: the scope that the token would need; None: no personal token is accepted.
    """

    def __init__(self, message: str, scope: str | None = None) -> None:
        super().__init__(message)
        self.scope = scope


def error_response(error: AppError | HTTPException) -> Response:
    """Return an error as JSON, with its headers."""
    if isinstance(error, AppError):
        return _app_error_response(error)
    return _http_error_response(error)


def _app_error_response(error: AppError) -> Response:
    if error.status >= 500:
        log.error("request.failed", error=type(error).__name__, reason=error.message)
        return _response(error.status, "Internal error.", {})
    response = _response(error.status, error.message, error.fields)
    if challenge := _challenge(error):
        response.headers["WWW-Authenticate"] = challenge
    return response


def _http_error_response(error: HTTPException) -> Response:
    data: Mapping[str, Any] = getattr(error, "data", None) or {}
    fields = _flat_errors(data.get("errors") or data.get("messages") or {})
    message = data.get("message") or ("Some fields are invalid." if fields else error.description)
    response = _response(error.code or 500, str(message), fields)
    for name, value in error.get_headers():
        # Allow of a 405, Retry-After of a 429.
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _response(code: int, message: str, fields: Mapping[str, list[str]]) -> Response:
    status = HTTP_STATUS_CODES.get(code, "Error")
    errors = {
        name[:MAX_NAME_CHARACTERS]: [text[:MAX_MESSAGE_CHARACTERS] for text in messages[:MAX_MESSAGES]]
        for name, messages in islice(fields.items(), MAX_FIELDS)
    }
    response = jsonify({"code": code, "status": status, "message": message[:MAX_MESSAGE_CHARACTERS], "errors": errors})
    response.status_code = code
    return response


def _challenge(error: AppError) -> str | None:
    """RFC 6750, section 3: the reason is given only if a token was sent."""
    if isinstance(error, ScopeError):
        needed = f', scope="{error.scope}"' if error.scope else ""
        return f'{BEARER_CHALLENGE}, error="insufficient_scope"{needed}'
    if error.status != 401:
        return None
    return f'{BEARER_CHALLENGE}, error="invalid_token"' if request.authorization else BEARER_CHALLENGE


def _flat_errors(messages: Mapping[str, Any]) -> dict[str, list[str]]:
    """Flatten webargs' messages, {location: {field: [...]}}: drop the location and join nested fields with dots."""
    flat: dict[str, list[str]] = {}
    for of_location in messages.values():
        _flatten("", of_location, flat)
    return flat


def _flatten(name: str, messages: Any, into: dict[str, list[str]]) -> None:
    if isinstance(messages, Mapping):
        for key, below in messages.items():
            # marshmallow's name for an object as a whole: within another object, it has a name of its own.
            is_whole = key == "_schema" and name
            _flatten(name if is_whole else f"{name}.{key}" if name else str(key), below, into)
    else:
        listed = messages if isinstance(messages, list) else [messages]
        into.setdefault(name or "body", []).extend(str(message) for message in listed)
