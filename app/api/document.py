"""What the OpenAPI document says of every endpoint: the answers, headers and rights that follow from its kind, so that
no view has to repeat them. What a view says of an answer itself wins."""

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
ETAG_DOC = {"description": "What If-Match and If-None-Match take.", "schema": {"type": "string"}}
LOCATION_DOC = {"description": "Where it is.", "schema": {"type": "string", "format": "uri-reference"}}
RETRY_DOC = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}


@dataclass(frozen=True)
class Endpoint:
    """What the blueprint knows of an endpoint.

    Args:
        has_id: its path names a row.
        is_public: it takes no token.
        is_versioned: its row has an ETag.
        area: where personal tokens may be used; None takes those of logins only.
    """

    has_id: bool
    is_public: bool
    is_versioned: bool
    area: str | None


class BelfryApi(Api):
    """flask-smorest's Api without its error handler, which would answer pages in JSON too."""

    ERROR_SCHEMA = ErrorSchema
    # It would allow every status, and so say nothing.
    DEFAULT_ERROR_RESPONSE_NAME = None

    def __init__(self, *args: Any, **options: Any) -> None:
        self._unwritten: list[ApiPart] = []
        self._writing = Lock()
        super().__init__(*args, **options)

    def register_blueprint(self, blp: ApiPart, **options: Any) -> None:
        """Adds the endpoints. What the document says of them is written when somebody first asks for it: most processes
        never do, and it takes longer than the rest of an application's start."""
        app: Any = self._app
        app.extensions["flask-smorest"]["blp_name_to_api"][blp.name] = self
        app.register_blueprint(blp, **options)
        self._unwritten.append(blp)

    def document(self) -> dict[str, Any]:
        """The document, whole."""
        with self._writing:
            while self._unwritten:
                self._write(self._unwritten.pop(0))
            spec: Any = self.spec
            return spec.to_dict()

    def _write(self, part: ApiPart) -> None:
        spec: Any = self.spec
        part.register_views_in_doc(self, self._app, spec, name=part.name, parameters=None)
        spec.tag({"name": part.name, "description": part.description})

    def _openapi_json(self) -> Response:
        text = json.dumps(self.document(), indent=2, sort_keys=False)
        return current_app.response_class(text, mimetype="application/json")

    def _register_error_handlers(self) -> None:
        """Left to `app.web.error_handlers`, which knows pages from the API."""


def describe(doc: dict[str, Any], doc_info: dict[str, Any], *, method: str, **_: Any) -> dict[str, Any]:
    """Called by flask-smorest for each method of each endpoint, after its own: completes the document's entry."""
    endpoint: Endpoint = doc_info["endpoint"]
    verb = method.upper()
    doc["security"] = [] if endpoint.is_public else [{"bearer": _scopes(endpoint, verb)}]
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


def _headers(endpoint: Endpoint, verb: str) -> Iterator[dict[str, Any]]:
    if verb == "POST" and not endpoint.is_public:
        key = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS, "pattern": KEY_PATTERN}
        yield _header(HEADER, "The same key again gives the first answer again, and does nothing.", key)
    if endpoint.is_versioned and verb == "GET":
        yield _header("If-None-Match", "An ETag: 304 if it is still that one.", {"type": "string"})
    elif endpoint.is_versioned and verb != "POST":
        yield _header("If-Match", "The ETag you saw: 412 if it is another one now.", {"type": "string"})


def _header(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


def _errors(endpoint: Endpoint, verb: str, *, has_body: bool) -> Iterator[tuple[HTTPStatus, str]]:
    if has_body:
        yield HTTPStatus.BAD_REQUEST, "The body is no valid JSON."
        yield HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body is no JSON."
    if has_body or verb in BODY_METHODS:
        yield HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large."
    if endpoint.is_public:
        yield HTTPStatus.TOO_MANY_REQUESTS, "Too often: wait as long as Retry-After says."
    else:
        yield HTTPStatus.UNAUTHORIZED, "No token, or it is unknown, expired or revoked."
        yield HTTPStatus.FORBIDDEN, "The user, or the token's scopes, may not do this."
    if endpoint.has_id:
        yield HTTPStatus.NOT_FOUND, "There is none, or it is not yours."
    if endpoint.is_versioned:
        yield from _of_versions(verb)
    if verb == "POST" and not endpoint.is_public:
        yield HTTPStatus.CONFLICT, "A request with this key is under way."
        yield HTTPStatus.UNPROCESSABLE_ENTITY, "The key is not usable, or belongs to another request."
    yield HTTPStatus.SERVICE_UNAVAILABLE, "The database does not answer: try again."


def _of_versions(verb: str) -> Iterator[tuple[HTTPStatus, str]]:
    if verb == "GET":
        yield HTTPStatus.NOT_MODIFIED, "It is still what you have."
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
