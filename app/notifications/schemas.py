"""Schemas of notifications, scheduled notifications and the inbox in the API."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow import validate

from app.accounts import Role
from app.api import MAX_ID
from app.api.web import Moment, QueryOfPage, Schema, check_control_characters, id_field
from app.notifications.content import MAX_DATA_ENTRIES, MAX_IDS, Targets
from app.notifications.models import (
    MAX_BODY_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    DeliveryState,
    NotificationChannel,
    NotificationState,
    NotificationType,
    ScheduledState,
)

SCHOOL = "The school, for admins; default: that of the user."


def _ids(description: str) -> ma.fields.List:
    return ma.fields.List(
        ma.fields.Integer(strict=True, validate=validate.Range(1, MAX_ID)),
        load_default=list,
        validate=validate.Length(max=MAX_IDS),
        metadata={"description": description},
    )


def _time(description: str = "", **options: Any) -> ma.fields.AwareDateTime:
    return ma.fields.AwareDateTime(
        format="iso", required=True, metadata={"description": description} if description else {}, **options
    )


# ── What a notification says, and to whom ────────────────────────────────────────────────────────────────────────


class TargetsSchema(Schema):
    """Who gets a notification; looked up when it is sent. Who is named twice gets it once."""

    users = _ids("People.")
    roles = ma.fields.List(
        ma.fields.String(validate=validate.OneOf([role.value for role in Role])),
        load_default=list,
        metadata={"description": "All active users with these roles."},
    )
    classes = _ids("Classes: the guardians of their students.")
    students = _ids("Students: their guardians.")
    everyone = ma.fields.Boolean(load_default=False, metadata={"description": "All active users of the school."})

    @ma.post_load
    def make(self, values: dict[str, Any], **_: Any) -> Targets:
        """Called with the fields of a request."""
        return Targets.from_json(values)


class ContentFields(Schema):
    """Fields that clients set."""

    title = ma.fields.String(validate=[validate.Length(1, MAX_TITLE_CHARACTERS), check_control_characters])
    body = ma.fields.String(validate=[validate.Length(1, MAX_BODY_CHARACTERS), check_control_characters])
    type = ma.fields.Enum(NotificationType, by_value=True)
    is_critical = ma.fields.Boolean(metadata={"description": "Passes preferences and quiet hours."})
    data = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.String(),
        validate=validate.Length(max=MAX_DATA_ENTRIES),
        metadata={"description": "Text by name, for the application on a device."},
    )
    targets = ma.fields.Nested(TargetsSchema)
    channels = ma.fields.List(
        ma.fields.Enum(NotificationChannel, by_value=True),
        validate=validate.Length(1),
        metadata={"description": "Default: all."},
    )
    expires_at = Moment(allow_none=True, metadata={"description": "When it is of no use any more."})


class NewNotificationSchema(ContentFields):
    """A new notification."""

    title = ma.fields.String(
        required=True, validate=[validate.Length(1, MAX_TITLE_CHARACTERS), check_control_characters]
    )
    body = ma.fields.String(required=True, validate=[validate.Length(1, MAX_BODY_CHARACTERS), check_control_characters])
    type = ma.fields.Enum(NotificationType, by_value=True, required=True)
    targets = ma.fields.Nested(TargetsSchema, required=True)
    school_id = id_field(SCHOOL, load_default=None)


class ContentSchema(Schema):
    """What a notification says, and to whom."""

    title = ma.fields.String(required=True)
    body = ma.fields.String(required=True)
    type = ma.fields.Enum(NotificationType, by_value=True, required=True)
    is_critical = ma.fields.Boolean(required=True)
    data = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.String(), required=True)
    targets = ma.fields.Nested(TargetsSchema, required=True)
    channels = ma.fields.List(ma.fields.String(), required=True)
    expires_at = _time(allow_none=True)


# ── Notifications ────────────────────────────────────────────────────────────────────────────────────────────────


class NotificationSchema(ContentSchema):
    """A notification that is being sent, or was."""

    id = ma.fields.UUID(required=True)
    school_id = ma.fields.Integer(required=True)
    sender_id = ma.fields.Integer(
        required=True, allow_none=True, metadata={"description": "The user who sent it; null: the school."}
    )
    state = ma.fields.Enum(NotificationState, by_value=True, required=True)
    batch_id = ma.fields.UUID(required=True, metadata={"description": "The batch of its jobs: /batches/{id}."})
    job_id = ma.fields.UUID(required=True, metadata={"description": "The job that makes its deliveries: /jobs/{id}."})
    created_at = _time()
    finished_at = _time(allow_none=True)


class NotificationProgressSchema(Schema):
    """The jobs of a notification."""

    jobs = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.Integer(),
        required=True,
        metadata={"description": "The number of jobs by state. States without jobs are left out."},
    )
    total = ma.fields.Integer(required=True)
    ended = ma.fields.Integer(
        required=True, metadata={"description": "The number of jobs that are completed, failed or cancelled."}
    )


class NotificationDetailSchema(NotificationSchema):
    """A notification with the state of its deliveries."""

    recipients = ma.fields.Integer(required=True, metadata={"description": "The number of people."})
    left_out = ma.fields.Integer(
        required=True, metadata={"description": "The number of people whom a contact restriction leaves out."}
    )
    deliveries = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Integer()),
        required=True,
        metadata={"description": "The number of deliveries by channel and state."},
    )
    progress = ma.fields.Nested(NotificationProgressSchema, required=True)


class AcceptedSchema(Schema):
    """A notification that was accepted: its jobs make and send the deliveries."""

    notification_id = ma.fields.UUID(required=True)
    job_id = ma.fields.UUID(required=True)
    batch_id = ma.fields.UUID(required=True)
    status = ma.fields.String(required=True, validate=validate.OneOf(["queued"]))
    recipients = ma.fields.Integer(required=True)
    left_out = ma.fields.Integer(required=True)


class RetriedDeliveriesSchema(Schema):
    """The number of deliveries that are tried again."""

    retried = ma.fields.Integer(required=True)


class NotificationQuery(QueryOfPage):
    """Filters of the list."""

    state = ma.fields.Enum(NotificationState, by_value=True)
    type = ma.fields.Enum(NotificationType, by_value=True)
    sender_id = ma.fields.Integer(validate=validate.Range(1, MAX_ID))
    school_id = ma.fields.Integer(validate=validate.Range(1, MAX_ID), metadata={"description": "For admins."})
    text = ma.fields.String(
        validate=[validate.Length(1, 100), check_control_characters], metadata={"description": "Text in the title."}
    )


class DeliverySchema(Schema):
    """One notification to one person by one channel."""

    id = ma.fields.UUID(required=True)
    user_id = ma.fields.Integer(required=True)
    user_name = ma.fields.String(required=True, attribute="user.name")
    channel = ma.fields.Enum(NotificationChannel, by_value=True, required=True)
    state = ma.fields.Enum(DeliveryState, by_value=True, required=True)
    reason = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Why it was skipped or is held, or the error of the last attempt."},
    )
    attempts = ma.fields.Integer(required=True)
    held_until = _time(allow_none=True)
    is_fallback = ma.fields.Boolean(
        required=True, metadata={"description": "Whether it replaces a push message that was not delivered in time."}
    )
    created_at = _time()
    delivered_at = _time(allow_none=True)
    read_at = _time(allow_none=True)


class DeliveryQuery(QueryOfPage):
    """Filters of the list."""

    state = ma.fields.Enum(DeliveryState, by_value=True)
    channel = ma.fields.Enum(NotificationChannel, by_value=True)
    user_id = ma.fields.Integer(validate=validate.Range(1, MAX_ID))
    student_id = ma.fields.Integer(
        validate=validate.Range(1, MAX_ID), metadata={"description": "To the guardians of a student."}
    )


class UnreachedPersonSchema(Schema):
    """A guardian of a student."""

    user_id = ma.fields.Integer(required=True, attribute="user.id")
    name = ma.fields.String(required=True, attribute="user.name")
    left_out = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "Why the person gets nothing about the student."}
    )
    deliveries = ma.fields.List(ma.fields.Nested(DeliverySchema), required=True)


class UnreachedStudentSchema(Schema):
    """A student about whom no person was reached by any channel."""

    student_id = ma.fields.Integer(required=True, attribute="student.id")
    number = ma.fields.String(required=True, attribute="student.number")
    name = ma.fields.String(required=True, attribute="student.name")
    people = ma.fields.List(
        ma.fields.Nested(UnreachedPersonSchema),
        required=True,
        metadata={"description": "Without people, the student has no guardians."},
    )


class UnreachedSchema(Schema):
    """The students about whom no person was reached, by name."""

    items = ma.fields.List(ma.fields.Nested(UnreachedStudentSchema), required=True)


# ── Previews ─────────────────────────────────────────────────────────────────────────────────────────────────────


class ChannelPreviewSchema(Schema):
    """What one channel shows."""

    channel = ma.fields.Enum(NotificationChannel, by_value=True, required=True)
    title = ma.fields.String(required=True, metadata={"description": "The subject of the mail, or the title."})
    text = ma.fields.String(required=True)
    html = ma.fields.String(required=True, allow_none=True, metadata={"description": "Of the mail."})
    is_cut = ma.fields.Boolean(
        required=True, metadata={"description": "Whether the channel has no space for the whole text."}
    )


class RestrictedContactSchema(Schema):
    """A person who may not be contacted about a student."""

    user_id = ma.fields.Integer(required=True)
    name = ma.fields.String(required=True)
    student_id = ma.fields.Integer(required=True)
    student = ma.fields.String(required=True)


class AudienceSchema(Schema):
    """Who gets it, if it is sent now."""

    count = ma.fields.Integer(required=True)
    names = ma.fields.List(ma.fields.String(), required=True, metadata={"description": "The first of them."})
    left_out = ma.fields.Integer(required=True)
    restricted = ma.fields.List(
        ma.fields.Nested(RestrictedContactSchema),
        required=True,
        metadata={
            "description": "Contact restrictions of the people of `targets.users`, the first of them. They get it: a "
            "notification to a person is about no student."
        },
    )
    restricted_count = ma.fields.Integer(required=True, metadata={"description": "The number of these restrictions."})


class PreviewSchema(Schema):
    """What each channel shows, and who gets it."""

    channels = ma.fields.List(ma.fields.Nested(ChannelPreviewSchema), required=True)
    audience = ma.fields.Nested(AudienceSchema, required=True)


# ── Scheduled notifications ──────────────────────────────────────────────────────────────────────────────────────


def _local_time(**options: Any) -> ma.fields.NaiveDateTime:
    return ma.fields.NaiveDateTime(
        format="iso",
        error_messages={"invalid_awareness": "Must have no offset: it is in the time zone of the school."},
        metadata={
            "description": "ISO 8601 without an offset, in the time zone of the school; in the future, within a year."
        },
        **options,
    )


class NewScheduledSchema(NewNotificationSchema):
    """A new scheduled notification."""

    local_time = _local_time(required=True)


class ScheduledChangesSchema(ContentFields):
    """Changes; absent fields keep their values."""

    local_time = _local_time()


class ScheduledSchema(ContentSchema):
    """A notification with a time."""

    id = ma.fields.UUID(required=True)
    school_id = ma.fields.Integer(required=True)
    sender_id = ma.fields.Integer(required=True, allow_none=True)
    state = ma.fields.Enum(ScheduledState, by_value=True, required=True)
    reason = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "Why it was cancelled instead of sent."}
    )
    local_time = ma.fields.NaiveDateTime(
        format="iso", required=True, metadata={"description": "In the time zone `time_zone`, without an offset."}
    )
    time_zone = ma.fields.String(required=True)
    send_at = _time("When it is sent.")
    notification_id = ma.fields.UUID(
        required=True, allow_none=True, metadata={"description": "The notification, once it is sent."}
    )
    created_at = _time()
    updated_at = _time()


class ScheduledQuery(QueryOfPage):
    """Filters of the list."""

    state = ma.fields.Enum(ScheduledState, by_value=True)
    school_id = ma.fields.Integer(validate=validate.Range(1, MAX_ID), metadata={"description": "For admins."})


# ── The inbox ────────────────────────────────────────────────────────────────────────────────────────────────────


class InboxEntrySchema(Schema):
    """A notification in the inbox of the user."""

    id = ma.fields.UUID(required=True)
    notification_id = ma.fields.UUID(required=True)
    title = ma.fields.String(required=True, attribute="notification.title")
    body = ma.fields.String(required=True, attribute="notification.body")
    type = ma.fields.Enum(NotificationType, by_value=True, required=True, attribute="notification.type")
    is_critical = ma.fields.Boolean(required=True, attribute="notification.is_critical")
    data = ma.fields.Dict(
        keys=ma.fields.String(), values=ma.fields.String(), required=True, attribute="notification.data"
    )
    created_at = _time()
    read_at = _time(allow_none=True)


class InboxQuery(QueryOfPage):
    """Filters of the inbox."""

    unread = ma.fields.Boolean(load_default=False, metadata={"description": "Only those that are unread."})


class ReadSchema(Schema):
    """The number of notifications that were marked as read."""

    read = ma.fields.Integer(required=True)
