"""The actions on rows of the panel: create, change and delete, each in one transaction and with an audit event."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from flask_admin.actions import action
from flask_wtf import FlaskForm
from sqlalchemy.exc import IntegrityError

from app import audit
from app.admin.references import deletion_problem
from app.admin.rows import RowsView
from app.web.forms import ServiceForm, add_error
from flask_belfry.changes import for_school, recorded_columns, school_of_row, subject_of
from flask_belfry.core.errors import AppError, ConflictError
from flask_belfry.core.presentation import localtime, plain
from flask_belfry.db import db

STALE = "Another user has changed this row. The current values are shown below; saving again overwrites them."


class ActionsView(RowsView):
    """Creates, changes and deletes rows; a view of a model with services overrides the first three methods."""

    def create_row(self, values: dict[str, Any]) -> Any:
        """Create a row, flushed. Raises AppError."""
        row = self.model(**values)
        db.session.add(row)
        db.session.flush()
        return row

    def change_row(self, row: Any, changes: dict[str, Any]) -> None:
        """Change a row, flushed. Raises AppError."""
        for name, value in changes.items():
            setattr(row, name, value)
        db.session.flush()

    def delete_row(self, row: Any, form: FlaskForm) -> None:
        """Delete a row, flushed. Raises AppError."""
        try:
            with db.session.begin_nested():
                db.session.delete(row)
        except IntegrityError as error:
            raise ConflictError(deletion_problem(self.mapper, row)) from error

    @action("delete", "Delete")
    def action_delete(self, rows: Sequence[Any]) -> None:
        """Delete rows."""
        form = self.delete_form()
        for row in rows:
            self._delete(row, form)

    def _create(self, form: FlaskForm) -> None:
        values = {name: form[name].data for name in [*self.creates, *self.create_fields]}
        # A field without a value is left to the default of the column.
        row = self.create_row({name: value for name, value in values.items() if value is not None})
        if not audit.records_creation(type(row)):
            self._record("admin.create", row)

    def _change(self, row: Any, form: FlaskForm) -> None:
        changes = {name: form[name].data for name in self.changes if form[name].data != getattr(row, name)}
        changes |= {name: form[name].data for name in self.edit_fields if form[name].data}
        if not changes:
            return
        self.change_row(row, changes)
        unrecorded = sorted(changes.keys() & set(self.shown) - recorded_columns(type(row)))
        if unrecorded:
            self._record("admin.update", row, fields=unrecorded)

    def _delete(self, row: Any, form: FlaskForm) -> None:
        if not audit.records_deletion(type(row)):
            self._record("admin.delete", row)
        self.delete_row(row, form)

    def _record(self, event: str, row: Any, **details: Any) -> None:
        with for_school(school_of_row(row)):
            audit.record(event, subject_of(row), details=details)

    def _carry_out(self, form: ServiceForm, event: Callable[[], None]) -> int:
        """Run an action and commit, all or nothing. Return 0, or the status of the error, which the form shows."""
        try:
            event()
            db.session.commit()
        except AppError as error:
            db.session.rollback()
            form.take_errors(error.message, error.fields)
            return error.status
        except IntegrityError:
            db.session.rollback()
            form.form_errors.append("Another row has one of these values already, and it must be unique.")
            return ConflictError.status
        return 0

    # ── Concurrent changes ───────────────────────────────────────────────────────────────────────────────────────

    def seen(self, row: Any) -> str:
        """Return the hash of the values that an edit form shows, which the form sends back."""
        values = [plain(getattr(row, name)) for name in self.changes]
        return hashlib.sha256(repr(values).encode()).hexdigest()[:32]

    def _show_differences(self, form: FlaskForm, row: Any) -> None:
        form.form_errors.append(STALE)
        for name in self.changes:
            present = getattr(row, name)
            if form[name].data != present:
                add_error(form[name], f"Current value: {self._as_shown(name, present) or 'none'}.")

    def _as_shown(self, name: str, value: Any) -> str:
        reference = self.references.get(name)
        if reference is not None and value is not None:
            return reference.label(value)
        return localtime(value) if isinstance(value, datetime) else self.text_of(value)
