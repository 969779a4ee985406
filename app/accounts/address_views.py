"""The addresses from which one has logged in: the pages behind the links of a mail, and the list of one's own.

To look at a link's page says nothing: programs do so too, which look through mails for what is bad.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm

from app.accounts import limits, logins
from app.accounts.browsers import browser_of
from app.accounts.models import LoginAddress
from app.accounts.permissions import acting_user, can, fresh_login_required, require
from flask_belfry.core.access import public
from flask_belfry.core.errors import ConflictError, InvalidInputError

pages = Blueprint("addresses", __name__)

BLOCKED = (
    "The IP address is blocked, all devices were logged out, and your password no longer works. "
    "An email with the link to set a new one was sent to you."
)
TRUSTED = "The IP address is trusted: logins from there are not announced to you."
NOT_FROM_HERE = (
    "You can change this from a trusted IP address only: follow the link in the email about this one first, "
    "or use another."
)
ANSWERS: dict[str, tuple[Callable[[str], None], str]] = {
    "trust": (logins.trust_by_link, TRUSTED),
    "block": (logins.block_by_link, BLOCKED),
}


@pages.route("/login-address/<token>/<any(trust, block):answer>", methods=["GET", "POST"])
@public
def answer_link(token: str, answer: str) -> ResponseReturnValue:
    """Shows a button, which says whether a login was one's own."""
    form = FlaskForm()
    if form.validate_on_submit():
        limits.spend_code()
        act, words = ANSWERS[answer]
        try:
            act(token)
        except InvalidInputError:
            return _dead_link(token)
        flash(words, "success")
        return redirect(url_for("security.login"))
    found = logins.find(token)
    if found is None:
        return _dead_link(token)
    return render_template("accounts/address_link.html", found=found, answer=answer)


@pages.get("/account/addresses")
@fresh_login_required
def list_() -> ResponseReturnValue:
    """From where one has logged in."""
    page = logins.addresses_of(acting_user(), cursor=request.args.get("cursor"))
    return render_template(
        "accounts/addresses.html",
        addresses=page.items,
        next_cursor=page.next_cursor,
        is_here=logins.is_here,
        browser_of=browser_of,
        may_change=can(acting_user(), "addresses.change"),
        not_from_here=NOT_FROM_HERE,
    )


@pages.post("/account/addresses/<id:address_id>/trust")
@fresh_login_required
def trust(address_id: int) -> ResponseReturnValue:
    """Takes an address for one's own; one that was blocked is not any more."""
    logins.trust(_own(address_id))
    flash(TRUSTED, "success")
    return redirect(url_for("addresses.list_"), 303)


@pages.post("/account/addresses/<id:address_id>/block")
@fresh_login_required
def block(address_id: int) -> ResponseReturnValue:
    """Says that a login was somebody else's; that ends this session too."""
    found = _own(address_id)
    if logins.is_here(found):
        raise ConflictError("You are using this IP address now; it cannot be blocked from here.")
    logins.block(found)
    flash(BLOCKED, "success")
    return redirect(url_for("security.login"), 303)


@pages.post("/account/addresses/<id:address_id>/forget")
@fresh_login_required
def forget(address_id: int) -> ResponseReturnValue:
    """Makes an address one that was never seen."""
    logins.forget(_own(address_id))
    flash("IP address removed: the next login from there is announced to you.", "success")
    return redirect(url_for("addresses.list_"), 303)


def _own(address_id: int) -> LoginAddress:
    """One of one's addresses, to be changed."""
    found = logins.get_address(acting_user(), address_id)
    require(acting_user(), "addresses.change", found, message=NOT_FROM_HERE)
    return found


def _dead_link(token: str) -> ResponseReturnValue:
    return render_template(
        "accounts/dead_link.html",
        message=logins.why_dead(token),
        way_on="accounts.forgot_password",
        words="Choose a new password",
    ), 410
