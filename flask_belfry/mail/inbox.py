"""The pages of the development inbox: what went over SMTP to the local catcher, and reached nobody."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from ipaddress import ip_address
from pathlib import Path
from typing import ParamSpec

from flask import Blueprint, current_app, render_template, request
from flask.typing import ResponseReturnValue

from flask_belfry.changes.host import authorized
from flask_belfry.core.access import public
from flask_belfry.mail import inbox_store
from flask_belfry.mail.frames import html_frame, text_frame

pages = Blueprint("inbox", __name__, template_folder="templates", url_prefix="/dev/inbox")

P = ParamSpec("P")
PARTS = ("html", "text", "headers", "source")


@pages.app_template_global()
def inbox_is_open() -> bool:
    """Whether everyone may read the inbox: in development, on this machine, where its mails are the reader's own."""
    address = request.remote_addr
    return current_app.config["APP_ENV"] == "development" and bool(address) and ip_address(address).is_loopback


def open_on_this_machine(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Opens a view to everyone where `inbox_is_open`, and to staff elsewhere."""
    for_staff = authorized("inbox.view")(view)

    @public
    @wraps(view)
    def opened(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        return view(*args, **kwargs) if inbox_is_open() else for_staff(*args, **kwargs)

    return opened


@pages.get("")
@open_on_this_machine
def list_() -> ResponseReturnValue:
    """The caught mails, newest first."""
    return render_template("mail/inbox.html", messages=inbox_store.list_mails(_folder()), message=None)


@pages.get("/<key>")
@open_on_this_machine
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
@open_on_this_machine
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
