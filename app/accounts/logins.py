"""From where people log in: a mail tells them of an address that they have not used before, and they say whose it was.

Addresses are compared as for limits: of IPv6 the network that one customer has. Where the server is told none, as
behind a Unix socket without TRUSTED_PROXIES, nothing is noted and nobody is blocked.
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

# An address that nobody used for so long may be somebody else's by now.
KEPT = timedelta(days=365)
# Of one user: who is on the way gets another address every day.
MOST_KEPT = 100

NO_SUCH_LINK = "This link does not work: it has expired, or the IP address was removed."
USED_LINK = "This link was already used: you have answered whether the login was yours."


allow("addresses.change", lambda user, _: is_known_ip_address(user))


def is_not_blocked() -> sa.ColumnElement[bool]:
    """A condition on who logs in: they have not blocked the present address."""
    return ~sa.exists().where(*_here(User.id), LoginAddress.state == AddressState.BLOCKED)


def note(user: User, *, is_registration: bool = False) -> None:
    """Remembers from where a user has just logged in, and tells them by mail of an address that they have not used
    before. The caller commits.

    Who has yet to confirm is told nothing: the mailbox may be somebody else's. The address then is a new one at the
    first login that follows.

    Args:
        user: who. Their row is held by this transaction or made by it, so of several logins at the same time from one
            new address one tells.
        is_registration: whether the user came to be from here.
    """
    if not _network():
        return
    found = db.session.scalar(sa.select(LoginAddress).where(*_here(user.id)))
    if found is not None:
        found.address, found.user_agent, found.last_seen_at = client_ip_address() or "", user_agent(), utc_now()
    elif is_registration:
        _add(user, AddressState.TRUSTED)
    elif user.is_confirmed:
        _notify(_add(user, AddressState.NEW))


@use_scope(ALL_TENANTS)  # who is asked for is only known then
def find(token: str) -> LoginAddress | None:
    """The address that the links of a mail are about, with its user, while they work; looking does not use them."""
    code = codes.find_by_token(CodePurpose.ADDRESS, token)
    if code is None or not code.user.active:
        return None
    whole = joinedload(LoginAddress.user), joinedload(LoginAddress.code)
    return db.session.scalar(sa.select(LoginAddress).options(*whole).where(LoginAddress.code_id == code.id))


def why_link_fails(token: str) -> str:
    """Why the links of a mail do not work."""
    return USED_LINK if codes.was_used(CodePurpose.ADDRESS, token) else NO_SUCH_LINK


@use_scope(ALL_TENANTS)
def trust_by_link(token: str) -> None:
    """It was the user. Commits. Raises InvalidInputError: the link does not work."""
    trust(_use_link(token))


@use_scope(ALL_TENANTS)
def block_by_link(token: str) -> None:
    """It was not the user: see `block`. Commits. Raises InvalidInputError: the link does not work."""
    block(_use_link(token))


def trust(found: LoginAddress) -> None:
    """Takes an address for the user's own, also one that was blocked. Commits."""
    found.state = AddressState.TRUSTED
    _record("user.address_trusted", found)
    db.session.commit()


def block(found: LoginAddress) -> None:
    """Nobody logs in from there as the user, every session and token ends, and so does the password, for whoever it was
    knew it: a mail brings the link to a new one. Commits."""
    # Logins hold the user's row until they commit: they come before what this writes first, or after all of it.
    end_access(found.user)
    if second_factor.was_set_up_since(found.user, found.first_seen_at):
        # It may be theirs: with it the user would be shut out, new password or not.
        second_factor.remove(found.user)
    found.state = AddressState.BLOCKED
    send_code(PASSWORD_RESET, codes.issue(found.user, CodePurpose.RESET))
    _record("user.address_blocked", found)
    db.session.commit()


def forget(found: LoginAddress) -> None:
    """Makes an address one that was never seen. Commits."""
    _record("user.address_forgotten", found)
    db.session.delete(found)
    db.session.commit()


def remove_unconfirmed(user: User) -> None:
    """Removes the addresses that a user had before confirming the email address; the present request's is kept. The
    caller commits."""
    here = _network() if has_request_context() else ""
    statement = sa.delete(LoginAddress).where(LoginAddress.user_id == user.id, LoginAddress.network != here)
    db.session.execute(statement, execution_options={"synchronize_session": False})


def login_addresses_of(user: User, *, cursor: str | None = None) -> Page[LoginAddress]:
    """One page of the user's addresses, the one used last first."""
    query = sa.select(LoginAddress).where(LoginAddress.user_id == user.id)
    return page_by_key(db.session(), query, (LoginAddress.last_seen_at, LoginAddress.id), cursor=cursor)


def get_login_address(user: User, address_id: int) -> LoginAddress:
    """One of the user's addresses. Raises NotFoundError."""
    query = sa.select(LoginAddress).where(LoginAddress.user_id == user.id, LoginAddress.id == address_id)
    found = db.session.scalar(query)
    if found is None:
        raise NotFoundError(f"You have no address #{address_id}.")
    return found


def is_here(found: LoginAddress) -> bool:
    """Whether the present request comes from this address."""
    return found.network == _network()


def is_known_ip_address(user: User) -> bool:
    """Whether the present address is known to be the user's: they said so, or have let the time to deny it pass.

    Whoever has stolen a password can log in from elsewhere; from there they neither trust themselves nor lock out the
    user.
    """
    is_settled = LoginAddress.first_seen_at < utc_now() - codes.lifetime_of(CodePurpose.ADDRESS)
    is_own = sa.or_(
        LoginAddress.state == AddressState.TRUSTED, sa.and_(LoginAddress.state == AddressState.NEW, is_settled)
    )
    return db.session.scalar(sa.select(LoginAddress.id).where(*_here(user.id), is_own)) is not None


def prune_addresses(session: Session) -> int:
    """Forgets addresses that were not used for `KEPT`, and of each user those past the last `MOST_KEPT`; never one that
    is blocked. The caller commits.

    Returns:
        how many were forgotten.
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
    found.address, found.user_agent = client_ip_address() or "", user_agent()
    db.session.add(found)
    return found


def _notify(found: LoginAddress) -> None:
    code = codes.issue(found.user, CodePurpose.ADDRESS)
    found.code = code
    send_new_ip_address(code, found.address, found.user_agent)


def _use_link(token: str) -> LoginAddress:
    """Uses the link up, and gives the address that it is about."""
    found = find(token)
    if found is None or found.code is None or not codes.use(found.code):
        db.session.rollback()
        raise InvalidInputError(why_link_fails(token), {"token": ["invalid or expired"]})
    return found


def _record(action: str, found: LoginAddress) -> None:
    with for_school(found.user.school_id):  # who follows a link is nobody
        audit.record(action, subject_of(found.user), details={"address": found.address})
