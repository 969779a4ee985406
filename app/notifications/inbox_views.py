"""The inbox of a user, and the bell of the layout with the number of unread notifications."""

from __future__ import annotations

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.accounts import acting_user, confirmed_user
from app.notifications import queries
from flask_belfry.core.access import public
from flask_belfry.db import db

# `inbox` is the development inbox of mails.
pages = Blueprint("notification_inbox", __name__, url_prefix="/inbox")


@pages.get("")
def list_() -> ResponseReturnValue:
    """Show the user's notifications, newest first."""
    page = queries.inbox(acting_user(), cursor=request.args.get("cursor"))
    return render_template(
        "notifications/inbox.html",
        deliveries=page.items,
        next_cursor=page.next_cursor,
        unread=queries.unread_count(acting_user()),
    )


@pages.get("/<uuid:delivery_id>")
def show(delivery_id: object) -> ResponseReturnValue:
    """Show a notification to the user. The page marks it as read when it is visible: a browser may load it before."""
    delivery = queries.inbox_entry(acting_user(), str(delivery_id))
    return render_template("notifications/message.html", delivery=delivery)


@pages.post("/<uuid:delivery_id>/read")
def read(delivery_id: object) -> ResponseReturnValue:
    """Mark a notification as read. The script of its page gets nothing but the event that refreshes the bell."""
    queries.mark_read(acting_user(), str(delivery_id))
    db.session.commit()
    if "HX-Request" in request.headers:
        return make_response("", 200, {"HX-Trigger": "read"})
    return redirect(url_for("notification_inbox.show", delivery_id=delivery_id), 303)


@pages.post("/read")
def read_all() -> ResponseReturnValue:
    """Mark all of the user's notifications as read."""
    count = queries.mark_all_read(acting_user())
    db.session.commit()
    flash(f"{count:,} marked as read." if count else "You have read all of them.", "success")
    return redirect(url_for("notification_inbox.list_"), 303)


@pages.get("/bell")
@public
def bell() -> ResponseReturnValue:
    """Return only the bell, which every page polls: 304 while the number is the same.

    A poll is not a use of the session. After the session it changes nothing: the login page would replace what the user
    is typing.
    """
    unread = unread_notifications()
    if unread is None:
        return make_response("", 200, {"HX-Reswap": "none"})
    answer = make_response(render_template("notifications/_bell.html", unread=unread))
    answer.add_etag()
    return answer.make_conditional(request)


def unread_notifications() -> int | None:
    """Return how many the user has not read; None for visitors, and for users who have no inbox yet."""
    user = confirmed_user()
    return None if user is None else queries.unread_count(user)
