"""The forms of work items: names on the page, ids in the service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wtforms import DateField, SelectField, StringField, TextAreaField
from wtforms.validators import DataRequired, InputRequired, Length, Optional

from app.accounts import User
from app.web.forms import ServiceForm, plain_text, unix_lines
from app.work_items.models import (
    MAX_COMMENT_CHARACTERS,
    MAX_DESCRIPTION_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    Kind,
    Priority,
    WorkItem,
)
from flask_belfry.core.presentation import label
from flask_belfry.db.columns import MAX_INTEGER

PRIORITIES = [(priority.value, label(priority)) for priority in Priority]


def id_or_none(value: Any) -> int | None:
    """Return the value of a select as an id; None if nothing is selected. Raises ValueError."""
    return int(value) if value else None


def id_of(text: str | None) -> int | None:
    """Return an id from a form or a URL; None if it is invalid."""
    is_number = text and text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_INTEGER))
    number = int(text) if text and is_number else 0
    return number if 1 <= number <= MAX_INTEGER else None


class WorkItemForm(ServiceForm):
    """The form of a new or existing work item."""

    FORM_FIELDS = {
        **{f"{kind.responsible}_id": "responsible_id" for kind in Kind},
        **{f"{kind.parent}_id": "parent_id" for kind in Kind if kind.parent},
    }

    title = StringField("Title", [DataRequired("Enter a title."), Length(max=MAX_TITLE_CHARACTERS), plain_text])
    description = TextAreaField("Description", [Length(max=MAX_DESCRIPTION_CHARACTERS), plain_text])
    parent_id = SelectField("Part of", [InputRequired("Select one.")], coerce=id_or_none)
    priority = SelectField("Priority", [InputRequired()], choices=PRIORITIES, default=Priority.MEDIUM.value)
    due_date = DateField("Due", [Optional()])
    responsible_id = SelectField("Assignee", [Optional()], coerce=id_or_none)
    reporter_id = SelectField("Reporter", [Optional()], coerce=id_or_none)

    def offer(self, kind: Kind, parents: Sequence[WorkItem], people: Sequence[User]) -> None:
        """Fill the choices; an epic has no field for a parent."""
        if kind.parent is None:
            del self.parent_id
        else:
            self.parent_id.label.text = kind.parent.value.capitalize()
            self.parent_id.choices = [("", "Select one"), *((item.id, f"#{item.id} {item.title}") for item in parents)]
        # With the username, for mentions.
        named = [(person.id, f"{person.name} (@{person.username})") for person in people]
        self.responsible_id.label.text = kind.responsible.capitalize()
        self.responsible_id.choices = [("", "Unassigned"), *named]
        # A new item has a reporter; the reporter of an existing one may have been erased.
        self.reporter_id.choices = [("", "None"), *named] if self.reporter_id.data is None else named

    def leave_assignment(self) -> None:
        """Remove the fields that only staff may set."""
        for name in ("parent_id", "responsible_id", "reporter_id"):
            if name in self:
                del self[name]

    def values(self) -> dict[str, Any]:
        """Return the arguments of the service."""
        names = ("title", "parent_id", "priority", "due_date", "responsible_id", "reporter_id")
        given = {name: self[name].data for name in names if name in self}
        return given | {"description": unix_lines(self.description.data)}


class CommentForm(ServiceForm):
    """The form of a comment."""

    text = TextAreaField(
        "Comment",
        [DataRequired("Enter a comment."), Length(max=MAX_COMMENT_CHARACTERS), plain_text],
        description="Type @username to notify a person by email.",
    )
