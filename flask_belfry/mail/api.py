"""The API of mails: the application makes the blueprint, and `add_endpoints` adds the endpoints to it.

Each of them asks the host whether the requester may do its action, before it reads the request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask_smorest import Blueprint
from marshmallow import validate

from flask_belfry.changes.host import authorized
from flask_belfry.core.clock import utc_now
from flask_belfry.db import commit_and_keep, db
from flask_belfry.mail import queries, services, suppressions
from flask_belfry.mail.fields import mail_fields, suppression_fields
from flask_belfry.mail.models import EMAIL_CHARACTERS, KIND_CHARACTERS, MailState, SuppressionSource
from flask_belfry.mail.search import parse
from flask_belfry.mail.suppressions import CHANGE, REASON_CHARACTERS
from flask_belfry.schemas import Moment, QueryOfPage, Schema, check_control_characters, page_response, page_schema
from flask_belfry.search.terms import MAX_CHARACTERS

View = Callable[..., Any]

VIEW, CHANGE_MAIL = "mails.view", "mails.change"
STATES = [state.value for state in MailState]


def _text(description: str, characters: int = 200) -> ma.fields.String:
    return ma.fields.String(
        validate=[validate.Length(1, characters), check_control_characters], metadata={"description": description}
    )


class MailSchema(Schema):
    """A mail of the ledger, without what it says."""

    id = ma.fields.UUID(required=True)
    kind = ma.fields.String(required=True)
    recipients = ma.fields.List(ma.fields.String(), required=True)
    state = ma.fields.String(required=True, validate=validate.OneOf(STATES))
    subject = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "What it is about, such as `reservation/7`."}
    )
    reply = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The reply with which the server accepted it."}
    )
    last_error = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The last error, or why it was not sent."}
    )
    attempts = ma.fields.Integer(required=True)
    uncertain_count = ma.fields.Integer(
        required=True, metadata={"description": "After how many attempts it was unknown whether it was sent."}
    )
    job_id = ma.fields.UUID(required=True, allow_none=True)
    created_at = ma.fields.String(required=True, metadata={"format": "date-time"})
    sent_at = ma.fields.String(required=True, allow_none=True, metadata={"format": "date-time"})
    bounced_at = ma.fields.String(required=True, allow_none=True, metadata={"format": "date-time"})


class MailsSchema(page_schema(MailSchema)):
    """A page of mails."""

    searched_to = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={
            "format": "date-time",
            "description": "null: all mails were compared. Otherwise those created since then, and `next_cursor` "
            "continues with older ones, also when no mail of this page matches.",
        },
    )


class MailFilterSchema(Schema):
    """Filters of mails."""

    q = _text(
        'A search, such as `state:failed kind:notification-* to:*@example.org since:2h "text"`. The other filters are '
        "terms of it.",
        MAX_CHARACTERS,
    )
    state = ma.fields.String(validate=validate.OneOf(STATES))
    kind = _text("The kind; `*` stands for any characters.", KIND_CHARACTERS)
    to = _text("The recipient; `*` stands for any characters.", EMAIL_CHARACTERS)
    subject = _text("What the mail is about: a type, or a type and an id, such as `reservation/7`.")
    since = Moment(metadata={"description": "Created at this time or later."})
    text = _text("The beginning of a recipient, kind or key, an id, or a part of an error.")


class MailQuery(QueryOfPage, MailFilterSchema):
    """The query parameters of the list of mails."""


class ResendManySchema(MailFilterSchema):
    """Which mails are sent again: the failed ones, unless a state is given."""

    cursor = ma.fields.UUID(metadata={"description": "`next_cursor` of the previous response."})


class ResentManySchema(Schema):
    """What became of the request."""

    resent = ma.fields.Integer(required=True)
    next_cursor = ma.fields.UUID(
        required=True,
        allow_none=True,
        metadata={"description": "More mails match: repeat the request with it as `cursor`. null when all were sent."},
    )


class SuppressionQuery(QueryOfPage):
    """The query parameters of the list."""

    text = ma.fields.String(
        validate=validate.Length(max=EMAIL_CHARACTERS), metadata={"description": "The beginning of an email address."}
    )


class SuppressionSchema(Schema):
    """A suppressed email address."""

    id = ma.fields.UUID(required=True)
    email = ma.fields.String(required=True)
    status_code = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The enhanced status code (RFC 3463) of the refusal."}
    )
    reason = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The server's reply, or the reason of an admin."}
    )
    source = ma.fields.String(required=True, validate=validate.OneOf([source.value for source in SuppressionSource]))
    created_at = ma.fields.String(required=True, metadata={"format": "date-time"})
    mail_id = ma.fields.UUID(required=True, allow_none=True, metadata={"description": "The mail that was refused."})
    created_by = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The name of the admin who added it."}
    )


class NewSuppressionSchema(Schema):
    """An email address to suppress."""

    email = ma.fields.String(required=True, validate=[validate.Length(1, EMAIL_CHARACTERS), check_control_characters])
    reason = ma.fields.String(
        load_default=None,
        allow_none=True,
        validate=[validate.Length(max=REASON_CHARACTERS), check_control_characters],
        metadata={"description": "Shown to users."},
    )


def add_endpoints(blueprint: Blueprint) -> None:
    """Add the endpoints to a blueprint of the application. The host authorizes `mails.view`, `mails.change` and
    `mails.suppress`."""
    mails, mail = "/mails", "/mails/<uuid:mail_id>"
    found: View = blueprint.response(200, MailsSchema)(list_mails)
    found = blueprint.arguments(MailQuery, location="query")(found)
    resent: View = blueprint.response(200, ResentManySchema)(resend_matching)
    resent = blueprint.arguments(ResendManySchema)(resent)
    blueprint.route(mails, methods=["GET"])(authorized(VIEW)(found))
    blueprint.route(f"{mails}/resend", methods=["POST"])(authorized(CHANGE_MAIL)(resent))
    for path, method, action, function in (
        (mail, "GET", VIEW, get_mail),
        (f"{mail}/resend", "POST", CHANGE_MAIL, resend),
        (f"{mail}/confirm-sent", "POST", CHANGE_MAIL, confirm_sent),
    ):
        view: View = blueprint.response(200, MailSchema)(function)
        if method == "POST":
            view = blueprint.alt_response(409, description="Its state does not allow it.")(view)
        blueprint.route(path, methods=[method])(authorized(action)(view))
    all_, one = "/mails/suppressions", "/mails/suppressions/<uuid:suppression_id>"
    listed: View = blueprint.response(200, page_schema(SuppressionSchema))(list_suppressions)
    listed = blueprint.arguments(SuppressionQuery, location="query")(listed)
    added: View = blueprint.response(201, SuppressionSchema)(add_suppression)
    added = blueprint.arguments(NewSuppressionSchema)(added)
    added = blueprint.alt_response(409, description="It is suppressed already.")(added)
    lifted: View = blueprint.response(204)(lift_suppression)
    blueprint.route(all_, methods=["GET"])(authorized(VIEW)(listed))
    blueprint.route(all_, methods=["POST"])(authorized(CHANGE)(added))
    blueprint.route(one, methods=["DELETE"])(authorized(CHANGE)(lifted))


def list_mails(query: dict[str, Any]) -> Mapping[str, Any]:
    """List mails, newest first"""
    limit, cursor, text = query.pop("limit"), query.pop("cursor"), query.pop("q", "")
    page = queries.find_mails(parse(text, query, now=utc_now()), limit=limit, cursor=cursor)
    return {
        **page_response(page),
        "items": [mail_fields(mail) for mail in page.items],
        "searched_to": page.searched_to and page.searched_to.isoformat(),
    }


def resend_matching(filters: dict[str, Any]) -> Mapping[str, Any]:
    """Send mails again that match a filter, the oldest first, at most 500"""
    after, text = filters.pop("cursor", None), filters.pop("q", "")
    resent, next_cursor = services.resend_matching(parse(text, filters, now=utc_now()), after and str(after))
    db.session.commit()
    return {"resent": len(resent), "next_cursor": next_cursor}


def get_mail(mail_id: UUID) -> Mapping[str, Any]:
    """Get a mail, without what it says"""
    return mail_fields(queries.get_mail(mail_id))


def resend(mail_id: UUID) -> Mapping[str, Any]:
    """Send a mail again"""
    services.resend(str(mail_id))
    return _committed(mail_id)


def confirm_sent(mail_id: UUID) -> Mapping[str, Any]:
    """Mark a mail as sent that may have been sent, and is known to have arrived"""
    services.confirm_sent(str(mail_id))
    return _committed(mail_id)


def _committed(mail_id: UUID) -> Mapping[str, Any]:
    """Commit, and return the mail as it was before workers see the change."""
    mail = queries.get_mail(mail_id)
    commit_and_keep()
    return mail_fields(mail)


def list_suppressions(query: dict[str, Any]) -> Mapping[str, Any]:
    """List the suppressed email addresses, newest first"""
    page = suppressions.find_suppressions(**query)
    return {**page_response(page), "items": [suppression_fields(row) for row in page.items]}


def add_suppression(values: dict[str, Any]) -> Mapping[str, Any]:
    """Suppress an email address: no mail is sent to it until the suppression is lifted"""
    return suppression_fields(suppressions.add_suppression(**values))


def lift_suppression(suppression_id: UUID) -> None:
    """Lift a suppression: mail is sent to the email address again"""
    suppressions.lift_suppression(suppressions.get_suppression(suppression_id))
