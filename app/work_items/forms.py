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
from flask_belfry.db.pagination import MAX_INTEGER

PRIORITIES = [(priority.value, label(priority)) for priority in Priority]


def id_or_none(value: Any) -> int | None:
    """What a select sends, as an id; nothing chosen is None. Raises ValueError."""
    return int(value) if value else None


def id_of(text: str | None) -> int | None:
    """An id as a form or an address has it; what can be none is None."""
    is_number = text and text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_INTEGER))
    number = int(text) if text and is_number else 0
    return number if 1 <= number <= MAX_INTEGER else None


class WorkItemForm(ServiceForm):
    """A work item to make or to change."""

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
        """Fills the choices. What is a part of nothing has no field for it."""
        if kind.parent is None:
            del self.parent_id
        else:
            self.parent_id.label.text = kind.parent.value.capitalize()
            self.parent_id.choices = [("", "Choose one"), *((item.id, f"#{item.id} {item.title}") for item in parents)]
        named = [(person.id, person_label(person)) for person in people]
        self.responsible_id.label.text = kind.responsible.capitalize()
        self.responsible_id.choices = [("", "Unassigned"), *named]
        # Of what is made, somebody is the reporter; who was it of what is there may have been forgotten.
        self.reporter_id.choices = [("", "Nobody"), *named] if self.reporter_id.data is None else named

    def leave_assignment(self) -> None:
        """Takes away what only staff set."""
        for name in ("parent_id", "responsible_id", "reporter_id"):
            if name in self:
                del self[name]

    def values(self) -> dict[str, Any]:
        """What the service takes."""
        names = ("title", "parent_id", "priority", "due_date", "responsible_id", "reporter_id")
        given = {name: self[name].data for name in names if name in self}
        return given | {"description": unix_lines(self.description.data)}


class CommentForm(ServiceForm):
    """Something to say."""

    text = TextAreaField(
        "Comment",
        [DataRequired("Enter a comment."), Length(max=MAX_COMMENT_CHARACTERS), plain_text],
        description="Type @username to notify a person by email.",
    )


def person_label(person: User) -> str:
    """A person in a list of choices, with the name that mentions take."""
    return f"{person.name} (@{person.username})"
