"""The order of the cards in a column of the board. A move writes one row, and more where positions are too close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from app.work_items.models import WorkItem, WorkStatus
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import db, table_of

# Distance of two cards: 19 cards fit between them, each in the middle, before neighbours have to move.
STEP = 1_000_000
# Number of neighbours that are spread first where two positions are too close.
NEIGHBOURS = 100

_ITEMS = table_of(WorkItem).c


def positions_on_top(items: Sequence[WorkItem], status: WorkStatus) -> dict[int, int]:
    """Return positions above all cards of a column by item id, the last item on top."""
    positions: dict[int, int] = {}
    for school_id in {item.school_id for item in items}:
        query = sa.select(sa.func.min(_ITEMS.position)).where(*_of_column(school_id, status))
        first = db.session.scalar(query)
        top = STEP if first is None else first - STEP
        of_school = (item for item in items if item.school_id == school_id)
        positions |= {item.id: top - STEP * number for number, item in enumerate(of_school)}
    return positions


def position_below(above: WorkItem, school_id: int, status: WorkStatus) -> int:
    """Return a position directly below a card. Raises InvalidInputError if the card is not in the column."""
    if above.status is not status or above.school_id != school_id:
        raise InvalidInputError(
            f"{above.name} is not in that column.", {"below_id": [f"must be the id of an item that is {status}"]}
        )
    following = _following(above, 1)
    if following and following[0].position - above.position < 2:
        _make_room(above)
        following = _following(above, 1)
    if not following:
        return above.position + STEP
    return above.position + min(STEP, (following[0].position - above.position) // 2)


def _make_room(above: WorkItem) -> None:
    """Spread the cards that follow too closely, twice as many each time until they fit."""
    number = NEIGHBOURS
    while True:
        following = _following(above, number + 1)
        crowded, behind = following[:number], following[number:]
        end = behind[0].position if behind else above.position + STEP * (number + 1)
        gap = (end - above.position) // (len(crowded) + 1)
        if gap >= 2:
            break
        number *= 2
    moved = [{"of_id": row.id, "to": above.position + gap * place} for place, row in enumerate(crowded, 1)]
    # Without listeners and without a new `updated_at`: no user has changed these items.
    statement = (
        sa.update(table_of(WorkItem))
        .where(_ITEMS.id == sa.bindparam("of_id"))
        .values({_ITEMS.position: sa.bindparam("to"), _ITEMS.updated_at: _ITEMS.updated_at})
    )
    db.session.connection().execute(statement, moved)


def _following(above: WorkItem, number: int) -> Sequence[Any]:
    key = sa.tuple_(_ITEMS.position, _ITEMS.id)
    query = (
        sa.select(_ITEMS.id, _ITEMS.position)
        .where(*_of_column(above.school_id, above.status), key > sa.tuple_(above.position, above.id))
        .order_by(_ITEMS.position, _ITEMS.id)
        .limit(number)
    )
    return db.session.execute(query).all()


def _of_column(school_id: int, status: WorkStatus) -> tuple[sa.ColumnElement[bool], ...]:
    return _ITEMS.school_id == school_id, _ITEMS.status == status
