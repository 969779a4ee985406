"""The pages of the mail ledger and of the previews."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry import live
from flask_belfry.changes.host import authorized
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError, NotFoundError
from flask_belfry.core.text import query_text
from flask_belfry.db import db
from flask_belfry.mail import previews, queries, services
from flask_belfry.mail.errors import MailError, MailStateError, UnknownMailError
from flask_belfry.mail.frames import html_frame, text_frame
from flask_belfry.mail.models import MailState
from flask_belfry.mail.registry import Skip
from flask_belfry.mail.rendering import Rendered
from flask_belfry.mail.search import MAILS, parse
from flask_belfry.mail.suppressions import suppressed_among
from flask_belfry.search import PARAMETER, Query, complete, list_context, list_response

pages = Blueprint("mail", __name__, template_folder="templates", url_prefix="/mails")

STATES = [state.value for state in MailState]
PARTS = ("html", "text", "source")


@pages.get("")
@authorized("mails.view")
def list_() -> ResponseReturnValue:
    """List the mails that match the search `q`, newest first."""
    return list_response("mail/list.html", _list_context())


@pages.get("/live")
@authorized("mails.view")
def list_live() -> ResponseReturnValue:
    """Return the part of the list that is updated live."""
    return live.respond("mail/_mails.html", _list_context)


@pages.get("/completions")
@authorized("mails.view")
def completions() -> ResponseReturnValue:
    """Return how the search `q` may continue."""
    return render_template("mail/_completions.html", completions=complete(MAILS, request.args.get("q", "")))


@pages.post("/resend")
@authorized("mails.change")
def resend_matching() -> ResponseReturnValue:
    """Send the mails again that match the search `q`."""
    text = request.form.get("q", "")
    try:
        resent, next_id = services.resend_matching(parse(text, now=utc_now()))
    except InvalidInputError as error:
        db.session.rollback()
        flash(error.message, "error")
    else:
        db.session.commit()
        number = f"{len(resent):,} mail{' is' if len(resent) == 1 else 's are'}"
        more = " More mails match: send them again too." if next_id else ""
        flash(f"{number} enqueued again.{more}", "success" if resent else "warning")
    return redirect(url_for("mail.list_", q=text or None))


@pages.get("/<uuid:mail_id>")
@authorized("mails.view")
def detail(mail_id: UUID) -> ResponseReturnValue:
    """Show a mail; `part` in the query selects html, text or source."""
    requested = request.args.get("part")
    part = requested if requested in PARTS else PARTS[0]
    return render_template("mail/detail.html", part=part, **_detail_context(mail_id))


@pages.get("/<uuid:mail_id>/live")
@authorized("mails.view")
def detail_live(mail_id: UUID) -> ResponseReturnValue:
    """Return the part of the details that is updated live."""
    return live.respond("mail/_detail.html", partial(_detail_context, mail_id))


@pages.post("/<uuid:mail_id>/resend")
@authorized("mails.change")
def resend(mail_id: UUID) -> ResponseReturnValue:
    """Send a mail again."""
    try:
        services.resend(str(mail_id))
    except MailStateError as error:
        db.session.rollback()
        flash(f"The mail was not sent again: {error.message}.", "error")
    else:
        db.session.commit()
        flash("The mail is enqueued again.", "success")
    return redirect(url_for("mail.detail", mail_id=mail_id))


@pages.post("/<uuid:mail_id>/confirm-sent")
@authorized("mails.change")
def confirm_sent(mail_id: UUID) -> ResponseReturnValue:
    """Record that a mail which may have been sent was."""
    try:
        services.confirm_sent(str(mail_id))
    except MailStateError as error:
        db.session.rollback()
        flash(f"The mail was not marked as sent: {error.message}.", "error")
    else:
        db.session.commit()
        flash("The mail is marked as sent.", "success")
    return redirect(url_for("mail.detail", mail_id=mail_id))


@pages.get("/<uuid:mail_id>/html")
@authorized("mails.view")
def message_html(mail_id: UUID) -> ResponseReturnValue:
    """Return the HTML of a mail with the current data."""
    return _frame_of(mail_id, "html")


@pages.get("/<uuid:mail_id>/<any(text, source):part>")
@authorized("mails.view")
def message_part(mail_id: UUID, part: str) -> ResponseReturnValue:
    """Return the text or the source of a mail with the current data."""
    return _frame_of(mail_id, part)


def _frame_of(mail_id: UUID, part: str) -> ResponseReturnValue:
    mail = queries.get_mail(mail_id)
    try:
        rendered = previews.render_mail(mail)
        if part == "source" and isinstance(rendered, Rendered):
            return text_frame(previews.source_of(mail, rendered))
    except MailError as error:
        return text_frame(error.message)
    if rendered is None:
        return text_frame("The data of this mail was deleted, so it cannot be shown.")
    if isinstance(rendered, Skip):
        return text_frame(f"This mail would not be sent now: {rendered.reason}.")
    return html_frame(rendered.html) if part == "html" else text_frame(f"{rendered.subject}\n\n{rendered.text}")


@pages.get("/previews", endpoint="previews")
@authorized("mails.view")
def previews_() -> ResponseReturnValue:
    """List all kinds of mail; `name` and `part` in the query select the preview."""
    kinds = previews.list_previews()
    name, part = request.args.get("name"), request.args.get("part")
    return render_template(
        "mail/previews.html",
        previews=kinds,
        selected=next((preview for preview in kinds if preview.name == name), None),
        part=part if part in PARTS else PARTS[0],
    )


@pages.get("/previews/<name>/<any(html, text, source):part>")
@authorized("mails.view")
def preview(name: str, part: str) -> ResponseReturnValue:
    """Return one part of a preview, for a frame."""
    try:
        if part == "source":
            return text_frame(previews.preview_source(name))
        rendered = previews.preview(name)
    except UnknownMailError as error:
        raise NotFoundError("There is no mail with this name.") from error
    except MailError as error:
        return text_frame(error.message)
    return html_frame(rendered.html) if part == "html" else text_frame(f"{rendered.subject}\n\n{rendered.text}")


def _list_context() -> dict[str, Any]:
    query, page, context = list_context(MAILS, _given_query, queries.find_mails, STATES, queries.counts_by_state)
    matching = queries.count(query) if query else None
    return context | {
        "mails": page.items,
        "matching": matching,
        "count_limit": queries.COUNT_LIMIT,
        "resent_together": _resent_together(query, matching) if matching else None,
    }


def _resent_together(query: Query, matching: tuple[int, bool]) -> tuple[str, int, bool] | None:
    """Return which of the mails that match are sent again together: their search, how many they are, and whether there
    may be more; None without any.

    Args:
        query: the search.
        matching: how many match, and whether there may be more.
    """
    wanted = query.values.get("state", frozenset([MailState.FAILED]))
    states = wanted & services.RESENT_TOGETHER
    if not states or not matching[0]:
        return None
    resent = query.having("state", *sorted(states))
    number, has_more = matching if states == query.values.get("state") else queries.count(resent)
    return (str(resent), number, has_more) if number else None


def _given_query() -> Query:
    """Return the search of a request: `q`, and the parameters that links have, which are terms too."""
    state = request.args.get("state")
    given = {name: query_text(name) for name in ("kind", "to", "subject", "text")}
    return parse(request.args.get(PARAMETER, ""), given | {"state": state if state in STATES else None}, now=utc_now())


def _detail_context(mail_id: UUID) -> dict[str, Any]:
    mail = queries.get_mail(mail_id)
    return {
        "mail": mail,
        "can_resend": services.can_resend(mail),
        "can_confirm_sent": services.can_confirm_sent(mail),
        "is_live": queries.is_in_progress(mail),
        "answers": queries.answers_of(mail),
        "suppressed": suppressed_among(set(mail.recipients)),
    }
