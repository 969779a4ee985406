"""Work items as tests need them."""

from __future__ import annotations

from itertools import count
from typing import Any

from app.work_items import Epic, Story, Task
from flask_belfry.db import db
from tests.reservation_factories import make_user

_numbers = count(1)


def make_epic(**values: Any) -> Epic:
    """An epic with a reporter and no owner."""
    return _make(Epic, values)


def make_story(**values: Any) -> Story:
    """A story, of an epic of its own unless one is given."""
    return _make(Story, {"parent": values.pop("epic", None) or make_epic(), **values})


def make_task(**values: Any) -> Task:
    """A task, of a story of its own unless one is given."""
    return _make(Task, {"parent": values.pop("story", None) or make_story(), **values})


def _make(model: Any, values: dict[str, Any]) -> Any:
    values.setdefault("title", f"{model.__name__} {next(_numbers)}")
    if "reporter" not in values:
        values["reporter"] = make_user()
    item = model(**values)
    db.session.add(item)
    db.session.commit()
    return item
