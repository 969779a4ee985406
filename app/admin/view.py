"""The view of any model in the panel: list, details, export, create, edit and delete.

Flask-Admin defines the attributes of a view (columns, filters, forms, bulk actions) and its routes. This module adds
pagination by key instead of offsets and counts, forms with native inputs, our templates, one transaction for each
action, a check for concurrent changes, and audit events. A model with services has a view in slices.py that calls them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

import sqlalchemy as sa
from flask import Response, flash, redirect, request, stream_with_context, url_for
from flask.typing import ResponseReturnValue
from flask_admin import expose
from flask_admin.actions import action
from flask_admin.contrib.sqla import ModelView
from flask_admin.tools import iterdecode
from flask_wtf import FlaskForm
from sqlalchemy.exc import IntegrityError

from app import audit
from app.accounts import require_fresh_login
from app.admin.export import csv_lines
from app.admin.fields import PanelForm, form_of, label_of
from app.admin.filters import PanelFilter, filters_of
from app.admin.index import Guarded
from app.admin.references import deletion_problem, labels_of, references_of
from app.admin.secrets import secrets_of
from app.web.forms import ServiceForm, add_error
from flask_belfry.changes import for_school, recorded_columns, school_of_row, subject_of, subject_type
from flask_belfry.core.errors import AppError, ConflictError, InvalidInputError, NotFoundError
from flask_belfry.core.presentation import label, localtime, plain, subject_url
from flask_belfry.core.text import CONTROL_CHARACTERS, query_text
from flask_belfry.db import db
from flask_belfry.db.columns import UtcDateTime, as_uuid_text, in_utc
from flask_belfry.db.pagination import DEFAULT_LIMIT, MAX_INTEGER, MAX_LIMIT, Page, page_by_key
from flask_belfry.db.tenancy import current_scope, use_scope

EXPORT_ROWS = 100_000
CAPITAL_INSIDE = re.compile(r"(?<!^)(?=[A-Z])")
STALE = "Another user has changed this row. The current values are shown below; saving again overwrites them."
# Routes of the scripts of Flask-Admin.
UNUSED = frozenset({"ajax_lookup", "ajax_update"})

NEEDS_FRESH_LOGIN = frozenset({"create_view", "edit_view", "delete_view", "action_view", "export"})


class PanelView(Guarded, ModelView):
    """A model in the panel, read-only by default.

    Args:
        model: its model.
        category: the group on the first page.
        name: label of its rows, in the plural.
        columns: columns of the list; None is all except secrets. Details and export always show all except secrets.
        searches: text columns of the search, which reads the whole table: not for ledgers.
        filters: columns with a filter; None is all columns with few values (enums, yes and no).
        sorts: columns to order by, besides the key: not nullable, and with an index.
        creates: fields of the form of a new row; empty: rows cannot be created here.
        changes: fields of the form of an existing row; empty: rows cannot be changed here.
        deletes: whether rows can be deleted here.
        page: subject type of the page of a row, if it is not that of the model.
    """

    list_template = "admin/list.html"
    details_template = "admin/details.html"
    create_template = edit_template = "admin/form.html"
    confirm_template = "admin/confirm.html"
    can_view_details = True
    can_export = True
    column_display_pk = True
    simple_list_pager = True
    page_size = DEFAULT_LIMIT
    # Fields of the forms besides the columns.
    create_fields: Mapping[str, Any] = {}
    edit_fields: Mapping[str, Any] = {}
    delete_fields: Mapping[str, Any] = {}
    # The form's field by the service's name, where the two differ.
    field_names: Mapping[str, str] = {}

    def __init__(
        self,
        model: type[Any],
        category: str,
        name: str,
        *,
        columns: Sequence[str] | None = None,
        searches: Sequence[str] = (),
        filters: Sequence[str] | None = None,
        sorts: Sequence[str] = (),
        creates: Sequence[str] = (),
        changes: Sequence[str] = (),
        deletes: bool = False,
        page: str | None = None,
    ) -> None:
        self.mapper: Any = sa.inspect(model)
        self.shown = [each for each in self.mapper.columns.keys() if each not in secrets_of(model)]  # noqa: SIM118
        self.types = {each: self.mapper.columns[each].type for each in self.shown}
        self.key = [self.mapper.get_property_by_column(column).key for column in self.mapper.primary_key]
        self.references = references_of(self.mapper, self.shown)
        self.column_list = list(columns or self.shown)
        self.column_details_list = self.column_export_list = self.shown
        self.column_labels = {each: label_of(each) for each in self.shown}
        self.column_searchable_list = searches
        self.column_filters = self._few_values() if filters is None else filters
        self.column_sortable_list = [*self.key[:1], *sorts]
        self.creates, self.changes = creates, changes
        self.can_create, self.can_edit, self.can_delete = bool(creates), bool(changes), deletes
        self.subject_type = page or subject_type(model)
        self._check_secrets(*self.column_list, *searches, *self.column_filters, *sorts, *creates, *changes)
        table = self.mapper.local_table.name
        super().__init__(model, db, name, category, f"admin_{table}", table)
        self._urls = [route for route in self._urls if self._has_route(str(route[1]))]

    # ── Called by Flask-Admin ────────────────────────────────────────────────────────────────────────────────────

    def scaffold_auto_joins(self) -> list[Any]:
        """Return no joins: references.py reads the labels with one query for each table."""
        return []

    def scaffold_filters(self, name: str) -> list[Any]:
        """Return the filters of a column."""
        return filters_of(getattr(self.model, name), label_of(name))

    def get_create_form(self) -> Any:
        """Return the form class of a new row."""
        return form_of(self.model, self.creates, self.create_fields, self.field_names)

    def get_edit_form(self) -> Any:
        """Return the form class of an existing row."""
        return form_of(self.model, self.changes, self.edit_fields, self.field_names)

    def get_delete_form(self) -> Any:
        """Return the form class of a deletion."""
        return form_of(self.model, (), self.delete_fields, self.field_names)

    def delete_form(self, *, is_new: bool = False) -> Any:
        """Return the form of a deletion; a new one ignores the data of the request."""
        form: Any = self._delete_form_class
        return form(formdata=None) if is_new else form()

    def get_action_form(self) -> Any:
        """Return the form class of bulk actions; rows and action are read from the request."""
        return PanelForm

    def get_actions_list(self) -> tuple[list[Any], dict[Any, Any]]:
        """Return the bulk actions, deletion last."""
        actions, confirmations = super().get_actions_list()
        return sorted(actions, key=lambda each: each[0] == "delete"), confirmations

    def is_action_allowed(self, name: str) -> bool:
        """Return whether a bulk action is allowed."""
        return name != "delete" or self.can_delete

    def _handle_view(self, name: str, **kwargs: Any) -> Any:
        """Check access before every view; writes and the export require a recent login."""
        refused = super()._handle_view(name, **kwargs)
        if refused is None and name in NEEDS_FRESH_LOGIN:
            require_fresh_login()
        return refused

    # ── Pages ────────────────────────────────────────────────────────────────────────────────────────────────────

    @expose("/")
    def index_view(self) -> ResponseReturnValue:
        """Show the list."""
        page = self._page(DEFAULT_LIMIT, request.args.get("cursor"))
        return self.render(
            self.list_template,
            rows=page.items,
            next_cursor=page.next_cursor,
            labels=labels_of(self.references, page.items),
            actions=self.get_actions_list()[0],
            orders=self._orders(),
            is_narrowed=any(query_text(name) for name in ("text", *(each.parameter for each in self.filters))),
        )

    @expose("/details/")
    def details_view(self) -> ResponseReturnValue:
        """Show all columns of a row except secrets."""
        row = self._row()
        return self.render(
            self.details_template,
            row=row,
            labels=labels_of(self.references, [row]),
            actions=[each for each in self.get_actions_list()[0] if each[0] != "delete"],
            own_page=subject_url(self.subject_type, self.get_pk_value(row)) if len(self.key) == 1 else None,
        )

    @expose("/export/csv/")
    def export(self, export_type: str = "csv") -> ResponseReturnValue:
        """Return the filtered and ordered rows of the list as a CSV file."""
        lines = stream_with_context(csv_lines(self.shown, self._all_rows(current_scope())))
        headers = {"Content-Disposition": f"attachment; filename={self.mapper.local_table.name}.{export_type}"}
        return Response(lines, mimetype="text/csv", headers=headers)

    @expose("/new/", methods=("GET", "POST"))
    def create_view(self) -> ResponseReturnValue:
        """Show and handle the form of a new row."""
        form: Any = self.create_form()
        if not form.validate_on_submit():
            return self._form_page(form, None, 422 if form.is_submitted() else 200)
        status = self._carry_out(form, lambda: self._create(form))
        if status:
            return self._form_page(form, None, status)
        flash("Created.", "success")
        return redirect(url_for(".index_view"), 303)

    @expose("/edit/", methods=("GET", "POST"))
    def edit_view(self) -> ResponseReturnValue:
        """Show and handle the form of a row."""
        row = self._row(for_update=request.method == "POST")
        form: Any = self.edit_form(row)
        if not form.is_submitted():
            return self._form_page(form, row, 200)
        is_valid = form.validate()
        if request.form.get("seen") != self.seen(row):
            self._show_differences(form, row)
            return self._form_page(form, row, 409)
        status = self._carry_out(form, lambda: self._change(row, form)) if is_valid else 422
        if status:
            return self._form_page(form, row, status)
        flash("Saved.", "success")
        return redirect(self.url_of(self._identity()), 303)

    @expose("/delete/", methods=("GET", "POST"))
    def delete_view(self) -> ResponseReturnValue:
        """Ask for confirmation, and delete a row."""
        row = self._row(for_update=request.method == "POST")
        form = self.delete_form()
        if not form.is_submitted():
            return self._confirm_page(form, [row], "delete", 200)
        status = self._carry_out(form, lambda: self._delete(row, form)) if form.validate() else 422
        if status:
            return self._confirm_page(form, [row], "delete", status)
        flash("Deleted.", "success")
        return redirect(url_for(".index_view"), 303)

    @expose("/action/", methods=("POST",))
    def action_view(self) -> ResponseReturnValue:
        """Ask for confirmation, and apply an action to all selected rows, or to none."""
        name = request.form.get("action", "")
        if name not in self._actions_data or not self.is_action_allowed(name):
            raise InvalidInputError("This action does not exist.")
        rows = self._chosen(request.form.getlist("rowid"))
        if not rows:
            flash("Select at least one row first.", "warning")
            return redirect(url_for(".index_view"), 303)
        is_confirmed = "confirmed" in request.form
        form: Any = self.delete_form(is_new=not is_confirmed) if name == "delete" else PanelForm()
        if not is_confirmed:
            return self._confirm_page(form, rows, name, 200)
        status = self._carry_out(form, lambda: self._actions_data[name][0](rows)) if form.validate() else 422
        if status:
            return self._confirm_page(form, rows, name, status)
        flash(f"{self._actions_data[name][1]}: done for {len(rows)} row{'' if len(rows) == 1 else 's'}.", "success")
        return redirect(url_for(".index_view"), 303)

    # ── Actions: a view of a model with services overrides them ──────────────────────────────────────────────────

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

    def text_of(self, value: Any) -> str:
        """Return the text of a value: members of enums by their labels."""
        return label(value) if isinstance(value, Enum) else plain(value)

    # ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def filters(self) -> Sequence[PanelFilter]:
        """The list's filters."""
        found: Any = self._filters or ()
        return found

    def url_of(self, id: Any) -> str:
        """Return the URL of a row, by its encoded id."""
        return url_for(f"{self.endpoint}.details_view", id=id)

    @property
    def allowed_changes(self) -> str:
        """The possible actions, for the first page."""
        words = {"new": self.can_create, "edit": self.can_edit}
        named = [word for word, may in words.items() if may]
        return ", ".join([*named, *(text.lower() for name, text in self.get_actions_list()[0] if "set-" not in name)])

    def _few_values(self) -> list[str]:
        return [name for name, type_ in self.types.items() if isinstance(type_, sa.Enum | sa.Boolean)]

    def _check_secrets(self, *names: str) -> None:
        if named := secrets_of(self.mapper.class_).intersection(names):
            raise ValueError(f"{self.mapper.class_.__name__}: {', '.join(sorted(named))} is never shown")

    def _has_route(self, view: str) -> bool:
        """Return whether the view has a route: one that is not allowed has no URL."""
        has = {
            "create_view": self.can_create,
            "edit_view": self.can_edit,
            "delete_view": self.can_delete,
            "action_view": bool(self.get_actions_list()[0]),
        }
        return has.get(view, view not in UNUSED)

    def _page(self, limit: int, cursor: str | None) -> Page[Any]:
        order = query_text("order") or ""
        column = order.removeprefix("-")
        if column not in self._sortable_columns:
            column, order = self.key[0], "-"
        first = self.key if column in self.key else [column, *self.key]
        key = [getattr(self.model, name) for name in first]
        return page_by_key(
            db.session(), self._query(), key, limit=limit, cursor=cursor, descending=order.startswith("-")
        )

    def _query(self) -> sa.Select[Any]:
        query = sa.select(self.model)
        for each in self.filters:
            value = query_text(each.parameter)
            # Invalid values are ignored, as on every page.
            if value and each.validate(value):
                query = each.apply(query, each.clean(value))
        text = query_text("text")
        return query.where(self._matches(text)) if text else query

    def _matches(self, text: str) -> sa.ColumnElement[bool]:
        columns = [getattr(self.model, str(name)) for name in self.column_searchable_list or ()]
        found: list[Any] = [column.icontains(text, autoescape=True) for column in columns]
        key = getattr(self.model, self.key[0])
        try:
            found.append(key == _as_key(key.type, text.removeprefix("#")))
        except ValueError:
            found.append(sa.false())
        return sa.or_(*found)

    def _orders(self) -> list[tuple[str, str]]:
        names = [str(name) for name in self._sortable_columns]
        up = [(name, f"{label_of(name)}, ascending") for name in names]
        down = [(f"-{name}", f"{label_of(name)}, descending") for name in names]
        return [pair for pairs in zip(down, up, strict=True) for pair in pairs]

    def _all_rows(self, scope: Any) -> Iterator[Any]:
        # In pages: no transaction stays open while a slow client reads the file, and memory does not grow.
        cursor, left = None, EXPORT_ROWS
        while left > 0:
            with use_scope(scope):
                page = self._page(min(MAX_LIMIT, left), cursor)
            yield from page.items
            db.session.rollback()
            cursor, left = page.next_cursor, left - MAX_LIMIT
            if cursor is None:
                return

    def _row(self, *, for_update: bool = False) -> Any:
        found = self._rows([self._identity()], for_update=for_update)
        if not found:
            raise NotFoundError(f"This row does not exist in {self.name}.")
        return found[0]

    def _identity(self) -> str:
        return request.args.get("id", "")

    def _chosen(self, ids: Sequence[str]) -> list[Any]:
        if len(ids) > MAX_LIMIT:
            raise InvalidInputError(f"Select at most {MAX_LIMIT} rows.")
        rows = self._rows(ids, for_update=True)
        if len(rows) != len(set(ids)):
            raise NotFoundError("Some of these rows no longer exist; nothing was changed.")
        return rows

    def _rows(self, ids: Iterable[str], *, for_update: bool) -> list[Any]:
        columns = [getattr(self.model, name) for name in self.key]
        try:
            wanted = [self._key_of(id) for id in set(ids)]
        except ValueError as error:
            raise NotFoundError(f"This row does not exist in {self.name}.") from error
        matches = [sa.and_(*(column == part for column, part in zip(columns, parts, strict=True))) for parts in wanted]
        query = sa.select(self.model).where(sa.or_(sa.false(), *matches)).order_by(*columns)
        if for_update:
            query = query.with_for_update().execution_options(populate_existing=True)
        return list(db.session.scalars(query))

    def _key_of(self, id: str) -> list[Any]:
        parts = iterdecode(id)
        if len(parts) != len(self.key):
            raise ValueError(id)
        return [_as_key(self.types[name], part) for name, part in zip(self.key, parts, strict=True)]

    def _form_page(self, form: FlaskForm, row: Any, status: int) -> ResponseReturnValue:
        names = [*self.changes, *self.edit_fields] if row is not None else [*self.creates, *self.create_fields]
        return self.render(self.edit_template, form=form, row=row, names=names), status

    def _confirm_page(self, form: FlaskForm, rows: Sequence[Any], name: str, status: int) -> ResponseReturnValue:
        is_alone = request.endpoint == f"{self.endpoint}.delete_view"
        page = self.render(
            self.confirm_template,
            form=form,
            rows=rows,
            action=name,
            title=self._actions_data[name][1],
            names=list(self.delete_fields) if name == "delete" else [],
            target=url_for(".delete_view", id=self._identity()) if is_alone else url_for(".action_view"),
        )
        return page, status

    def audit_subject(self, row: Any) -> str:
        """Return the subject of the row in the audit log."""
        return f"{subject_type(self.model)}/{getattr(row, self.key[0])}"

    @property
    def singular(self) -> str:
        """The label of one row: `work item`."""
        return CAPITAL_INSIDE.sub(" ", self.model.__name__).lower()

    def title_of(self, row: Any) -> str:
        """Return the title of a row."""
        known = next((getattr(row, name) for name in ("name", "title") if name in self.shown), None)
        id = ", ".join(plain(getattr(row, name)) for name in self.key)
        return f"#{id} {known}" if known and known != id else f"#{id}"


def _as_key(type_: sa.types.TypeEngine[Any], text: str) -> Any:
    """Return a part of a key from a URL. Raises ValueError if it is invalid."""
    if isinstance(type_, sa.Uuid):
        id = as_uuid_text(text)
        if id is None:
            raise ValueError(text)
        return id
    if isinstance(type_, sa.Integer):
        number = int(text)
        if abs(number) > MAX_INTEGER:
            raise ValueError(text)
        return number
    if isinstance(type_, UtcDateTime):
        return in_utc(datetime.fromisoformat(text))
    if CONTROL_CHARACTERS.search(text):
        raise ValueError(text)
    return text
