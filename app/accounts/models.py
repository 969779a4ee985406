"""Who may come in: users and their access tokens. How they are made and checked stands in services.py and tokens.py."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship, validates

from app.columns import UtcDateTime, text_enum, utc_now
from app.extensions import db
from app.schools import default_school_id
from app.tenancy import OfSchool


class Role(StrEnum):
    """What a user is to the school."""

    ADMIN = "admin"
    STAFF = "staff"
    MEMBER = "member"


STAFF_ROLES = frozenset({Role.ADMIN, Role.STAFF})


def new_nonce() -> str:
    """A new session nonce: sessions that carry another one are over."""
    return str(uuid.uuid4())


class User(OfSchool, db.Model):
    """A person who can log in. `username_key` makes the username unique whatever its case, on both databases."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    # Whoever is put nowhere else belongs to the school of the installation.
    school_id: Mapped[int] = mapped_column(
        sa.ForeignKey("schools.id"), default=default_school_id(), index=True, active_history=True
    )
    username: Mapped[str] = mapped_column(sa.String(40), active_history=True)
    username_key: Mapped[str] = mapped_column(sa.String(40), unique=True)
    email: Mapped[str] = mapped_column(sa.String(254), unique=True, active_history=True)
    name: Mapped[str] = mapped_column(sa.String(120))
    password_hash: Mapped[str] = mapped_column(sa.String(200), active_history=True)
    role: Mapped[Role] = mapped_column(text_enum(Role), default=Role.MEMBER, active_history=True)
    active: Mapped[bool] = mapped_column(default=True, active_history=True)
    time_zone: Mapped[str | None] = mapped_column(sa.String(60))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    session_nonce: Mapped[str] = mapped_column(sa.Uuid(as_uuid=False), default=new_nonce)

    # Without AUTOINCREMENT, SQLite gives the id of the last row to the next one once that row is deleted.
    __table_args__ = {"sqlite_autoincrement": True}

    @validates("username")
    def _keep_username_key(self, _: str, username: str) -> str:
        self.username_key = username.lower()
        return username

    @validates("email")
    def _lower_email(self, _: str, email: str) -> str:
        return email.lower()

    @property
    def is_staff(self) -> bool:
        """Whether the user works at the school."""
        return self.role in STAFF_ROLES

    # What Flask-Login asks of a user.

    @property
    def is_authenticated(self) -> bool:
        """Whether this is somebody, and still welcome."""
        return self.active

    @property
    def is_active(self) -> bool:
        """Whether the user may log in."""
        return self.active

    @property
    def is_anonymous(self) -> bool:
        """False: nobody has no row."""
        return False

    def get_id(self) -> str:
        """What a session keeps: it is void once the nonce has changed."""
        return f"{self.id}:{self.session_nonce}"


class AccessToken(db.Model):
    """A key to the API. Only its SHA-256 is kept: who reads the table cannot use it."""

    __tablename__ = "access_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(sa.String(80))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime, active_history=True)

    user: Mapped[User] = relationship()
