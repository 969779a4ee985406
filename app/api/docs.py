"""The API documentation at /api/docs: Swagger UI, which reads the OpenAPI document in the browser.

Of 100 operations and more it renders only those near the screen, so the search of the browser does not find the others:
/api/docs/operations lists all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from flask import Blueprint, current_app, render_template
from flask.typing import ResponseReturnValue
from flask_login import current_user

from app.api.document import BelfryApi
from app.api.paths import DOCS_PATH
from flask_belfry.core.access import public

METHODS = ("get", "post", "put", "patch", "delete")
pages = Blueprint("api_docs", __name__)


class Operation(NamedTuple):
    """A method of a path. `scopes` are those of which a personal token needs one; `fragment` shows it in Swagger UI."""

    method: str
    path: str
    summary: str
    is_public: bool
    scopes: list[str]
    fragment: str


@pages.get(DOCS_PATH)
@public
def show() -> ResponseReturnValue:
    """Show the page, which is public like the document; logged-in users see it with the navigation."""
    return render_template("api/docs.html" if current_user.is_authenticated else "api/docs_bare.html")


@pages.get(f"{DOCS_PATH}/operations")
@public
def operations() -> ResponseReturnValue:
    """Show the list of all operations."""
    api: BelfryApi = current_app.extensions["flask-smorest"]["apis"][""]["ext_obj"]
    template = "api/operations.html" if current_user.is_authenticated else "api/operations_bare.html"
    return render_template(template, groups=_groups(api.document()))


def _groups(document: Mapping[str, Any]) -> dict[str, list[Operation]]:
    """Return the operations of the document by their tag, both in its order."""
    groups: dict[str, list[Operation]] = {tag["name"]: [] for tag in document["tags"]}
    for tag, operation in _operations(document):
        groups[tag].append(operation)
    return {tag: found for tag, found in groups.items() if found}


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, Operation]]:
    for path, methods in document["paths"].items():
        for method in METHODS:
            if (entry := methods.get(method)) is None:
                continue
            (tag,), security = entry["tags"], entry["security"]
            scopes = [scope for each in security for scope in each["bearer"]]
            # The id that Swagger UI gives to an operation without one.
            fragment = f"/{quote(tag)}/{method}{re.sub('[^A-Za-z0-9]', '_', path)}"
            yield tag, Operation(method.upper(), path, entry.get("summary", ""), not security, scopes, fragment)
