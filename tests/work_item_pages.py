"""What the pages of work items show, and what their forms send."""

from __future__ import annotations

import re

from app.work_items import WorkItem
from flask_belfry.db import db


def cards(page: str) -> dict[str, list[int]]:
    """The ids of the cards by column."""
    columns = re.findall(r'data-column="(\w+)"(.*?)</section>', page, re.DOTALL)
    return {status: [int(id) for id in re.findall(r'id="card-(\d+)"', text)] for status, text in columns}


def rows(page: str) -> list[int]:
    return [int(id) for id in re.findall(r'<tr id="item-(\d+)"', page)]


def typed(**values) -> dict[str, str]:
    return {"title": "Tune the piano", "description": "", "priority": "MEDIUM", "due_date": "", **values}


def again(item: WorkItem) -> WorkItem:
    db.session.refresh(item)
    return item
