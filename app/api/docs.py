"""The API documentation at /api/docs: Swagger UI, which reads the OpenAPI document in the browser."""

from __future__ import annotations

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue
from flask_login import current_user

from app.api.paths import DOCS_PATH
from flask_belfry.core.access import public

pages = Blueprint("api_docs", __name__)


@pages.get(DOCS_PATH)
@public
def show() -> ResponseReturnValue:
    """Show the page, which is public like the document; logged-in users see it with the navigation."""
    return render_template("api/docs.html" if current_user.is_authenticated else "api/docs_bare.html")
