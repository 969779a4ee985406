"""The JSON API's common ground: the OpenAPI document, the shape of errors, bearer tokens, paging. No endpoint is here.

A slice makes an `ApiBlueprint` and registers it with `register_api`. Its endpoints are closed to all but the bearers
of an access token, whom `app.accounts` recognises; `@public` opens one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import marshmallow as ma
import structlog
from flask import Flask, Request, Response, current_app, jsonify, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask_login import current_user
from flask_smorest import Api, Blueprint
from marshmallow import validate
from webargs import core
from webargs.flaskparser import FlaskParser, abort
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from app.errors import AppError
from app.extensions import csrf
from app.pagination import DEFAULT_LIMIT, MAX_LIMIT, Page
from app.text import CONTROL_CHARACTERS, CONTROL_CHARACTERS_REFUSED, is_encodable

log = structlog.get_logger(__name__)

API_PATH = "/api"
API_PREFIX = f"{API_PATH}/v1"
BEARER_CHALLENGE = 'Bearer realm="belfry"'
# PostgreSQL's integer, in which ids are kept.
MAX_ID = 2**31 - 1

View = TypeVar("View", bound=Callable[..., Any])


class UnauthenticatedError(AppError):
    """Nobody is logged in, or the access token is unknown, expired or revoked."""

    status = 401


class ErrorSchema(ma.Schema):
    """What every error of the API looks like."""

    code = ma.fields.Integer(required=True, metadata={"description": "The HTTP status code."})
    status = ma.fields.String(required=True, metadata={"description": "The name of that code."})
    message = ma.fields.String(required=True, metadata={"description": "What happened, and what to do."})
    errors = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.List(ma.fields.String()),
        required=True,
        metadata={"description": "Messages by the name of the field they belong to."},
    )


class BelfryApi(Api):
    """flask-smorest's Api without its error handler, which would answer pages in JSON too."""

    ERROR_SCHEMA = ErrorSchema

    def _register_error_handlers(self) -> None:
        """Left to `app.answers`, which knows pages from the API."""


class ApiParser(FlaskParser):
    """Refuses what it does not know: unknown query parameters, and bodies that are not JSON."""

    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "query": ma.RAISE,
    }

    def _raw_load_json(self, req: Request) -> Any:
        """The JSON body; webargs takes a body of another type for an absent one."""
        if not core.is_json(req.mimetype):
            if req.get_data(cache=True):
                abort(415, message="The body must be JSON, with Content-Type: application/json.")
            return core.missing
        try:
            body = core.parse_json(req.get_data(cache=True))
            is_text_whole = is_encodable(body)
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise  # webargs answers these
        # Nested 100,000 deep, or a number of 5,000 digits: Python gives up with errors of its own.
        except (RecursionError, ValueError):
            abort(400, message="The JSON is nested too deep, or a number in it has too many digits.")
        if not is_text_whole:
            abort(400, message="The JSON has half a pair of surrogates in a text, which is no character.")
        return body

    def _handle_invalid_json_error(self, *args: object, **kwargs: object) -> NoReturn:
        abort(400, message="The body is not valid JSON.")
        raise AssertionError("abort always raises")


class SessionOfPages(SecureCookieSessionInterface):
    """The session of the pages. The API reads none, so that its answers do not vary with a cookie."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Called at the beginning of every request."""
        return self.make_null_session(app) if is_api_path(request.path) else super().open_session(app, request)


class ApiBlueprint(Blueprint):
    """A part of the API. Its endpoints take a bearer token and no cookie, so they need no CSRF token."""

    ARGUMENTS_PARSER = ApiParser()

    def __init__(self, name: str, import_name: str, *, description: str, url_prefix: str = "") -> None:
        super().__init__(f"api_{name}", import_name, url_prefix=f"{API_PREFIX}{url_prefix}", description=description)
        self.before_request(_require_bearer)


class QueryOfPage(ma.Schema):
    """The query parameters of every list."""

    limit = ma.fields.Integer(
        load_default=DEFAULT_LIMIT,
        validate=validate.Range(1, MAX_LIMIT),
        metadata={"description": "The most items of one page."},
    )
    cursor = ma.fields.String(
        load_default=None,
        validate=validate.Length(max=500),
        metadata={"description": "`next_cursor` of the page before."},
    )


def page_schema(item: type[ma.Schema]) -> type[ma.Schema]:
    """The schema of one page of a list of `item`."""
    fields: dict[str, ma.fields.Field[Any]] = {
        "items": ma.fields.List(ma.fields.Nested(item), required=True),
        "next_cursor": ma.fields.String(
            required=True, allow_none=True, metadata={"description": "None: these are the last items."}
        ),
    }
    return type(f"{item.__name__.removesuffix('Schema')}PageSchema", (ma.Schema,), fields)


def page_answer(page: Page[Any]) -> Mapping[str, Any]:
    """A page as its schema dumps it."""
    return {"items": page.items, "next_cursor": page.next_cursor}


def id_field(description: str, **options: Any) -> ma.fields.Integer:
    """A field for the id of a row: whole, and no larger than a database takes."""
    return ma.fields.Integer(
        strict=True, validate=validate.Range(1, MAX_ID), metadata={"description": description}, **options
    )


def refuse_control_characters(text: str) -> None:
    """A validator of text fields: raises ValidationError for NUL and its like."""
    if CONTROL_CHARACTERS.search(text):
        raise ma.ValidationError(CONTROL_CHARACTERS_REFUSED)


def public(view: View) -> View:
    """Opens an endpoint of the API to everybody. Goes right above the function, below the blueprint's decorators."""
    view.__dict__["is_public"] = True
    return view


def is_api_request() -> bool:
    """Whether the request is answered in JSON, errors included."""
    return is_api_path(request.path)


def is_api_path(path: str) -> bool:
    """Whether this path belongs to the API, also where nothing is."""
    return path == API_PATH or path.startswith(f"{API_PATH}/")


def register_api(app: Flask, blueprint: ApiBlueprint) -> None:
    """Called by a slice's `init_app`: adds its endpoints and their documentation."""
    csrf.exempt(blueprint)
    app.extensions["flask-smorest"]["apis"][""]["ext_obj"].register_blueprint(blueprint)


def init_app(app: Flask) -> None:
    """Gives `app` its API and the document at /api/openapi.json. Must be called before `register_api`."""
    app.config["OPENAPI_URL_PREFIX"] = API_PATH
    app.session_interface = SessionOfPages()
    BelfryApi(
        app,
        spec_kwargs={
            "title": "Belfry",
            "version": "1",
            "openapi_version": "3.1.0",
            "security": [{"bearer": []}],
            "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        },
    )


def error_answer(error: AppError | HTTPException) -> Response:
    """The JSON of an error, with the headers that belong to it."""
    if isinstance(error, AppError):
        return _app_error_answer(error)
    return _http_error_answer(error)


def _app_error_answer(error: AppError) -> Response:
    if error.status >= 500:
        log.error("request.failed", error=type(error).__name__, reason=error.message)
        return _answer(error.status, "Something went wrong on our side.", {})
    answer = _answer(error.status, error.message, error.fields)
    if error.status == 401:
        answer.headers["WWW-Authenticate"] = _challenge()
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
    answer = jsonify({"code": code, "status": status, "message": message, "errors": dict(fields)})
    answer.status_code = code
    return answer


def _challenge() -> str:
    # RFC 6750, section 3: the reason is given only to those who sent a token.
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


def _require_bearer() -> None:
    view = current_app.view_functions[request.endpoint or ""]
    if getattr(view, "is_public", False) or current_user.is_authenticated:
        return
    given = "This access token is unknown, expired or revoked: log in again."
    missing = "Log in at /api/v1/auth/login and send the access token: Authorization: Bearer <token>."
    raise UnauthenticatedError(given if request.authorization else missing)
