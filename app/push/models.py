"""The table of the devices that users have registered for push messages."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.accounts import User
from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base
from flask_belfry.db.columns import UtcDateTime, text_enum

MAX_TOKEN_CHARACTERS = 500
MAX_DEVICE_NAME_CHARACTERS = 80


class DeviceKind(StrEnum):
    """What identifies an installation of the application at FCM."""

    TOKEN = "token"  # noqa: S105 - a registration token
    FID = "fid"  # a Firebase installation id, which replaces it


class Device(Base):
    """A device of a user. The token is a secret: who has it can be sent messages by any sender of the project."""

    __tablename__ = "devices"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True, active_history=True)
    kind: Mapped[DeviceKind] = mapped_column(text_enum(DeviceKind))
    token: Mapped[str] = mapped_column(sa.String(MAX_TOKEN_CHARACTERS), unique=True)
    name: Mapped[str] = mapped_column(sa.String(MAX_DEVICE_NAME_CHARACTERS), default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    last_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)

    user: Mapped[User] = relationship()

    __table_args__ = ({"sqlite_autoincrement": True},)
