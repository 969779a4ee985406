"""The IP addresses of logins: a mail notifies the user of a new one and asks whether the login was their own.

IP addresses are compared as in rate limits: for IPv6 by the network of one customer. If the server does not know the
IP address, as behind a Unix socket without TRUSTED_PROXIES, nothing is recorded or blocked.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from flask import has_request_context
from sqlalchemy.orm import Session, joinedload

from app import audit
from app.accounts import codes, second_factor
from app.accounts.emails import PASSWORD_RESET, send_code, send_new_ip_address
from app.accounts.models import AddressState, CodePurpose, LoginAddress, User
from app.accounts.permissions import allow
from app.accounts.services import end_access
from app.web.limiting import client_key
from app.web.proxies import IP_ADDRESS_CHARACTERS, client_ip_address, user_agent
from flask_belfry.changes import for_school, subject_of
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.pagination import Page, page_by_key
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

# After this time an unused IP address may belong to someone else.
KEPT = timedelta(days=365)
# Per user: a traveller has a new IP address every day.
MOST_KEPT = 100

NO_SUCH_LINK = "This link does not work: it has expired, or the IP address was removed."
USED_LINK = "This link was already used: you have already answered whether the login was yours."


allow("addresses.change", lambda user, _: is_known_ip_address(user))


def is_not_blocked() -> sa.ColumnElement[bool]:
    """Return the condition that a user has not blocked the current IP address."""
    return ~sa.exists().where(*_here(User.id), LoginAddress.state == AddressState.BLOCKED)


def note(user: User, *, is_registration: bool = False) -> None:
    """Record the IP address of a login, and notify the user by mail of a new one. The caller commits.

    Users who have not confirmed their email address are not notified, since the mailbox may belong to someone else: the
    IP address is new at their first login after the confirmation.

    Args:
        user: the user. The row is locked or created by this transaction, so that one of several concurrent logins from
            a new IP address notifies.
        is_registration: whether the user has just registered.
    """
    if not _network():
        return
    found = db.session.scalar(sa.select(LoginAddress).where(*_here(user.id)))
    if found is not None:
        found.ip_address, found.user_agent, found.last_seen_at = client_ip_address() or "", user_agent(), utc_now()
    elif is_registration:
        _add(user, AddressState.TRUSTED)
    elif user.is_confirmed:
        _notify(_add(user, AddressState.NEW))


@use_scope(ALL_TENANTS)  # the school is known only after the lookup
def find(token: str) -> LoginAddress | None:
    """Return the IP address of a valid link with its user, or None; this does not use the link."""
    code = codes.find_by_token(CodePurpose.IP_ADDRESS, token)
    if code is None or not code.user.active:
        return None
    whole = joinedload(LoginAddress.user), joinedload(LoginAddress.code)
    return db.session.scalar(sa.select(LoginAddress).options(*whole).where(LoginAddress.code_id == code.id))


def why_link_fails(token: str) -> str:
    """Return the reason why a link does not work."""
    return USED_LINK if codes.was_used(CodePurpose.IP_ADDRESS, token) else NO_SUCH_LINK


@use_scope(ALL_TENANTS)
def trust_by_link(token: str) -> None:
    """Trust the IP address of a link. Commits. Raises InvalidInputError if the link is invalid."""
    trust(_use_link(token))


@use_scope(ALL_TENANTS)
def block_by_link(token: str) -> None:
    """Block the IP address of a link. Commits. Raises InvalidInputError if the link is invalid."""
    block(_use_link(token))


def trust(found: LoginAddress) -> None:
    """Trust an IP address, also one that was blocked. Commits."""
    found.state = AddressState.TRUSTED
    _record("user.address_trusted", found)
    db.session.commit()


def block(found: LoginAddress) -> None:
    """Refuse the user's logins from an IP address, end all sessions and tokens, replace the password, which is known to
    the attacker, and send the link to set a new one. Commits."""
    # Logins lock the user's row until they commit, so they come before all of these writes or after them.
    end_access(found.user)
    if second_factor.was_set_up_since(found.user, found.first_seen_at):
        # The attacker may have set it up: then the user could not log in even with a new password.
        second_factor.remove(found.user)
    found.state = AddressState.BLOCKED
    send_code(PASSWORD_RESET, codes.issue(found.user, CodePurpose.RESET))
    _record("user.address_blocked", found)
    db.session.commit()


def forget(found: LoginAddress) -> None:
    """Forget an IP address: the next login from it counts as new. Commits."""
    _record("user.address_forgotten", found)
    db.session.delete(found)
    db.session.commit()


def remove_unconfirmed(user: User) -> None:
    """Remove the IP addresses from before the confirmation of the email address, except that of this request.

    The caller commits.
    """
    here = _network() if has_request_context() else ""
    statement = sa.delete(LoginAddress).where(LoginAddress.user_id == user.id, LoginAddress.network != here)
    db.session.execute(statement, execution_options={"synchronize_session": False})


def login_addresses_of(user: User, *, cursor: str | None = None) -> Page[LoginAddress]:
    """Return a page of the user's login IP addresses, most recently used first."""
    query = sa.select(LoginAddress).where(LoginAddress.user_id == user.id)
    return page_by_key(db.session(), query, (LoginAddress.last_seen_at, LoginAddress.id), cursor=cursor)


def get_login_address(user: User, login_address_id: int) -> LoginAddress:
    """Return a login IP address of the user. Raises NotFoundError."""
    query = sa.select(LoginAddress).where(LoginAddress.user_id == user.id, LoginAddress.id == login_address_id)
    found = db.session.scalar(query)
    if found is None:
        raise NotFoundError(f"You have no login IP address #{login_address_id}.")
    return found


def is_here(found: LoginAddress) -> bool:
    """Return whether this request comes from the IP address."""
    return found.network == _network()


def is_known_ip_address(user: User) -> bool:
    """Return whether the current IP address is known to be the user's.

    It is if it is trusted, or was not denied within the lifetime of the links.

    An attacker with a stolen password can log in from a new IP address, but can neither trust it nor block the user's.
    """
    is_settled = LoginAddress.first_seen_at < utc_now() - codes.lifetime_of(CodePurpose.IP_ADDRESS)
    is_own = sa.or_(
        LoginAddress.state == AddressState.TRUSTED, sa.and_(LoginAddress.state == AddressState.NEW, is_settled)
    )
    return db.session.scalar(sa.select(LoginAddress.id).where(*_here(user.id), is_own)) is not None


def prune_login_addresses(session: Session) -> int:
    """Delete IP addresses not used for `KEPT`, and for each user all but the last `MOST_KEPT`, but no blocked one. The
    caller commits.

    Returns:
        the number of deleted IP addresses.
    """
    is_blocked = LoginAddress.state == AddressState.BLOCKED
    age = sa.func.row_number().over(partition_by=LoginAddress.user_id, order_by=LoginAddress.last_seen_at.desc())
    ranked = sa.select(LoginAddress.id, age.label("age")).where(~is_blocked).subquery()
    surplus = sa.select(ranked.c.id).where(ranked.c.age > MOST_KEPT)
    is_past = sa.or_(LoginAddress.last_seen_at < utc_now() - KEPT, LoginAddress.id.in_(surplus))
    statement = sa.delete(LoginAddress).where(~is_blocked, is_past).returning(LoginAddress.id)
    return len(session.scalars(statement, execution_options={"synchronize_session": False}).all())


def _network() -> str:
    return client_key()[:IP_ADDRESS_CHARACTERS]


def _here(user_id: sa.SQLColumnExpression[int] | int) -> tuple[sa.ColumnElement[bool], ...]:
    return LoginAddress.user_id == user_id, LoginAddress.network == _network()


def _add(user: User, state: AddressState) -> LoginAddress:
    found = LoginAddress(user=user, network=_network(), state=state)
    found.ip_address, found.user_agent = client_ip_address() or "", user_agent()
    db.session.add(found)
    return found


def _notify(found: LoginAddress) -> None:
    code = codes.issue(found.user, CodePurpose.IP_ADDRESS)
    found.code = code
    send_new_ip_address(code, found.ip_address, found.user_agent)


def _use_link(token: str) -> LoginAddress:
    """Use the link and return its IP address. Raises InvalidInputError."""
    found = find(token)
    if found is None or found.code is None or not codes.use(found.code):
        db.session.rollback()
        raise InvalidInputError(why_link_fails(token), {"token": ["invalid or expired"]})
    return found


def _record(action: str, found: LoginAddress) -> None:
    with for_school(found.user.school_id):  # a request with a link has no user
        audit.record(action, subject_of(found.user), details={"address": found.ip_address})
