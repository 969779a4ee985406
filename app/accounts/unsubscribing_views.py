"""The pages behind the unsubscribe links in mails.

Opening one changes nothing: mail scanners open links too. The button, and the one-click request of a mail program
(RFC 8058), do.
"""

from __future__ import annotations

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from app.accounts.unsubscribing import find_subscription
from app.extensions import csrf
from flask_belfry.core.access import public
from flask_belfry.db import commit_and_keep

pages = Blueprint("unsubscribing", __name__, url_prefix="/unsubscribe")

FIELD, ONE_CLICK = "List-Unsubscribe", "One-Click"


@pages.get("/<token>")
@public
def ask(token: str) -> ResponseReturnValue:
    """Show the kind of mail, and the button."""
    return render_template("accounts/unsubscribe.html", subscription=find_subscription(token), token=token)


@pages.post("/<token>")
# A mail program sends this without a session, so it has no CSRF token: the signed token of the link is the authority.
@csrf.exempt
@public
def unsubscribe(token: str) -> ResponseReturnValue:
    """Unsubscribe the user; without a redirect, which mail programs do not follow (RFC 8058, section 3.1)."""
    if request.form.get(FIELD) != ONE_CLICK:
        raise BadRequest(f"The body must be {FIELD}={ONE_CLICK}.")
    return _change(token, is_wanted=False)


@pages.post("/<token>/undo")
@public
def subscribe(token: str) -> ResponseReturnValue:
    """Subscribe the user again."""
    return _change(token, is_wanted=True)


def _change(token: str, *, is_wanted: bool) -> ResponseReturnValue:
    subscription = find_subscription(token)
    subscription.change(is_wanted)
    commit_and_keep()
    return render_template("accounts/unsubscribe.html", subscription=subscription, token=token, is_wanted=is_wanted)
