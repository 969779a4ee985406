"""The pages of the development inbox: what went over SMTP to the local catcher, and reached nobody."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, current_app, render_template, request
from flask.typing import ResponseReturnValue

from app.accounts import require_role
from app.mail import inbox_store
from app.mail.frames import html_frame, text_frame

pages = Blueprint("inbox", __name__, url_prefix="/dev/inbox")

PARTS = ("html", "text", "headers", "source")


@pages.get("")
@require_role("staff", "admin")
def list_() -> ResponseReturnValue:
    """The caught mails, newest first."""
    return render_template("mail/inbox.html", messages=inbox_store.list_mails(_folder()), message=None)


@pages.get("/<key>")
@require_role("staff", "admin")
def message(key: str) -> ResponseReturnValue:
    """One mail; `part` in the query chooses what of it: html, text, headers or source."""
    mail = inbox_store.get_mail(_folder(), key)
    wanted = request.args.get("part")
    shown = wanted if wanted in PARTS else "html"
    return render_template(
        "mail/inbox_message.html",
        messages=inbox_store.list_mails(_folder()),
        message=mail,
        part="text" if shown == "html" and not mail.has_html else shown,
    )


@pages.get("/<key>/<any(html, text, headers, source):part>")
@require_role("staff", "admin")
def part(key: str, part: str) -> ResponseReturnValue:
    """One part of a mail by itself."""
    mail = inbox_store.get_mail(_folder(), key)
    if part == "html":
        return html_frame(mail.html)
    if part == "headers":
        return text_frame("\n".join(f"{name}: {value}" for name, value in mail.headers))
    return text_frame(mail.text if part == "text" else mail.source)


def _folder() -> Path:
    return Path(current_app.instance_path) / "inbox"
