"""The description of a model in the panel: its columns, references, forms and labels, as Flask-Admin asks for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import sqlalchemy as sa
from flask import url_for
from flask_admin.contrib.sqla import ModelView

from app.accounts import require_fresh_login
from app.admin.fields import PanelForm, form_of, label_of
from app.admin.filters import PanelFilter, filters_of
from app.admin.index import Guarded
from app.admin.references import references_of
from app.admin.secrets import secrets_of
from flask_belfry.changes import subject_type
from flask_belfry.core.presentation import label, plain
from flask_belfry.db import db
from flask_belfry.db.pagination import DEFAULT_LIMIT

CAPITAL_INSIDE = re.compile(r"(?<!^)(?=[A-Z])")
# Routes of the scripts of Flask-Admin.
UNUSED = frozenset({"ajax_lookup", "ajax_update"})

NEEDS_FRESH_LOGIN = frozenset({"create_view", "edit_view", "delete_view", "action_view", "export"})


class BaseView(Guarded, ModelView):
    """The description of a model, read-only by default.

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
        few_values = [name for name, type_ in self.types.items() if isinstance(type_, sa.Enum | sa.Boolean)]
        self.column_filters = few_values if filters is None else filters
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

    # ── Called by templates ──────────────────────────────────────────────────────────────────────────────────────

    def text_of(self, value: Any) -> str:
        """Return the text of a value: members of enums by their labels."""
        return label(value) if isinstance(value, Enum) else plain(value)

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

    # ── At start ─────────────────────────────────────────────────────────────────────────────────────────────────

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
