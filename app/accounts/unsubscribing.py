"""Opting out of a kind of mail without a login, by the link in its mails (RFC 8058).

The link has a signed token, which names the user and the kind. It does not expire: a person may opt out with any mail
that is still in the mailbox. Replaying it changes nothing, and it allows nothing else.

Other slices register the kinds whose preferences they keep with `on_unsubscribe`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from itsdangerous import BadSignature, URLSafeSerializer

from app.accounts import preferences
from app.accounts.models import User
from app.accounts.preferences import stored_form
from app.web.keys import derived_key
from flask_belfry.core.errors import NotFoundError
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.mail import optional_kinds, unsubscribe_lookup

PURPOSE = "unsubscribe"
MAX_TOKEN_CHARACTERS = 300

Describe = Callable[[str], str | None]
Choose = Callable[[User, str, bool], None]


@dataclass(frozen=True)
class Subscription:
    """A kind of mail that a user may leave.

    Args:
        description: the event that its mails report, such as "A job failed".
        choose: sets whether the user wants them.
    """

    user: User
    kind: str
    description: str
    choose: Choose

    @use_scope(ALL_TENANTS)  # the request has no user
    def change(self, is_wanted: bool) -> None:
        """Subscribe or unsubscribe the user, whose row is locked until the commit. The caller commits."""
        db.session.refresh(self.user, with_for_update={"key_share": True})
        self.choose(self.user, self.kind, is_wanted)


_handlers: dict[str, tuple[Describe, Choose]] = {}


def on_unsubscribe(prefix: str, describe: Describe, choose: Choose) -> None:
    """Register the kinds of mail whose names begin with `prefix`.

    Args:
        prefix: such as `notification-`.
        describe: returns the event that the mails of a kind report, such as "A job failed"; None if there is no such
            kind any more.
        choose: sets whether a user wants mails of a kind, in the current session; it must be idempotent.
    """
    _handlers[prefix] = describe, choose


def unsubscribe_path(user_id: int, kind: str) -> str:
    """Return the path of the page on which a user leaves a kind of mail."""
    return f"/unsubscribe/{_serializer().dumps([user_id, kind])}"


@use_scope(ALL_TENANTS)  # the request has no user
def find_subscription(token: str) -> Subscription:
    """Return what the token of a link names. Raises NotFoundError, without the reason: the token may be forged."""
    user_id, kind = _read(token)
    user = db.session.get(User, user_id)
    handler = next((found for prefix, found in _handlers.items() if kind.startswith(prefix)), None)
    describe, choose = handler or (optional_kinds().get, preferences.choose)
    description = describe(kind)
    # A deleted user has no email address.
    if user is None or not user.email or description is None:
        raise NotFoundError("This link does not work.")
    return Subscription(user, kind, description, choose)


@unsubscribe_lookup
@use_scope(ALL_TENANTS)  # an email address is unique across schools
def paths_of(kind: str, emails: Collection[str]) -> Mapping[str, str]:
    """Return the paths of the pages on which the users with these email addresses leave an optional kind of mail."""
    by_email = {stored_form(email): email for email in emails}
    query = sa.select(User.email, User.id).where(User.email.in_(by_email), User.confirmed_at.is_not(None))
    return {by_email[email]: unsubscribe_path(user_id, kind) for email, user_id in db.session.execute(query)}


def _read(token: str) -> tuple[int, str]:
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise NotFoundError("This link does not work.")
    try:
        values: Any = _serializer().loads(token)
    except BadSignature:
        raise NotFoundError("This link does not work.") from None
    user_id, kind = values
    return user_id, kind


def _serializer() -> URLSafeSerializer:
    return URLSafeSerializer(
        derived_key(PURPOSE), PURPOSE, signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
    )
