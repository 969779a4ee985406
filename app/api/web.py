"""What endpoints are made of, and the registration of the API. Only the web process imports it."""

from __future__ import annotations

from flask import Flask

from app.api import docs
from app.api.blueprint import ApiBlueprint
from app.api.document import BelfryApi
from app.api.parsing import accept_values
from app.api.paths import API_PATH, MAX_ID, IdConverter, SessionOfPages
from app.api.schemas import id_field
from app.api.versions import check_stale, versioned
from app.extensions import csrf
from flask_belfry.core.access import open_endpoints
from flask_belfry.schemas import (
    Moment,
    QueryOfPage,
    Schema,
    check_control_characters,
    page_response,
    page_schema,
)

__all__ = [
    "ApiBlueprint",
    "Moment",
    "QueryOfPage",
    "Schema",
    "accept_values",
    "check_control_characters",
    "check_stale",
    "id_field",
    "init_app",
    "page_response",
    "page_schema",
    "register_api",
    "versioned",
]

TOKENS = "An access token of a login (`POST /api/v1/auth/login`), or a personal token."


def register_api(app: Flask, blueprint: ApiBlueprint) -> None:
    """Called by a slice's `web` module: adds its endpoints and their documentation."""
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
            "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": TOKENS}}},
        },
    )
    api.register_converter(IdConverter, lambda _: {"type": "integer", "minimum": 1, "maximum": MAX_ID})
    app.register_blueprint(docs.pages)
    open_endpoints(app, "api-docs.openapi_json")
