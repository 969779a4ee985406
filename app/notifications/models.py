"""The tables of notifications, their recipients and deliveries, and of what users prefer."""

from __future__ import annotations

from datetime import datetime, time
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.accounts import User
from app.directory import Student
from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base
from flask_belfry.db.columns import StorableText, UtcDateTime, UuidText, new_id, text_enum
from flask_belfry.db.tenancy import OfSchool

MAX_TITLE_CHARACTERS = 200
MAX_BODY_CHARACTERS = 5_000
MAX_TIME_ZONE_CHARACTERS = 60


class NotificationType(StrEnum):
    """What a notification is about; users choose by it what they get, and how."""

    ACADEMIC = "academic"
    BEHAVIOR = "behavior"
    PAYMENT = "payment"
    GENERAL = "general"


class NotificationChannel(StrEnum):
    """A way to a person."""

    MAIL = "mail"
    PUSH = "push"
    IN_APP = "in_app"


class NotificationState(StrEnum):
    """The state of a notification."""

    SENDING = "sending"  # accepted: its batch has live jobs
    FINISHED = "finished"  # every delivery has an outcome, or waits for its digest
    CANCELLED = "cancelled"  # what was not delivered by then is not


class ScheduledState(StrEnum):
    """The state of a scheduled notification."""

    SCHEDULED = "scheduled"
    SENT = "sent"
    CANCELLED = "cancelled"


class DeliveryState(StrEnum):
    """The state of a delivery: of one notification to one person by one channel."""

    QUEUED = "queued"  # its job waits, or runs
    HELD = "held"  # until the end of quiet hours, or for the digest: `held_until`
    DEFERRED = "deferred"  # an attempt failed; waits for the next one
    DELIVERED = "delivered"  # accepted by the mail server or FCM, or in the inbox
    FAILED = "failed"
    SKIPPED = "skipped"  # not tried: opted out, no address, no device; `reason` says why
    CANCELLED = "cancelled"
    BOUNCED = "bounced"  # accepted, and reported later as not delivered


class Frequency(StrEnum):
    """When a user wants notifications of a type by a channel."""

    INSTANT = "instant"
    DAILY = "daily"  # in one digest
    OFF = "off"


class NotificationContent:
    """What a notification says, and to whom: the columns that notifications and scheduled ones share.

    `targets` is JSON: lists of ids `users`, `classes` and `students`, of `roles`, and `everyone`. `channels` is a list.
    """

    title: Mapped[str] = mapped_column(sa.String(MAX_TITLE_CHARACTERS))
    body: Mapped[str] = mapped_column(sa.Text)
    type: Mapped[NotificationType] = mapped_column(text_enum(NotificationType))
    # Passes preferences and quiet hours.
    is_critical: Mapped[bool] = mapped_column(default=False)
    # For the application on a device: text by name.
    data: Mapped[dict[str, str]] = mapped_column(sa.JSON)
    targets: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    channels: Mapped[list[str]] = mapped_column(sa.JSON)
    # When it is of no use any more.
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Notification(NotificationContent, OfSchool, Base):
    """A notification that is being sent, or was."""

    __tablename__ = "notifications"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True, default=new_id)
    sender_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"), index=True)
    state: Mapped[NotificationState] = mapped_column(text_enum(NotificationState), active_history=True)
    batch_id: Mapped[str] = mapped_column(UuidText())
    # The job that makes the deliveries of its recipients.
    job_id: Mapped[str] = mapped_column(UuidText())
    # Why FCM refuses its content: no device gets it.
    push_error: Mapped[str | None] = mapped_column(StorableText)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    sender: Mapped[User | None] = relationship()

    __table_args__ = (
        sa.Index("ix_notifications_school_id_id", "school_id", "id"),
        sa.Index("ix_notifications_batch_id", "batch_id"),
    )


class ScheduledNotification(NotificationContent, OfSchool, Base):
    """A notification with a time. It can be changed and cancelled until it is sent."""

    __tablename__ = "scheduled_notifications"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True, default=new_id)
    sender_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"), index=True)
    # The time that people wrote, in the zone of the school then: it stays the same when the rules of the zone change.
    local_time: Mapped[datetime] = mapped_column(sa.DateTime(timezone=False))
    time_zone: Mapped[str] = mapped_column(sa.String(MAX_TIME_ZONE_CHARACTERS))
    send_at: Mapped[datetime] = mapped_column(UtcDateTime, active_history=True)
    state: Mapped[ScheduledState] = mapped_column(text_enum(ScheduledState), active_history=True)
    # Why it was cancelled instead of sent.
    reason: Mapped[str | None] = mapped_column(StorableText)
    job_id: Mapped[str | None] = mapped_column(UuidText())
    notification_id: Mapped[str | None] = mapped_column(sa.ForeignKey("notifications.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, onupdate=utc_now)

    sender: Mapped[User | None] = relationship()

    __table_args__ = (
        sa.Index("ix_scheduled_notifications_school_id_send_at_id", "school_id", "send_at", "id"),
        sa.Index("ix_scheduled_notifications_state_send_at", "state", "send_at"),
    )


class NotificationRecipient(OfSchool, Base):
    """A person whom the targets of a notification name, and the student about whom; or who is left out, and why.

    The rows are written when the notification is sent. A guardian of two students has two, and one delivery by channel.
    """

    __tablename__ = "notification_recipients"

    id: Mapped[int] = mapped_column(primary_key=True)
    notification_id: Mapped[str] = mapped_column(sa.ForeignKey("notifications.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    student_id: Mapped[int | None] = mapped_column(sa.ForeignKey("students.id", ondelete="CASCADE"), index=True)
    left_out: Mapped[str | None] = mapped_column(sa.String(200))

    user: Mapped[User] = relationship()
    student: Mapped[Student | None] = relationship()

    __table_args__ = (
        sa.Index("ix_notification_recipients_notification_id_user_id", "notification_id", "user_id"),
        {"sqlite_autoincrement": True},
    )


# As each database is asked: it uses the index only if the query has the same condition.
_IS_PASSING, _IS_PASSING_IN_SQLITE = sa.text("is_passing"), sa.text("is_passing = 1")


def _index_of_set(column: str) -> sa.Index:
    is_set = sa.text(f"{column} IS NOT NULL")
    return sa.Index(f"ix_notification_deliveries_{column}", column, sqlite_where=is_set, postgresql_where=is_set)


class NotificationDelivery(OfSchool, Base):
    """One notification to one person by one channel."""

    __tablename__ = "notification_deliveries"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True, default=new_id)
    notification_id: Mapped[str] = mapped_column(sa.ForeignKey("notifications.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"))
    channel: Mapped[NotificationChannel] = mapped_column(text_enum(NotificationChannel))
    state: Mapped[DeliveryState] = mapped_column(text_enum(DeliveryState))
    # Why it was skipped or is held, or the error of the last attempt.
    reason: Mapped[str | None] = mapped_column(StorableText)
    attempts: Mapped[int] = mapped_column(default=0)
    # Of the job that delivers it by push, and of the mail.
    job_id: Mapped[str | None] = mapped_column(UuidText())
    email_id: Mapped[str | None] = mapped_column(UuidText())
    held_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # Whether it replaces a push message that was not delivered in time.
    is_fallback: Mapped[bool] = mapped_column(default=False)
    # Of a failed one: whether the reason may pass, such as a server that did not respond.
    is_passing: Mapped[bool] = mapped_column(default=False)
    # The ids of the devices that are tried again, of a push message that another device has got.
    remaining_devices: Mapped[list[int] | None] = mapped_column(sa.JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    read_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    notification: Mapped[Notification] = relationship()
    user: Mapped[User] = relationship()

    __table_args__ = (
        sa.UniqueConstraint("notification_id", "user_id", "channel"),
        sa.Index("ix_notification_deliveries_notification_id_id", "notification_id", "id"),
        sa.Index("ix_notification_deliveries_notification_id_state_id", "notification_id", "state", "id"),
        # The inbox of a person, newest first, and its unread ones.
        sa.Index("ix_notification_deliveries_user_id_channel_id", "user_id", "channel", "id"),
        sa.Index("ix_notification_deliveries_user_id_channel_read_at", "user_id", "channel", "read_at"),
        sa.Index("ix_notification_deliveries_state_held_until", "state", "held_until"),
        _index_of_set("job_id"),
        _index_of_set("email_id"),
        sa.Index(
            "ix_notification_deliveries_passing",
            "created_at",
            sqlite_where=_IS_PASSING_IN_SQLITE,
            postgresql_where=_IS_PASSING,
        ),
    )


class NotificationPreference(Base):
    """When a user wants notifications of a type by a channel, if that differs from the default."""

    __tablename__ = "notification_preferences"

    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    type: Mapped[NotificationType] = mapped_column(text_enum(NotificationType), primary_key=True)
    channel: Mapped[NotificationChannel] = mapped_column(text_enum(NotificationChannel), primary_key=True)
    frequency: Mapped[Frequency] = mapped_column(text_enum(Frequency))
    # Whether an unsubscribe link has turned it off that was daily before: what taking that back restores.
    was_daily: Mapped[bool] = mapped_column(default=False, server_default=sa.false())


class NotificationSettings(Base):
    """The quiet hours of a user, in the user's time zone; they may span midnight. None: there are none."""

    __tablename__ = "notification_settings"

    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    quiet_from: Mapped[time | None] = mapped_column(sa.Time)
    quiet_until: Mapped[time | None] = mapped_column(sa.Time)

    __table_args__ = (sa.CheckConstraint("(quiet_from IS NULL) = (quiet_until IS NULL)", name="quiet_hours"),)
