"""The pages of the development inbox: the mails that `catcher` received instead of a real SMTP server."""

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
    """Return whether the inbox is open without login: in development, for requests from this machine."""
    client = request.remote_addr
    return current_app.config["APP_ENV"] == "development" and bool(client) and ip_address(client).is_loopback


def open_on_this_machine(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Allow a view to everyone if `inbox_is_open`, else to users whom the host allows `inbox.view`."""
    restricted = authorized("inbox.view")(view)

    @public
    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        return view(*args, **kwargs) if inbox_is_open() else restricted(*args, **kwargs)

    return guarded


@pages.get("")
@open_on_this_machine
def list_() -> ResponseReturnValue:
    """List the mails, newest first."""
    return render_template("mail/inbox.html", messages=inbox_store.list_mails(_folder()), message=None)


@pages.get("/<key>")
@open_on_this_machine
def message(key: str) -> ResponseReturnValue:
    """Show a mail; `part` in the query selects html, text, headers or source."""
    mail = inbox_store.get_mail(_folder(), key)
    requested = request.args.get("part")
    shown = requested if requested in PARTS else "html"
    return render_template(
        "mail/inbox_message.html",
        messages=inbox_store.list_mails(_folder()),
        message=mail,
        part="text" if shown == "html" and not mail.has_html else shown,
    )


@pages.get("/<key>/<any(html, text, headers, source):part>")
@open_on_this_machine
def part(key: str, part: str) -> ResponseReturnValue:
    """Return one part of a mail, for a frame."""
    mail = inbox_store.get_mail(_folder(), key)
    if part == "html":
        return html_frame(mail.html)
    if part == "headers":
        return text_frame("\n".join(f"{name}: {value}" for name, value in mail.headers))
    return text_frame(mail.text if part == "text" else mail.source)


def _folder() -> Path:
    return Path(current_app.instance_path) / "inbox"
