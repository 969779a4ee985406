"""The pages of work items."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from app.accounts import acting_user
from app.work_items import queries

pages = Blueprint("work_items", __name__, url_prefix="/work")


@pages.get("/<int(max=2147483647):item_id>")
def detail(item_id: int) -> ResponseReturnValue:
    """One item."""
    return queries.get(acting_user(), item_id).title
