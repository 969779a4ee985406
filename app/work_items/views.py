"""The pages of one work item. The pages of many items are in board.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup, escape

from app.accounts import User, acting_user, can, require
from app.history import is_unfinished
from app.work_items import comments, queries, services
from app.work_items.board import board_url, move_url
from app.work_items.forms import CommentForm, WorkItemForm, id_of
from app.work_items.history import history_for
from app.work_items.models import MAX_ITEM_BYTES, Kind, WorkItem, WorkStatus
from flask_belfry.core.access import accept_body
from flask_belfry.core.errors import AppError, ConflictError, InvalidInputError, NotFoundError
from flask_belfry.core.presentation import sentence, words
from flask_belfry.db import commit_and_keep, db

pages = Blueprint("work_items", __name__, url_prefix="/work-items")

ID = "<id:item_id>"
COMMENT_ID = "<id:comment_id>"


@pages.route("/new", methods=["GET", "POST"])
@accept_body(MAX_ITEM_BYTES)
def create() -> ResponseReturnValue:
    """Show and handle the form of a new item; `?kind=` sets its kind, `?parent=` selects its parent."""
    user = acting_user()
    require(user, "work_items.create", message="Only staff can create work items.")
    kind = _kind(request.args.get("kind"))
    form = WorkItemForm(data={"parent_id": id_of(request.args.get("parent")), "reporter_id": user.id})
    form.offer(kind, queries.possible_parents(user, kind), _people(user.school_id, user))
    if not form.validate_on_submit():
        return _form_page(form, kind, None)
    try:
        item = services.create(user, kind, **form.values())
    except InvalidInputError as error:
        form.take_errors(error.message, error.fields)
        return _form_page(form, kind, None)
    commit_and_keep()
    flash(f"{item.name} created.", "success")
    return _to_detail(item.id)


@pages.get(f"/{ID}")
def detail(item_id: int) -> ResponseReturnValue:
    """Show an item with its parts, comments and history."""
    return _detail_page(queries.get(acting_user(), item_id), CommentForm())


@pages.get(f"/{ID}/history")
def history(item_id: int) -> ResponseReturnValue:
    """Return only the history, which the page polls while jobs or mails are unfinished."""
    return render_template("history/_history.html", **_history_context(queries.get(acting_user(), item_id)))


@pages.route(f"/{ID}/edit", methods=["GET", "POST"])
@accept_body(MAX_ITEM_BYTES)
def edit(item_id: int) -> ResponseReturnValue:
    """Show and handle the form of an existing item."""
    user = acting_user()
    item = queries.get(user, item_id, for_update=request.method == "POST")
    require(user, "work_items.update", item, message=services.NOT_YOURS)
    form = WorkItemForm(obj=item)
    if can(user, "work_items.assign", item):
        form.offer(item.kind, _possible_parents(user, item), _people(item.school_id, item.responsible, item.reporter))
    else:
        form.leave_assignment()
    if not form.validate_on_submit():
        return _form_page(form, item.kind, item)
    try:
        services.change(user, item, form.values())
    except InvalidInputError as error:
        form.take_errors(error.message, error.fields)
        return _form_page(form, item.kind, item)
    db.session.commit()
    flash("Saved.", "success")
    return _to_detail(item_id)


@pages.post(f"/{ID}/status")
def set_status(item_id: int) -> ResponseReturnValue:
    """Set the status, if the current one is still `expected_status`, which the user saw."""
    status, expected = request.form.get("status", ""), request.form.get("expected_status") or None
    item = queries.get(acting_user(), item_id, for_update=True)
    try:
        services.set_status(acting_user(), item, status, expected=expected)
    except ConflictError as error:
        db.session.rollback()
        flash(error.message, "error")
    else:
        commit_and_keep()
        flash(f"{item.name} is {words(item.status)}.", "success")
    return _to_detail(item_id)


@pages.post(f"/{ID}/move")
def move(item_id: int) -> ResponseReturnValue:
    """Move a card to `status`, below the card `below_id`, from its menu or by the script of the board, which shows
    errors beside the card."""
    by_script = request.accept_mimetypes.best == "application/json"
    expected = request.values.get("expected_status") or None
    below_id = id_of(request.values.get("below_id"))
    try:
        item = queries.get(acting_user(), item_id, for_update=True)
        place = None if by_script else queries.place_of(acting_user(), item)
        services.move(acting_user(), item, request.form.get("status", ""), below_id, expected=expected)
    except AppError as error:
        db.session.rollback()
        if by_script:
            return {"message": sentence(error.message)}, error.status
        flash(sentence(error.message), "error")
    else:
        commit_and_keep()
        if by_script:
            return "", 204
        flash(_moved_message(item, place), "success")
    return redirect(board_url(), 303)


@pages.post(f"/{ID}/delete")
def delete(item_id: int) -> ResponseReturnValue:
    """Delete an item; `parts` and `to_id` set what to do with its parts."""
    item = queries.get(acting_user(), item_id, for_update=True)
    name, parent_id = item.name, item.parent_id
    parts, to_id = request.form.get("parts") or None, id_of(request.form.get("to_id"))
    try:
        services.delete(acting_user(), item, parts=parts, to_id=to_id)
    except (ConflictError, InvalidInputError) as error:
        db.session.rollback()
        flash(error.message, "error")
        return _to_detail(item_id)
    db.session.commit()
    flash(f"{name} deleted. Its history stays in the audit log.", "success")
    return _to_detail(parent_id) if parent_id else redirect(url_for("work.list_"), 303)


@pages.post(f"/{ID}/watch")
def watch(item_id: int) -> ResponseReturnValue:
    """Make the user a watcher."""
    comments.watch(acting_user(), queries.get(acting_user(), item_id))
    db.session.commit()
    flash("You now watch this item: status changes are emailed to you.", "success")
    return _to_detail(item_id)


@pages.post(f"/{ID}/unwatch")
def unwatch(item_id: int) -> ResponseReturnValue:
    """Remove the user from the watchers."""
    user = acting_user()
    item = queries.get(user, item_id)
    comments.unwatch(user, item)
    db.session.commit()
    flash(f"You no longer watch {item.name}.", "success")
    # A user who could see the item only as a watcher can no longer open it.
    return _to_detail(item_id) if _sees(user, item_id) else redirect(board_url(), 303)


@pages.post(f"/{ID}/comments")
def comment(item_id: int) -> ResponseReturnValue:
    """Add a comment."""
    item, form = queries.get(acting_user(), item_id), CommentForm()
    if not form.validate_on_submit():
        return _detail_page(item, form)
    try:
        added = comments.comment(acting_user(), item, form.text.data or "")
    except InvalidInputError as error:
        db.session.rollback()
        form.take_errors(error.message, error.fields)
        return _detail_page(item, form)
    db.session.commit()
    return _to_detail(item_id, anchor=f"comment-{added.id}")


@pages.route(f"/comments/{COMMENT_ID}/edit", methods=["GET", "POST"])
def edit_comment(comment_id: int) -> ResponseReturnValue:
    """Show and handle the form of a comment, for its author."""
    found = comments.get_comment(acting_user(), comment_id)
    require(acting_user(), "work_items.edit_comment", found, message="Only the author can change a comment.")
    form = CommentForm(obj=found)
    if not form.validate_on_submit():
        return _comment_page(form, found)
    try:
        comments.edit_comment(acting_user(), found, form.text.data or "")
    except InvalidInputError as error:
        db.session.rollback()
        form.take_errors(error.message, error.fields)
        return _comment_page(form, found)
    db.session.commit()
    return _to_detail(found.item_id, anchor=f"comment-{comment_id}")


@pages.post(f"/comments/{COMMENT_ID}/delete")
def delete_comment(comment_id: int) -> ResponseReturnValue:
    """Delete a comment."""
    found = comments.get_comment(acting_user(), comment_id)
    item_id = found.item_id
    comments.delete_comment(acting_user(), found)
    db.session.commit()
    flash("Comment deleted.", "success")
    return _to_detail(item_id)


@pages.app_template_filter("mentions")
def mentions(text: str) -> Markup:
    """Return the text of a comment, escaped, with its mentions marked."""
    # Split by a pattern with one group: every other piece is a name.
    pieces = comments.MENTIONED.split(text)
    mark = Markup('<strong class="mention">@{}</strong>')
    return Markup("").join(mark.format(piece) if n % 2 else escape(piece) for n, piece in enumerate(pieces))


def _kind(text: str | None) -> Kind:
    return Kind(text) if text in list(Kind) else Kind.TASK


def _people(school_id: int, *present: User | None) -> Sequence[User]:
    """Return the people that a form offers: those of the school, and those it names now, even if they have left."""
    offered = list(queries.people_of_school(school_id))
    known = {person.id for person in offered}
    return [*offered, *{person.id: person for person in present if person and person.id not in known}.values()]


def _possible_parents(user: User, item: WorkItem) -> Sequence[WorkItem]:
    offered = list(queries.possible_parents(user, item.kind))
    if item.parent is not None and item.parent.id not in {parent.id for parent in offered}:
        offered.append(item.parent)
    return offered


def _sees(user: User, item_id: int) -> bool:
    try:
        queries.get(user, item_id)
    except NotFoundError:
        return False
    return True


def _detail_page(item: WorkItem, form: CommentForm) -> ResponseReturnValue:
    user = acting_user()
    page = queries.comments_of(item, cursor=request.args.get("cursor"))
    parts = queries.children(user, item)
    context: dict[str, Any] = {
        "item": item,
        "parent_is_seen": item.parent_id is not None and _sees(user, item.parent_id),
        "parts": parts,
        "progress": queries.progress_of([item.id]).get(item.id),
        "part_progress": queries.progress_of([part.id for part in parts]),
        "statuses": list(WorkStatus),
        "watchers": queries.watchers_of(item),
        "is_watching": comments.is_watched_by(user, item),
        "comments": [
            (each, can(user, "work_items.edit_comment", each), can(user, "work_items.delete_comment", each))
            for each in page.items
        ],
        "next_cursor": page.next_cursor,
        "form": form,
        "may_move": can(user, "work_items.set_status", item),
        "may_edit": can(user, "work_items.update", item),
        "may_create": can(user, "work_items.create"),
        **_deletion_context(user, item),
        **_history_context(item),
    }
    return render_template("work_items/detail.html", **context), _form_status()


def _deletion_context(user: User, item: WorkItem) -> dict[str, Any]:
    if not can(user, "work_items.delete", item):
        return {"may_delete": False}
    heirs = queries.possible_parents(user, item.kind.child) if item.kind.child else []
    numbers = queries.numbers_of_parts(item)
    return {
        "may_delete": True,
        "heirs": [heir for heir in heirs if heir.id != item.id and heir.school_id == item.school_id],
        "numbers_of_parts": numbers,
    }


def _history_context(item: WorkItem) -> dict[str, Any]:
    entries = history_for(acting_user(), item)
    return {
        "history": entries,
        "is_unfinished": is_unfinished(entries),
        "history_url": url_for("work_items.history", item_id=item.id),
    }


def _form_page(form: WorkItemForm, kind: Kind, item: WorkItem | None) -> ResponseReturnValue:
    context = {"form": form, "kind": kind, "kinds": list(Kind), "item": item}
    return render_template("work_items/form.html", **context), _form_status()


def _comment_page(form: CommentForm, found: Any) -> ResponseReturnValue:
    return render_template("work_items/comment.html", form=form, comment=found), _form_status()


def _form_status() -> int:
    return 422 if request.method == "POST" else 200


def _moved_message(item: WorkItem, place: queries.Place | None) -> Markup:
    """Return the message of a move, with a button of the board's form that undoes it."""
    moved = escape(f"{item.name} is {words(item.status)}. ")
    if place is None:
        return moved
    back = move_url(item.id, expected_status=item.status, below_id=place.below_id)
    return moved + Markup(
        '<button class="btn btn-sm" form="move-form" name="status" value="{}" formaction="{}">Undo</button>'
    ).format(place.status.value, back)


def _to_detail(item_id: int, anchor: str | None = None) -> ResponseReturnValue:
    return redirect(url_for("work_items.detail", item_id=item_id, _anchor=anchor), 303)
