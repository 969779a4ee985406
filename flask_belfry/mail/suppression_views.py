"""The page of suppressed email addresses and held domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry.changes.host import authorized, current_host
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.core.presentation import sentence
from flask_belfry.core.text import query_text
from flask_belfry.mail import domain_holds, suppressions
from flask_belfry.mail.models import DOMAIN_CHARACTERS, EMAIL_CHARACTERS
from flask_belfry.mail.suppressions import CHANGE, REASON_CHARACTERS

pages = Blueprint("suppressions", __name__, template_folder="templates", url_prefix="/mails/suppressions")

VIEW = "mails.view"
FIELDS = ("email", "reason")


@pages.get("")
@authorized(VIEW)
def list_() -> ResponseReturnValue:
    """List the suppressed email addresses, filtered by the query: text, cursor; and the held domains."""
    return _page(dict.fromkeys(FIELDS, ""), {})


@pages.post("")
@authorized(CHANGE)
def add() -> ResponseReturnValue:
    """Suppress the email address of the form, or show the form again with its errors."""
    form = {name: request.form.get(name, "").strip() for name in FIELDS}
    try:
        added = suppressions.add_suppression(form["email"], form["reason"] or None)
    except InvalidInputError as error:
        return _page(form, {name: " ".join(map(sentence, texts)) for name, texts in error.fields.items()}), 422
    except ConflictError as error:
        return _page(form, {"email": error.message}), 409
    flash(f"{added.email} is suppressed.", "success")
    return redirect(url_for("suppressions.list_"), 303)


@pages.post("/<uuid:suppression_id>/lift")
@authorized(CHANGE)
def lift(suppression_id: UUID) -> ResponseReturnValue:
    """Lift a suppression."""
    found = suppressions.get_suppression(suppression_id)
    email = found.email
    suppressions.lift_suppression(found)
    flash(f"The suppression of {email} is lifted.", "success")
    return redirect(url_for("suppressions.list_"), 303)


@pages.post("/holds/lift")
@authorized(CHANGE)
def lift_hold() -> ResponseReturnValue:
    """Lift the hold of the domain in the form."""
    domain = request.form.get("domain", "")[:DOMAIN_CHARACTERS]
    domain_holds.lift_hold(domain)
    flash(f"The hold of {domain} is lifted: its mails are sent now.", "success")
    return redirect(url_for("suppressions.list_"), 303)


def _page(form: Mapping[str, str], errors: Mapping[str, str]) -> str:
    text = query_text("text")
    page = suppressions.find_suppressions(text=text, cursor=request.args.get("cursor"))
    context: dict[str, Any] = {
        "suppressions": page.items,
        "next_cursor": page.next_cursor,
        "holds": domain_holds.held_domains(),
        "user_names": {row.user_id: current_host().user_name(row.user_id) for row in page.items if row.user_id},
        "may_change": current_host().allows(CHANGE),
        "filters": {"text": text},
        "form": form,
        "errors": errors,
        "max_characters": {"email": EMAIL_CHARACTERS, "reason": REASON_CHARACTERS},
    }
    return render_template("mail/suppressions.html", **context)
