"""Views of models whose slices have services: the panel calls the same services as the pages and the API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import partial
from typing import Any

from flask_admin.actions import action
from flask_wtf import FlaskForm
from wtforms import PasswordField, SelectField
from wtforms.fields.choices import SelectChoice  # pyright: ignore[reportAttributeAccessIssue] - newer than its stubs
from wtforms.validators import InputRequired, Length, NumberRange, Optional

from app import directory, reservations, work_items
from app.accounts import acting_user, change_password, change_user, check_not_last_admin, create_user, revoke
from app.admin.view import PanelView
from app.reservations import TRANSITIONS, ReservationStatus
from app.schools import DEFAULT_SLUG, School
from app.web.forms import WholeNumberField
from app.work_items import Kind, Parts, WorkStatus
from flask_belfry.core.errors import ConflictError
from flask_belfry.core.presentation import date_today, label
from flask_belfry.db import db
from flask_belfry.db.columns import MAX_INTEGER

NEW_PASSWORD = "Ends all sessions and tokens; the user is notified by email. Leave empty to keep it."  # noqa: S105 - a hint


class UserView(PanelView):
    """Users. Admins cannot lock themselves out."""

    create_fields = {
        "password": PasswordField("Password", [InputRequired("This field is required."), Length(max=1_000)])
    }
    edit_fields = {"password": PasswordField("New password", [Optional(), Length(max=1_000)], description=NEW_PASSWORD)}

    def create_row(self, values: dict[str, Any]) -> Any:
        """Create a user whose email address is confirmed by the admin."""
        school_id = values.pop("school_id", None)
        return create_user(**values, school=db.session.get(School, school_id) if school_id else None)

    def change_row(self, row: Any, changes: dict[str, Any]) -> None:
        """Change a user; a new password ends their sessions."""
        if row.id == acting_user().id and changes.keys() & {"role", "active"}:
            fields = {
                name: ["You cannot change this for your own account."] for name in ("role", "active") if name in changes
            }
            raise ConflictError("You would lock yourself out.", fields)
        password = changes.pop("password", None)
        change_user(row, changes)
        if password is not None:
            change_password(row, password)

    def delete_row(self, row: Any, form: FlaskForm) -> None:
        """Delete a user without data; users with data are disabled instead."""
        if row.id == acting_user().id:
            raise ConflictError("You cannot delete yourself.")
        check_not_last_admin(row)
        super().delete_row(row, form)


class SchoolView(PanelView):
    """Schools. The slug cannot be changed: commands and URLs contain it."""

    def create_row(self, values: dict[str, Any]) -> Any:
        """Create a school."""
        return directory.create_school(acting_user(), **values)

    def change_row(self, row: Any, changes: dict[str, Any]) -> None:
        """Change a school."""
        directory.change_school(acting_user(), row, changes)

    def delete_row(self, row: Any, form: FlaskForm) -> None:
        """Delete a school without users."""
        if row.slug == DEFAULT_SLUG:
            raise ConflictError("New users join this school: it cannot be deleted.")
        super().delete_row(row, form)

    @action("disable", "Disable")
    def action_disable(self, rows: Sequence[Any]) -> None:
        """Disable schools, all or none."""
        for row in rows:
            directory.disable_school(acting_user(), row)

    @action("enable", "Enable")
    def action_enable(self, rows: Sequence[Any]) -> None:
        """Enable schools again."""
        for row in rows:
            directory.enable_school(acting_user(), row)


class ClassView(PanelView):
    """Classes of schools."""

    def create_row(self, values: dict[str, Any]) -> Any:
        """Create a class."""
        return directory.create_class(acting_user(), **values)

    def change_row(self, row: Any, changes: dict[str, Any]) -> None:
        """Rename a class."""
        directory.change_class(acting_user(), row, changes)

    def delete_row(self, row: Any, form: FlaskForm) -> None:
        """Delete a class without enrolled students."""
        directory.delete_class(acting_user(), row, today=date_today())


class StudentView(PanelView):
    """Students. Their guardians are on their pages."""

    def create_row(self, values: dict[str, Any]) -> Any:
        """Create a student."""
        return directory.create_student(acting_user(), **values)

    def change_row(self, row: Any, changes: dict[str, Any]) -> None:
        """Change a student."""
        directory.change_student(acting_user(), row, changes)

    def delete_row(self, row: Any, form: FlaskForm) -> None:
        """Delete a student."""
        directory.delete_student(acting_user(), row)


class TokenView(PanelView):
    """Access tokens of the API, which can be revoked."""

    @action("revoke", "Revoke")
    def action_revoke(self, rows: Sequence[Any]) -> None:
        """Revoke tokens and their families."""
        for row in rows:
            revoke(row)


class StatusView(PanelView):
    """Rows whose status can be set in bulk."""

    statuses: Iterable[StrEnum]

    def init_actions(self) -> None:
        """Add one bulk action for each status."""
        super().init_actions()
        for status in self.statuses:
            name, text = f"set-{status}", f"Set status: {label(status)}"
            self._actions.append((name, text))
            self._actions_data[name] = (partial(self.set_status, status=status), text, None)

    def set_status(self, rows: Sequence[Any], status: str) -> None:
        """Set the status of rows."""
        raise NotImplementedError


class ReservationView(StatusView):
    """Reservations."""

    # The statuses that can follow another one.
    statuses = [status for status in ReservationStatus if any(status in targets for targets in TRANSITIONS.values())]

    def create_row(self, values: dict[str, Any]) -> Any:
        """Create a pending reservation."""
        return reservations.create(acting_user(), **values)

    def change_row(self, row: Any, changes: dict[str, Any]) -> None:
        """Change a reservation and its status."""
        reservations.update(acting_user(), row, changes)

    def delete_row(self, row: Any, form: FlaskForm) -> None:
        """Delete a reservation; its mails and changes are kept."""
        reservations.delete(acting_user(), row)

    def set_status(self, rows: Sequence[Any], status: str) -> None:
        """Set the status of reservations."""
        reservations.set_status_many(acting_user(), rows, status)


class WorkItemView(StatusView):
    """Epics, stories and tasks."""

    statuses = WorkStatus
    field_names = {f"{name}_id": "responsible_id" for name in ("owner", "assignee")} | {
        f"{kind}_id": "parent_id" for kind in Kind
    }
    delete_fields = {
        "parts": SelectField(
            "Items in it",
            choices=[
                SelectChoice("", "It has none"),
                SelectChoice(Parts.DELETE.value, "Delete them too"),
                SelectChoice(Parts.MOVE.value, "Move them to another item"),
            ],
        ),
        "to_id": WholeNumberField("Number of the other item", [Optional(), NumberRange(1, MAX_INTEGER)]),
    }

    def create_row(self, values: dict[str, Any]) -> Any:
        """Create an item."""
        return work_items.create(acting_user(), values.pop("kind"), **values)

    def change_row(self, row: Any, changes: dict[str, Any]) -> None:
        """Change an item."""
        work_items.change(acting_user(), row, changes)

    def delete_row(self, row: Any, form: FlaskForm) -> None:
        """Delete an item; the form selects what to do with its parts."""
        asked = form if "parts" in form else None
        parts, to_id = (asked["parts"].data or None, asked["to_id"].data) if asked else (None, None)
        try:
            work_items.delete(acting_user(), row, parts=parts, to_id=to_id)
        except ConflictError as error:
            # Its field errors name values of the API; the form has choices.
            raise ConflictError(error.message) from error

    def set_status(self, rows: Sequence[Any], status: str) -> None:
        """Set the status of items."""
        work_items.change_many(acting_user(), rows, {"status": status})


class CommentView(PanelView):
    """Comments, which only their authors change."""

    def delete_row(self, row: Any, form: FlaskForm) -> None:
        """Delete a comment."""
        work_items.delete_comment(acting_user(), row)
