"""The view of any model in the panel: list, details, export, create, edit and delete.

Flask-Admin defines the attributes of a view (columns, filters, forms, bulk actions) and its routes. The panel adds:
forms with native inputs and our templates (base.py), pagination by key instead of offsets and counts (rows.py), one
transaction for each action, a check for concurrent changes and audit events (actions.py), and the pages (here). A model
with services has a view in slices.py that calls them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Response, flash, redirect, request, stream_with_context, url_for
from flask.typing import ResponseReturnValue
from flask_admin import expose
from flask_wtf import FlaskForm

from app.admin.actions import ActionsView
from app.admin.export import csv_lines
from app.admin.fields import PanelForm
from app.admin.references import labels_of
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.core.presentation import subject_url
from flask_belfry.core.text import query_text
from flask_belfry.db.pagination import DEFAULT_LIMIT
from flask_belfry.db.tenancy import current_scope


class PanelView(ActionsView):
    """The pages of a model. See `BaseView` for the arguments."""

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
