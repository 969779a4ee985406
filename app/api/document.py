"""The parts of the OpenAPI document that follow from the kind of an endpoint: responses, headers and scopes.

A view declares only what differs; its own declaration of a response wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from threading import Lock
from typing import Any

from flask import Response, current_app, json
from flask_smorest import Api
from flask_smorest import Blueprint as ApiPart

from app.api.idempotency import HEADER, KEY_PATTERN, MAX_KEY_CHARACTERS
from app.api.schemas import ErrorSchema
from app.api.scopes import verb_of

BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
ETAG_DOC = {"description": "The value for If-Match and If-None-Match.", "schema": {"type": "string"}}
LOCATION_DOC = {"description": "The URL of the new resource.", "schema": {"type": "string", "format": "uri-reference"}}
RETRY_DOC = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}


@dataclass(frozen=True)
class Endpoint:
    """What the blueprint knows about an endpoint.

    Args:
        has_id: its path contains the id of a row.
        is_public: it requires no token.
        is_versioned: its row has an ETag.
        area: the area of the scopes of personal tokens; None accepts only access tokens of logins.
    """

    has_id: bool
    is_public: bool
    is_versioned: bool
    area: str | None


class BelfryApi(Api):
    """flask-smorest's Api without its error handler, which would also respond to pages in JSON."""

    ERROR_SCHEMA = ErrorSchema
    # A default response would document any status, and so none.
    DEFAULT_ERROR_RESPONSE_NAME = None

    def __init__(self, *args: Any, **options: Any) -> None:
        self._unwritten: list[ApiPart] = []
        self._has_responses = False
        self._writing = Lock()
        super().__init__(*args, **options)

    def register_blueprint(self, blp: ApiPart, **options: Any) -> None:
        """Add the endpoints, without the document: generating it takes longer than the rest of an application's start,
        and most processes never serve it."""
        app: Any = self._app
        app.extensions["flask-smorest"]["blp_name_to_api"][blp.name] = self
        app.register_blueprint(blp, **options)
        self._unwritten.append(blp)

    def document(self) -> dict[str, Any]:
        """Return the document; the first call generates it."""
        with self._writing:
            if not self._has_responses:
                super()._register_responses()
                self._has_responses = True
            while self._unwritten:
                self._write(self._unwritten.pop(0))
            spec: Any = self.spec
            return spec.to_dict()

    def _register_responses(self) -> None:
        """Leave the responses of all status codes to the document, which alone refers to them."""

    def _write(self, part: ApiPart) -> None:
        spec: Any = self.spec
        part.register_views_in_doc(self, self._app, spec, name=part.name, parameters=None)
        spec.tag({"name": title_of(part), "description": part.description})

    def _openapi_json(self) -> Response:
        text = json.dumps(self.document(), indent=2, sort_keys=False)
        return current_app.response_class(text, mimetype="application/json")

    def _register_error_handlers(self) -> None:
        """Do nothing: `app.web.error_handlers` handles errors of pages and of the API."""


def title_of(part: ApiPart) -> str:
    """Return the title of the endpoints of a slice: their tag in the document."""
    return part.name.removeprefix("api_").replace("_", " ").capitalize()


def describe(doc: dict[str, Any], doc_info: dict[str, Any], *, method: str, **_: Any) -> dict[str, Any]:
    """Complete the entry of a method of an endpoint. Called by flask-smorest after its own functions."""
    endpoint: Endpoint = doc_info["endpoint"]
    verb = method.upper()
    doc["security"] = [] if endpoint.is_public else [{"bearer": _scopes(endpoint, verb)}]
    docstring = doc_info["docstring"]
    docstring["description"] = "\n\n".join(filter(None, (docstring.get("description"), _access(endpoint, verb))))
    doc.setdefault("parameters", []).extend(_headers(endpoint, verb))
    responses = doc.setdefault("responses", {})
    for status, text in _errors(endpoint, verb, has_body="requestBody" in doc):
        responses.setdefault(int(status), {"description": text})
    for status, response in responses.items():
        if isinstance(response, dict):
            _complete(int(status), response, endpoint, verb)
    return doc


def _scopes(endpoint: Endpoint, verb: str) -> list[str]:
    return [f"{endpoint.area}:{verb_of(verb)}"] if endpoint.area else []


def _access(endpoint: Endpoint, verb: str) -> str:
    if endpoint.is_public:
        return "Requires no token."
    if scopes := _scopes(endpoint, verb):
        return f"Requires an access token of a login, or a personal token with the scope `{scopes[0]}`."
    return "Requires an access token of a login; personal tokens are not accepted."


def _headers(endpoint: Endpoint, verb: str) -> Iterator[dict[str, Any]]:
    if verb == "POST" and not endpoint.is_public:
        key = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS, "pattern": KEY_PATTERN}
        yield _header(HEADER, "A request with the same key returns the first response and has no further effect.", key)
    if endpoint.is_versioned and verb == "GET":
        yield _header("If-None-Match", "An ETag: if it is current, the response is 304.", {"type": "string"})
    elif endpoint.is_versioned and verb != "POST":
        yield _header(
            "If-Match", "The ETag of the last response: if it is not current, the response is 412.", {"type": "string"}
        )


def _header(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


def _errors(endpoint: Endpoint, verb: str, *, has_body: bool) -> Iterator[tuple[HTTPStatus, str]]:
    if has_body:
        yield HTTPStatus.BAD_REQUEST, "The body is not valid JSON."
        yield HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body is not JSON."
    if has_body or verb in BODY_METHODS:
        yield HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large."
    if endpoint.is_public:
        yield HTTPStatus.TOO_MANY_REQUESTS, "Too many requests: wait for the seconds of Retry-After."
    else:
        yield HTTPStatus.UNAUTHORIZED, "The token is missing, unknown, expired or revoked."
        yield HTTPStatus.FORBIDDEN, "The user's role or the token's scopes do not allow this."
    if endpoint.has_id:
        yield HTTPStatus.NOT_FOUND, "It does not exist, or you may not see it."
    if endpoint.is_versioned:
        yield from _of_versions(verb)
    if verb == "POST" and not endpoint.is_public:
        yield HTTPStatus.CONFLICT, "A request with this key is in progress."
        yield HTTPStatus.UNPROCESSABLE_ENTITY, "The key is invalid, or belongs to another request."
    yield HTTPStatus.SERVICE_UNAVAILABLE, "The database is unavailable: try again."


def _of_versions(verb: str) -> Iterator[tuple[HTTPStatus, str]]:
    if verb == "GET":
        yield HTTPStatus.NOT_MODIFIED, "It has not changed."
    elif verb != "POST":
        yield HTTPStatus.PRECONDITION_FAILED, "It has changed since you read it."


def _complete(status: int, response: dict[str, Any], endpoint: Endpoint, verb: str) -> None:
    if status >= 400:
        response.setdefault("content", {"application/json": {"schema": ErrorSchema}})
    headers = response.setdefault("headers", {})
    if endpoint.is_versioned and status in (200, 201, 304):
        headers["ETag"] = ETAG_DOC
    if status == HTTPStatus.CREATED:
        headers["Location"] = LOCATION_DOC
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers["Retry-After"] = RETRY_DOC
    if not headers:
        del response["headers"]
