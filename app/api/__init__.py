"""The JSON API's common ground: bearer tokens, the shape of errors, paging, ETags, idempotency keys, and the document
that describes all of it. No endpoint of a slice is here.

A slice makes an `ApiBlueprint` and registers it with `register_api`. Its endpoints are closed to all but the bearers
of an access token, whom `app.accounts` recognises; `flask_belfry.core.access.public` opens one.
"""

from __future__ import annotations

from flask import Flask

from app.api import docs
from app.api.blueprint import ApiBlueprint
from app.api.document import BelfryApi
from app.api.errors import UnauthenticatedError, error_response
from app.api.idempotency import IdempotencyRecord, prune_idempotency_records, secret_response
from app.api.paths import API_PATH, IdConverter, SessionOfPages, is_api_request
from app.api.schemas import (
    MAX_ID,
    Moment,
    QueryOfPage,
    Schema,
    check_control_characters,
    id_field,
    page_response,
    page_schema,
)
from app.api.scopes import AREAS, READ, SCOPES, WRITE
from app.api.versions import check_stale, versioned
from app.extensions import csrf
from flask_belfry.core.access import open_endpoints

__all__ = [
    "AREAS",
    "MAX_ID",
    "READ",
    "SCOPES",
    "WRITE",
    "ApiBlueprint",
    "IdempotencyRecord",
    "Moment",
    "QueryOfPage",
    "Schema",
    "UnauthenticatedError",
    "check_control_characters",
    "check_stale",
    "error_response",
    "id_field",
    "init_app",
    "is_api_request",
    "page_response",
    "page_schema",
    "prune_idempotency_records",
    "register_api",
    "secret_response",
    "versioned",
]


def register_api(app: Flask, blueprint: ApiBlueprint) -> None:
    """Called by a slice's `init_app`: adds its endpoints and their documentation."""
    csrf.exempt(blueprint)
    app.extensions["flask-smorest"]["apis"][""]["ext_obj"].register_blueprint(blueprint)


def init_app(app: Flask) -> None:
    """Gives `app` its API, the document at /api/openapi.json and its page at /api/docs.

    Must be called before `register_api`.
    """
    app.config["OPENAPI_URL_PREFIX"] = API_PATH
    app.session_interface = SessionOfPages()
    app.url_map.converters["id"] = IdConverter
    api = BelfryApi(
        app,
        spec_kwargs={
            "title": "Belfry",
            "version": "1",
            "openapi_version": "3.1.0",
            "security": [{"bearer": []}],
            "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        },
    )
    api.register_converter(IdConverter, lambda _: {"type": "integer", "minimum": 1, "maximum": MAX_ID})
    app.register_blueprint(docs.pages)
    open_endpoints(app, "api-docs.openapi_json")
