"""The pages of many work items: the board and the list. Both read the same filters from the URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.accounts import User, acting_user, can
from app.work_items import queries, services
from app.work_items.forms import PRIORITIES, id_of
from app.work_items.models import Kind, Priority, WorkItem, WorkStatus
from flask_belfry.core.errors import AppError
from flask_belfry.core.presentation import date_today, label, sentence
from flask_belfry.core.text import query_text
from flask_belfry.db import db

pages = Blueprint("work", __name__, url_prefix="/work-items")

FILTERS = ("kind", "status", "priority", "within", "responsible", "mine", "due", "text")
# The board shows stories and tasks; epics are one of its filters.
BOARD_KINDS = frozenset({Kind.STORY, Kind.TASK})
# Number of days from today before which an item is due, by the word in the URL.
DUE_DAYS = {"overdue": 0, "week": 8}
UNASSIGNED = "none"


@dataclass(frozen=True)
class Card:
    """A work item on the board and in the list."""

    item: WorkItem
    parent_title: str | None
    progress: queries.Progress | None
    is_overdue: bool
    may_move: bool


@dataclass(frozen=True)
class Column:
    """A column of the board: its first cards, and the number of all its cards."""

    status: WorkStatus
    cards: Sequence[Card]
    count: int


@pages.get("/board")
def board() -> ResponseReturnValue:
    """Show the board, one column for each status."""
    return render_template("work_items/board.html", **{**_page_context(), **_board_context()})


@pages.get("/board/columns")
def columns() -> ResponseReturnValue:
    """Return only the columns, which the page polls: 304 while nothing has changed."""
    answer = make_response(render_template("work_items/_columns.html", **_board_context()))
    answer.add_etag()
    return answer.make_conditional(request)


@pages.get("")
def list_() -> ResponseReturnValue:
    """Show the list, newest first."""
    shown = _shown_filters()
    page = queries.page(acting_user(), _filters(shown), cursor=request.args.get("cursor"))
    return render_template(
        "work_items/list.html",
        cards=_cards(acting_user(), page.items),
        next_cursor=page.next_cursor,
        statuses=[(status.value, label(status)) for status in WorkStatus],
        priorities=PRIORITIES,
        **_page_context(),
    )


@pages.post("/bulk")
def change_many() -> ResponseReturnValue:
    """Make the same changes to the selected items, all or none."""
    ids = [id for text in request.form.getlist("ids") if (id := id_of(text))]
    changes = _changes()
    if not ids or not changes:
        flash("Select items and a change.", "error")
        return redirect(list_url(), 303)
    try:
        items = queries.lock_many(acting_user(), ids)
        services.change_many(acting_user(), items, changes)
    except AppError as error:
        db.session.rollback()
        flash(f"{sentence(error.message)} Nothing was changed.", "error")
    else:
        db.session.commit()
        flash(f"{len(items)} item{'' if len(items) == 1 else 's'} changed.", "success")
    return redirect(list_url(), 303)


def board_url() -> str:
    """Return the URL of the board with the filters of this request."""
    return url_for("work.board", **_carried())


def move_url(item_id: int, **values: Any) -> str:
    """Return the URL that moves a card, with the filters of this request."""
    return url_for("work_items.move", item_id=item_id, **values, **_carried())


def list_url() -> str:
    """Return the URL of the list with the filters of this request."""
    return url_for("work.list_", **_carried())


def _carried() -> dict[str, Any]:
    return {name: request.args[name] for name in FILTERS if request.args.get(name)}


def _changes() -> dict[str, Any]:
    """Return the changes of the bulk form; an empty field changes nothing."""
    changes: dict[str, Any] = {name: request.form[name] for name in ("status", "priority") if request.form.get(name)}
    if responsible := request.form.get("responsible"):
        changes["responsible_id"] = None if responsible == UNASSIGNED else id_of(responsible)
    return changes


def _page_context() -> dict[str, Any]:
    """Return the common context of the board and the list: the filters and their choices."""
    user, shown = acting_user(), _shown_filters()
    people = queries.people_of_school(user.school_id) if can(user, "work_items.view_all") else []
    return {
        "query": _carried(),
        "filters": shown,
        "is_filtered": any(shown.values()),
        "kinds": list(Kind),
        "epics": _epics(user, shown["within"]),
        "people": [(person.id, person.name) for person in people],
        "may_create": can(user, "work_items.create"),
        "may_assign": can(user, "work_items.assign"),
    }


def _epics(user: User, chosen_id: int | None) -> Mapping[int, str]:
    """Return the epics in the filter: those under way, and the one that is selected now."""
    offered = {item.id: item.title for item in queries.possible_parents(user, Kind.STORY)}
    if chosen_id and chosen_id not in offered:
        offered |= queries.titles_of(user, [chosen_id])
    return offered


def _board_context() -> dict[str, Any]:
    user, filters = acting_user(), _filters(_shown_filters(), kinds=BOARD_KINDS)
    found = queries.board(user, filters)
    counts = queries.counts(user, filters)
    cards = {card.item.id: card for card in _cards(user, [item for column in found for item in column.items])}
    return {
        "query": _carried(),
        "columns": [
            Column(column.status, [cards[item.id] for item in column.items], counts[column.status]) for column in found
        ],
    }


def _cards(user: User, items: Sequence[WorkItem]) -> list[Card]:
    titles = queries.titles_of(user, {item.parent_id for item in items if item.parent_id})
    progress, today = queries.progress_of([item.id for item in items]), date_today()
    return [
        Card(
            item,
            titles.get(item.parent_id or 0),
            progress.get(item.id),
            is_overdue(item, today),
            can(user, "work_items.set_status", item),
        )
        for item in items
    ]


def is_overdue(item: WorkItem, today: date) -> bool:
    """Return whether an open item is past its due date."""
    return item.due_date is not None and item.due_date < today and item.status is not WorkStatus.DONE


def _shown_filters() -> dict[str, Any]:
    """Return the filters as the pages show them; invalid values are ignored, as on every page."""
    due = request.args.get("due")
    return {
        "kind": _member(Kind, "kind"),
        "status": _member(WorkStatus, "status"),
        "priority": _member(Priority, "priority"),
        "within": id_of(request.args.get("within")),
        "responsible": id_of(request.args.get("responsible")),
        "mine": request.args.get("mine") == "1",
        "due": due if due in DUE_DAYS else None,
        "text": query_text("text"),
    }


def _member(enum: Any, name: str) -> Any:
    given = request.args.get(name)
    return enum(given) if given in list(enum) else None


def _filters(shown: Mapping[str, Any], **more: Any) -> queries.Filters:
    same = {name: shown[name] for name in ("kind", "status", "priority", "text")}
    return queries.Filters(
        **same,
        **({} if shown["kind"] else more),
        within_id=shown["within"],
        responsible_id=acting_user().id if shown["mine"] else shown["responsible"],
        due_before=date_today() + timedelta(days=DUE_DAYS[shown["due"]]) if shown["due"] else None,
    )
