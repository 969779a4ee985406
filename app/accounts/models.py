"""The tables of accounts: users, tokens, sessions, message preferences, codes and login IP addresses.

The services are in services.py, tokens.py, sessions.py, preferences.py, codes.py and logins.py.
"""

# pyright: reportIncompatibleVariableOverride=false
# Flask-Security's mixin declares plain types where SQLAlchemy has Mapped ones.

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship, synonym, validates

from app.schools import School, default_school_id
from app.web.proxies import IP_ADDRESS_CHARACTERS, USER_AGENT_CHARACTERS
from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base, db, table_of
from flask_belfry.db.columns import UtcDateTime, text_enum
from flask_belfry.db.tenancy import OfSchool

if TYPE_CHECKING:
    from flask_security import UserMixin
else:
    from flask_login import UserMixin

MAX_USERNAME_CHARACTERS = 40
MAX_EMAIL_CHARACTERS = 254  # RFC 5321, section 4.5.3.1.3, without the angle brackets
MAX_NAME_CHARACTERS = 120
MAX_TIME_ZONE_CHARACTERS = 60
MAX_TOKEN_NAME_CHARACTERS = 80


class Role(StrEnum):
    """The role of a user at the school."""

    ADMIN = "admin"
    STAFF = "staff"
    MEMBER = "member"


STAFF_ROLES = frozenset({Role.ADMIN, Role.STAFF})


class Channel(StrEnum):
    """The channel of a message."""

    MAIL = "mail"
    PUSH = "push"


class CodePurpose(StrEnum):
    """The purpose of a one-time code."""

    CONFIRM = "confirm"
    RESET = "reset"
    IP_ADDRESS = "address"


class AddressState(StrEnum):
    """The user's answer about the IP address of a login."""

    NEW = "new"  # no answer yet
    TRUSTED = "trusted"
    BLOCKED = "blocked"


_IS_CONFIRMED = sa.text("confirmed_at IS NOT NULL")


def new_uniquifier() -> str:
    """Return a value that is stored in a login waiting for its second factor: a new one ends such logins."""
    return str(uuid.uuid4())


class SecurityUser(UserMixin):
    """The base of the methods that Flask-Security calls. The web process replaces its base with Flask-Security's mixin
    (see security.py); the others do not import Flask-Security and its forms."""


class User(OfSchool, SecurityUser, db.Model):
    """A person who can log in. `username_key` makes usernames unique regardless of case on both databases.

    An email address has one confirmed user. Before its confirmation any user can claim it: refusing a second claim
    would reveal users. Columns that begin with `fs_`, `tf_` and `mf_`, and those of logins, are Flask-Security's.
    """

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    # By default the school of the installation.
    school_id: Mapped[int] = mapped_column(
        sa.ForeignKey("schools.id"), default=default_school_id(), index=True, active_history=True
    )
    username: Mapped[str] = mapped_column(sa.String(MAX_USERNAME_CHARACTERS), active_history=True)
    username_key: Mapped[str] = mapped_column(sa.String(MAX_USERNAME_CHARACTERS), unique=True)
    email: Mapped[str] = mapped_column(sa.String(MAX_EMAIL_CHARACTERS), active_history=True)
    # When the user confirmed the email address; without it almost nothing is allowed.
    confirmed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    name: Mapped[str] = mapped_column(sa.String(MAX_NAME_CHARACTERS), active_history=True)
    password_hash: Mapped[str] = mapped_column(sa.String(200), active_history=True)
    role: Mapped[Role] = mapped_column(text_enum(Role), default=Role.MEMBER, active_history=True)
    active: Mapped[bool] = mapped_column(default=True, active_history=True)
    time_zone: Mapped[str | None] = mapped_column(sa.String(MAX_TIME_ZONE_CHARACTERS), active_history=True)
    # Whether the user is not notified of their own changes.
    skips_own_changes: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    # Whether a member of staff may change the jobs and mails of the school, not only see them.
    may_operate: Mapped[bool] = mapped_column(default=False, server_default=sa.false(), active_history=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    fs_uniquifier: Mapped[str] = mapped_column(sa.String(64), default=new_uniquifier, unique=True)
    tf_primary_method: Mapped[str | None] = mapped_column(sa.String(64), active_history=True)
    tf_totp_secret: Mapped[str | None] = mapped_column(sa.String(255))  # encrypted
    tf_last_counter: Mapped[int | None]  # the time step of the last accepted code: each works once
    mf_recovery_codes: Mapped[list[str] | None] = mapped_column(sa.JSON(none_as_null=True))  # hashed
    last_login_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_login_ip: Mapped[str | None] = mapped_column(sa.String(64))
    current_login_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    current_login_ip: Mapped[str | None] = mapped_column(sa.String(64))
    login_count: Mapped[int] = mapped_column(default=0)

    password = synonym("password_hash")  # pyright: ignore[reportAssignmentType]
    school: Mapped[School] = relationship()

    __table_args__ = (
        sa.Index(
            "uq_users_confirmed_email",
            "email",
            unique=True,
            sqlite_where=_IS_CONFIRMED,
            postgresql_where=_IS_CONFIRMED,
        ),
        sa.Index("ix_users_email", "email"),
        # Without AUTOINCREMENT, SQLite reuses the id of the last row after its deletion.
        {"sqlite_autoincrement": True},
    )

    @validates("username")
    def _keep_username_key(self, _: str, username: str) -> str:
        self.username_key = username.lower()
        return username

    @validates("email")
    def _lower_email(self, _: str, email: str) -> str:
        return email.lower()

    @property
    def is_confirmed(self) -> bool:
        """Whether the user has confirmed the email address."""
        return self.confirmed_at is not None

    @property
    def reader_zone(self) -> str | None:
        """The time zone in which the user reads times: their own, or that of the school; None is that of TIMEZONE."""
        return self.time_zone or self.school.time_zone

    @property
    def is_staff(self) -> bool:
        """Whether the user works at the school."""
        return self.role in STAFF_ROLES

    @property
    def is_operator(self) -> bool:
        """Whether the user may change the jobs and mails that they see."""
        return self.role is Role.ADMIN or (self.role is Role.STAFF and self.may_operate)

    @property
    def is_active(self) -> bool:
        """Whether the user may log in."""
        return self.active and not self.school.is_disabled

    @property
    def roles(self) -> list[object]:
        """None, for Flask-Security."""
        return []


_SCHOOLS = table_of(School).c
# `User.reader_zone` in SQL, for statements that read columns of users.
READER_ZONE = sa.func.coalesce(
    User.time_zone, sa.select(_SCHOOLS.time_zone).where(_SCHOOLS.id == User.school_id).scalar_subquery()
)


class AccessToken(db.Model):
    """A login to the API, whose tokens change with every refresh, or a personal token of a script.

    The row is the *family* of all tokens that descend from one login: revoking it ends them all. Only SHA-256 hashes
    are stored, so a copy of the table opens nothing. `family_hash` does not change, so that a used refresh token is
    recognised as one of this family.
    """

    __tablename__ = "access_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(sa.String(MAX_TOKEN_NAME_CHARACTERS))
    # None: a login, which may do what its user may do.
    scopes: Mapped[list[str] | None] = mapped_column(sa.JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    # None: a personal token without an expiry.
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    family_hash: Mapped[str | None] = mapped_column(sa.String(64), unique=True)
    refresh_hash: Mapped[str | None] = mapped_column(sa.String(64))
    refresh_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime, active_history=True)

    user: Mapped[User] = relationship()


class LoginSession(Base):
    """A login in a browser. Its cookies contain an id, of which only the SHA-256 hash is stored."""

    __tablename__ = "login_sessions"

    id: Mapped[int] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)
    last_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    # The IP address and the browser of the login.
    ip_address: Mapped[str | None] = mapped_column("address", sa.String(IP_ADDRESS_CHARACTERS))
    user_agent: Mapped[str | None] = mapped_column(sa.String(USER_AGENT_CHARACTERS))

    user: Mapped[User] = relationship()

    __table_args__ = ({"sqlite_autoincrement": True},)


class MessagePreference(db.Model):
    """Whether a user wants messages of a kind by a channel, if that differs from the default."""

    __tablename__ = "message_preferences"

    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(80), primary_key=True)
    channel: Mapped[Channel] = mapped_column(text_enum(Channel), primary_key=True)
    is_wanted: Mapped[bool]


class AccountCode(db.Model):
    """The code and the link of a mail. Neither is stored: both are derived from `nonce` and SECRET_KEY.

    `expires_at` is empty until the mail is sent: before, the code does not work.
    """

    __tablename__ = "account_codes"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"))
    purpose: Mapped[CodePurpose] = mapped_column(text_enum(CodePurpose))
    nonce: Mapped[str] = mapped_column(sa.String(64))
    token_hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    voided_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    tries: Mapped[int] = mapped_column(default=0)

    user: Mapped[User] = relationship()

    __table_args__ = (
        sa.Index("ix_account_codes_user_id_purpose", "user_id", "purpose"),
        sa.Index("ix_account_codes_created_at", "created_at"),
        {"sqlite_autoincrement": True},
    )


class LoginAddress(Base):
    """An IP address from which a user has logged in. For IPv6 one row is the /64 network of one customer."""

    __tablename__ = "login_addresses"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"))
    # Compared; `ip_address` and `user_agent` are those of the last login, for display.
    network: Mapped[str] = mapped_column(sa.String(IP_ADDRESS_CHARACTERS))
    ip_address: Mapped[str] = mapped_column("address", sa.String(IP_ADDRESS_CHARACTERS))
    user_agent: Mapped[str | None] = mapped_column(sa.String(USER_AGENT_CHARACTERS))
    state: Mapped[AddressState] = mapped_column(text_enum(AddressState), default=AddressState.NEW)
    first_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    last_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    # The code in the mail that asks whether the login was the user's own.
    code_id: Mapped[int | None] = mapped_column(sa.ForeignKey("account_codes.id", ondelete="SET NULL"), index=True)

    user: Mapped[User] = relationship()
    code: Mapped[AccountCode | None] = relationship()

    __table_args__ = (sa.UniqueConstraint("user_id", "network"), {"sqlite_autoincrement": True})
