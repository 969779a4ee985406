"""The page of the user's personal tokens."""

from __future__ import annotations

from datetime import timedelta

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.accounts.forms import SCOPE_GROUPS, PersonalTokenForm
from app.accounts.permissions import acting_user, fresh_login_required, login_required, require
from app.accounts.tokens import get_personal_token, issue_personal_token, personal_tokens, revoke
from flask_belfry.core.clock import utc_now
from flask_belfry.db import commit_and_keep, db

pages = Blueprint("tokens", __name__, url_prefix="/account/tokens")


@pages.get("")
@login_required
def list_() -> ResponseReturnValue:
    """Show the active tokens and the form for a new one."""
    return _page(PersonalTokenForm())


@pages.post("")
@fresh_login_required
def create() -> ResponseReturnValue:
    """Create a token and show it in this response: it is not stored, so a redirect could not show it."""
    require(acting_user(), "tokens.create")
    form = PersonalTokenForm()
    if not form.validate_on_submit():
        return _page(form), 422
    days = int(form.days.data)
    expires_at = utc_now() + timedelta(days=days) if days else None
    made, _ = issue_personal_token(acting_user(), form.name.data or "", form.scopes.data or [], expires_at)
    commit_and_keep()
    return _page(PersonalTokenForm(formdata=None), made=made), 201


@pages.post("/<id:token_id>/revoke")
@login_required
def revoke_token(token_id: int) -> ResponseReturnValue:
    """Revoke a token."""
    token = get_personal_token(acting_user(), token_id)
    revoke(token)
    name = token.name
    db.session.commit()
    flash(f"Token {name} revoked.", "success")
    return redirect(url_for("tokens.list_"), 303)


def _page(form: PersonalTokenForm, made: str | None = None) -> str:
    page = personal_tokens(acting_user(), cursor=request.args.get("cursor"))
    return render_template(
        "accounts/tokens.html",
        form=form,
        groups=SCOPE_GROUPS,
        made=made,
        tokens=page.items,
        next_cursor=page.next_cursor,
    )
