"""The pages of bulk operations: what one would change, the list, and one with its progress and its undo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry import live
from flask_belfry.changes.host import authorized, current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.core.presentation import sentence
from flask_belfry.db import db
from flask_belfry.operations import bulk
from flask_belfry.operations.models import BulkKind, BulkOperation, BulkState
from flask_belfry.operations.views import given_query

pages = Blueprint("bulk", __name__, template_folder="templates", url_prefix="/jobs/operations")

VIEW, CHANGE = "jobs.view", "jobs.change"
Texts = dict[str, str]
Errors = dict[str, list[str]]
SUGGESTED = {"canary": f"{bulk.CANARY}", "per_second": f"{bulk.PER_SECOND:g}"}


@pages.get("")
@authorized(VIEW)
def list_() -> ResponseReturnValue:
    """List bulk operations, newest first."""
    return render_template("operations/bulk_list.html", **_list_context())


@pages.get("/live")
@authorized(VIEW)
def list_live() -> ResponseReturnValue:
    """Return the part of the list that is updated live."""
    return live.respond("operations/_bulk_list.html", _list_context)


@pages.get("/new")
@authorized(CHANGE)
def preview() -> ResponseReturnValue:
    """Show which jobs an operation would change: those with an `id` in the query, or those that match its filters."""
    texts = {name: request.args.get(name, "") for name in SUGGESTED}
    return _preview_page(request.args.getlist("id"), str(given_query()), texts)


@pages.post("/new")
@authorized(CHANGE)
def begin() -> ResponseReturnValue:
    """Begin an operation."""
    ids, query = request.form.getlist("id"), request.form.get("query", "")
    return begin_or_show(
        lambda numbers: bulk.begin(_kind(), bulk.selection_in_words(ids) if ids else query, ids=ids or None, **numbers),
        lambda texts, errors: _preview_page(ids, query, texts, errors),
    )


@pages.get("/<uuid:operation_id>")
@authorized(VIEW)
def detail(operation_id: UUID) -> ResponseReturnValue:
    """Show an operation."""
    return render_template("operations/bulk.html", **_detail_context(operation_id))


@pages.get("/<uuid:operation_id>/live")
@authorized(VIEW)
def detail_live(operation_id: UUID) -> ResponseReturnValue:
    """Return the part of an operation that is updated live."""
    return live.respond("operations/_bulk.html", lambda: _detail_context(operation_id))


@pages.post("/<uuid:operation_id>/cancel")
@authorized(CHANGE)
def cancel(operation_id: UUID) -> ResponseReturnValue:
    """Stop an operation."""
    bulk.cancel(str(operation_id))
    db.session.commit()
    flash("The operation is cancelled. What it has changed stays changed.", "success")
    return redirect(url_for("bulk.detail", operation_id=operation_id), 303)


@pages.post("/<uuid:operation_id>/undo")
@authorized(CHANGE)
def undo(operation_id: UUID) -> ResponseReturnValue:
    """Begin the reverse of an operation."""
    reverse = bulk.undo(str(operation_id))
    db.session.commit()
    return redirect(url_for("bulk.detail", operation_id=reverse.id), 303)


def _kind() -> BulkKind:
    kind = request.values.get("kind")
    return BulkKind.CANCEL if kind == BulkKind.CANCEL else BulkKind.RETRY


def begin_or_show(begin: Callable[[dict[str, Any]], BulkOperation], show: Callable[[Texts, Errors], str]) -> Response:
    """Begin an operation with the numbers of the form and show it, or show the form again with its errors.

    Args:
        begin: begins the operation with `canary` and `per_second`.
        show: returns the page of the form with the texts and the errors of its fields, by name; those of the form as a
            whole are under "".
    """
    texts = {name: request.form.get(name, "").strip() for name in SUGGESTED}
    try:
        canary, per_second = _number(int, texts, "canary"), _number(float, texts, "per_second")
        operation = begin({"canary": canary, "per_second": per_second})
        db.session.commit()
        return make_response(redirect(url_for("bulk.detail", operation_id=operation.id), 303))
    except InvalidInputError as error:
        db.session.rollback()
        errors = {name: [sentence(each) for each in messages] for name, messages in error.fields.items()}
        if errors.keys().isdisjoint(texts):
            errors[""] = [error.message, *(each for messages in errors.values() for each in messages)]
    return make_response(show(texts, errors), InvalidInputError.status)


def _number(read: type[int] | type[float], texts: Texts, name: str) -> Any:
    try:
        return read(texts[name]) if texts[name] else None
    except ValueError:
        raise InvalidInputError("The operation is invalid.", {name: ["must be a number"]}) from None


def _preview_page(ids: list[str], query: str, texts: Texts, errors: Errors | None = None) -> str:
    kind = _kind()
    return render_template(
        "operations/bulk_preview.html",
        kind=kind,
        preview=bulk.preview(kind, query, ids or None),
        ids=ids,
        query=bulk.selection_in_words(ids) if ids else query,
        texts=texts,
        errors=errors or {},
        suggested=SUGGESTED,
    )


def _list_context() -> dict[str, Any]:
    page = bulk.list_operations(cursor=request.args.get("cursor"))
    names = {user_id: current_host().user_name(user_id) for user_id in {row.user_id for row in page.items}}
    is_live = any(row.state is BulkState.RUNNING for row in page.items)
    groups = bulk.groups_of(page.items)
    return {
        "operations": page.items,
        "groups": groups,
        "next_cursor": page.next_cursor,
        "names": names,
        "is_live": is_live,
    }


def _detail_context(operation_id: UUID) -> dict[str, Any]:
    operation = bulk.get_operation(str(operation_id))
    outcomes = bulk.outcomes_of(operation)
    may_change = current_host().allows(CHANGE)
    return {
        "operation": operation,
        "group": bulk.groups_of([operation]).get(operation.group_id or ""),
        "outcomes": outcomes,
        "watched": bulk.WATCHED_JOBS,
        "user_name": current_host().user_name(operation.user_id),
        "may_cancel": may_change and operation.state is BulkState.RUNNING,
        "may_undo": may_change and bulk.can_undo(operation),
        "is_waiting": operation.next_page_at is not None and operation.next_page_at > utc_now(),
        "is_live": operation.state is BulkState.RUNNING or outcomes.live > 0,
    }
