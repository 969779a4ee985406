"""The command group `flask mail`."""

from __future__ import annotations

import sys
from typing import Any

import click
from flask import current_app
from sqlalchemy.exc import DBAPIError

from flask_belfry.core.clock import utc_now
from flask_belfry.core.commands import CommandGroup, OneLineError, as_json_option, echo_json
from flask_belfry.core.database_errors import database_problem
from flask_belfry.core.errors import AppError
from flask_belfry.db import db, table_of
from flask_belfry.db.columns import new_id
from flask_belfry.db.pagination import MAX_LIMIT
from flask_belfry.mail import domain_holds, previews, queries, services, transport
from flask_belfry.mail import suppressions as service
from flask_belfry.mail.bounces import (
    MAX_MESSAGE_BYTES,
    EarlyBounceError,
    UnknownBounceError,
    UnreadableBounceError,
    record_bounce,
)
from flask_belfry.mail.emails import TEST_MESSAGE
from flask_belfry.mail.fields import hold_fields, suppression_fields
from flask_belfry.mail.models import EmailMessage, MailEntry, MailState
from flask_belfry.mail.preparation import message_for
from flask_belfry.mail.recipients import check_email
from flask_belfry.mail.registry import kinds
from flask_belfry.mail.search import parse

commands = CommandGroup("mail", help="Lists, shows, previews and resends mails; sends a test message; reads bounces.")

PARTS = ("subject", "text", "html")
# As mail servers expect of programs to which they pipe mail: see sysexits.h.
STATUSES: dict[type[AppError | DBAPIError], int] = {
    UnreadableBounceError: 65,
    UnknownBounceError: 67,
    EarlyBounceError: 75,
    DBAPIError: 75,
}
_HIDDEN = frozenset({"recipient"})


@commands.command("list")
@click.argument("query", required=False, default="")
@click.option("--state", type=click.Choice([state.value for state in MailState]))
@click.option("--kind", help="Only mails of this kind; * stands for any characters.")
@click.option("--text", help="The beginning of a recipient, kind or key, or a part of an error.")
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=25, show_default=True)
@click.option("--cursor", help="Continue a list where it stopped.")
@as_json_option
def list_(query: str, as_json: bool, limit: int, cursor: str | None, **filters: str | None) -> None:
    """List mails, newest first. QUERY is a search, such as 'state:failed to:*@example.org since:2h "text"'."""
    page = queries.find_mails(parse(query, filters, now=utc_now()), limit=limit, cursor=cursor)
    if page.searched_to:
        click.echo(f"searched back to {page.searched_to:%Y-%m-%d %H:%M:%S} UTC", err=True)
    if page.next_cursor:
        click.echo(f"continue with --cursor {page.next_cursor}", err=True)
    if as_json:
        return echo_json([_fields(row) for row in page.items])
    for row in page.items:
        click.echo(f"{row.id}  {row.state.value:<10}  {row.kind:<28}  {', '.join(row.recipients) or '-'}")
    return None


@commands.command("show")
@click.argument("mail_id", metavar="ID")
@as_json_option
def show(mail_id: str, as_json: bool) -> None:
    """Show one mail."""
    fields = _fields(queries.get_mail(mail_id))
    if as_json:
        return echo_json(fields)
    for name, value in fields.items():
        click.echo(f"{name:<16}{'-' if value is None else value}")
    return None


@commands.command("resend")
@click.argument("mail_id", metavar="ID", required=False)
@click.option(
    "--filter",
    "query",
    help="All mails that match this search, such as 'kind:reservation-* since:2h': the failed ones, unless it names a "
    "state.",
)
def resend(mail_id: str | None, query: str | None) -> None:
    """Send one mail again, or all that match --filter."""
    if (mail_id is None) == (query is None):
        raise click.UsageError("give either an id or --filter")
    if mail_id is not None:
        job_id = services.resend(mail_id)
        db.session.commit()
        return click.echo(f"enqueued as job {job_id}")
    matching, number, after = parse(query or "", now=utc_now()), 0, None
    while True:
        resent, after = services.resend_matching(matching, after)
        db.session.commit()
        number += len(resent)
        if after is None:
            return click.echo(f"{number} enqueued again")


@commands.command("confirm-sent")
@click.argument("mail_id", metavar="ID")
def confirm_sent(mail_id: str) -> None:
    """Mark an uncertain mail as sent, which is known to have arrived."""
    services.confirm_sent(mail_id)
    db.session.commit()
    click.echo("marked as sent")


@commands.command("preview")
@click.argument("name", required=False)
@click.option("--part", type=click.Choice((*PARTS, "source")), default="text", show_default=True)
@as_json_option
def preview(name: str | None, part: str, as_json: bool) -> None:
    """Print a mail with sample data; without NAME, list the names."""
    if name is None:
        names = [kind.name for kind in kinds()]
        return echo_json(names) if as_json else click.echo("\n".join(names))
    if part == "source" and not as_json:
        return click.echo(previews.preview_source(name))
    mail = previews.preview(name)
    return echo_json({each: getattr(mail, each) for each in PARTS}) if as_json else click.echo(getattr(mail, part))


@commands.command("test")
@click.argument("email")
def test(email: str) -> None:
    """Send a test message to ADDRESS, without the ledger, and print the server's reply."""
    if not current_app.config["MAIL_ENABLED"]:
        raise click.ClickException("MAIL_ENABLED is false: mail is not sent")
    recipient = check_email(email)
    if recipient.problem is not None:
        raise click.ClickException(f"{email}: {recipient.problem}")
    server = current_app.config["MAIL_SERVER"] or "the development inbox"
    id = new_id()
    entry = MailEntry(id, TEST_MESSAGE, [recipient.email], message_id=services.new_message_id(id))
    try:
        receipt = transport.deliver_message(message_for(entry, {"server": server}))
    finally:
        transport.close_connections()
    click.echo(f"{server} accepted it: {receipt.reply}")


@commands.command("bounce")
@click.option("--recipient", help="The recipient of the message's envelope; by default its headers name it.")
def bounce(recipient: str | None) -> None:
    """Read a message to the bounce address from stdin, and set the mail that it reports to bounced.

    The exit status is 65 if the message cannot be read, 67 if it names no mail, and 75 if the mail server should try
    again later.
    """
    content = sys.stdin.buffer.read(MAX_MESSAGE_BYTES + 1)
    try:
        recorded = record_bounce(content, recipient)
        db.session.commit()
    except (UnreadableBounceError, UnknownBounceError, EarlyBounceError, DBAPIError) as error:
        message = error.for_operators if isinstance(error, AppError) else database_problem(error)
        status = next(status for kind, status in STATUSES.items() if isinstance(error, kind))
        raise OneLineError(message, status) from error
    click.echo(str(recorded))


@commands.group("suppressions", cls=CommandGroup, invoke_without_command=True)
@click.option("--text", help="The beginning of an email address.")
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=25, show_default=True)
@as_json_option
@click.pass_context
def suppressions(context: click.Context, text: str | None, limit: int, as_json: bool) -> None:
    """List the suppressed email addresses, newest first; `add` and `lift` change them."""
    if context.invoked_subcommand:
        return None
    rows = [suppression_fields(row) for row in service.find_suppressions(text=text, limit=limit).items]
    if as_json:
        return echo_json(rows)
    for row in rows:
        reason = row["reason"] or "-"
        click.echo(f"{row['email']:<40}  {row['source']:<6}  {row['status_code'] or '-':<8}  {reason}")
    return None


@suppressions.command("add")
@click.argument("email")
@click.option("--reason", help="Shown to users; at most 200 characters.")
def add_suppression(email: str, reason: str | None) -> None:
    """Suppress EMAIL: no mail is sent to it until the suppression is lifted."""
    service.add_suppression(email, reason)
    click.echo(f"{email} is suppressed")


@suppressions.command("lift")
@click.argument("email")
def lift_suppression(email: str) -> None:
    """Lift the suppression of EMAIL: mail is sent to it again."""
    service.lift(email)
    click.echo(f"the suppression of {email} is lifted")


@commands.group("holds", cls=CommandGroup, invoke_without_command=True)
@as_json_option
@click.pass_context
def holds(context: click.Context, as_json: bool) -> None:
    """List the held domains, whose mails wait; `lift` sends them."""
    if context.invoked_subcommand:
        return None
    rows = [hold_fields(row) for row in domain_holds.held_domains()]
    if as_json:
        return echo_json(rows)
    for row in rows:
        click.echo(f"{row['domain']:<30}  until {row['held_until']}  {row['last_reply']}")
    return None


@holds.command("lift")
@click.argument("domain")
def lift_hold(domain: str) -> None:
    """Lift the hold of DOMAIN: its mails are sent now."""
    domain_holds.lift_hold(domain)
    click.echo(f"the hold of {domain} is lifted")


def _fields(row: EmailMessage) -> dict[str, Any]:
    names = [column.key for column in table_of(EmailMessage).columns if column.key not in _HIDDEN]
    return {name: getattr(row, name) for name in names}
