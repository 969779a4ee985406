"""API of notifications, scheduled notifications and the inbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from flask import url_for

from app.accounts import User, acting_user, can, require
from app.api.web import ApiBlueprint, accept_values, check_stale, page_response, page_schema, versioned
from app.notifications import previews, queries, scheduling, services
from app.notifications.content import MAX_IDS, Content
from app.notifications.models import Notification, NotificationDelivery, ScheduledNotification
from app.notifications.rules import CANCEL, RETRY, SEND, VIEW
from app.notifications.schemas import (
    AcceptedSchema,
    DeliveryQuery,
    DeliverySchema,
    InboxEntrySchema,
    InboxQuery,
    NewNotificationSchema,
    NewScheduledSchema,
    NotificationDetailSchema,
    NotificationQuery,
    NotificationSchema,
    PreviewSchema,
    ReadSchema,
    RetriedDeliveriesSchema,
    ScheduledChangesSchema,
    ScheduledQuery,
    ScheduledSchema,
    UnreachedSchema,
)
from app.schools import School
from flask_belfry.core.access import accept_body
from flask_belfry.core.errors import ForbiddenError, InvalidInputError
from flask_belfry.db import commit_and_keep, db
from flask_belfry.operations import job_counts
from flask_belfry.outbox import FINALIZED, JobBatch, JobState

P = ParamSpec("P")
R = TypeVar("R")

blueprint = ApiBlueprint(
    "notifications",
    __name__,
    description="Notifications, scheduled notifications and the inbox",
    area="notifications",
)

ONE, SCHEDULED = "/notifications/<uuid:notification_id>", "/scheduled-notifications/<uuid:scheduled_id>"
STAFF = "This is for staff and admins only."
# With as many ids of people, classes and students as targets may have.
MAX_CONTENT_BYTES = 1024 * 1024
MAX_CONTENT_VALUES = 3 * MAX_IDS + 1_000


def _requires(action: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Restrict an endpoint to users who may do `action`, before the request is read. Goes below `route`."""

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            require(acting_user(), action, message=STAFF)
            return view(*args, **kwargs)

        return guarded

    return decorate


# ── Notifications ────────────────────────────────────────────────────────────────────────────────────────────────


@blueprint.route("/notifications")
@_requires(VIEW)
@blueprint.arguments(NotificationQuery, location="query")
@blueprint.response(200, page_schema(NotificationSchema))
def list_notifications(query: dict[str, Any]) -> Mapping[str, Any]:
    """List notifications, newest first"""
    limit, cursor = query.pop("limit"), query.pop("cursor")
    return page_response(queries.page(queries.Filters(**query), limit=limit, cursor=cursor))


@blueprint.route("/notifications", methods=["POST"])
@_requires(SEND)
@blueprint.arguments(NewNotificationSchema)
@blueprint.response(202, NotificationSchema)
@blueprint.alt_response(409, description="The school is disabled.")
@accept_body(MAX_CONTENT_BYTES)
@accept_values(MAX_CONTENT_VALUES)
def send_notification(values: dict[str, Any]) -> tuple[Notification, int, dict[str, str]]:
    """Send a notification, to one person or to many; jobs deliver it"""
    notification = _send(values)
    return notification, 202, {"Location": _url_of(notification)}


@blueprint.route("/notifications/bulk", methods=["POST"])
@_requires(SEND)
@blueprint.arguments(NewNotificationSchema)
@blueprint.response(202, AcceptedSchema)
@blueprint.alt_response(409, description="The school is disabled.")
@accept_body(MAX_CONTENT_BYTES)
@accept_values(MAX_CONTENT_VALUES)
def send_in_bulk(values: dict[str, Any]) -> tuple[Mapping[str, Any], int, dict[str, str]]:
    """Send a notification as above, and get the number of people and the ids of the job and the batch"""
    notification = _send(values)
    recipients, left_out = queries.count_recipients(notification.id)
    accepted = {
        "notification_id": notification.id,
        "job_id": notification.job_id,
        "batch_id": notification.batch_id,
        "status": "queued",
        "recipients": recipients,
        "left_out": left_out,
    }
    return accepted, 202, {"Location": _url_of(notification)}


@blueprint.route("/notifications/preview", methods=["POST"])
@_requires(SEND)
@blueprint.arguments(NewNotificationSchema)
@blueprint.response(200, PreviewSchema)
@accept_body(MAX_CONTENT_BYTES)
@accept_values(MAX_CONTENT_VALUES)
def preview_notification(values: dict[str, Any]) -> previews.Preview:
    """Get what each channel would show, and who would get it; nothing is sent"""
    school_id = _school_id(acting_user(), values.pop("school_id"))
    return previews.preview(_content(values), school_id)


@blueprint.route(ONE)
@_requires(VIEW)
@blueprint.response(200, NotificationDetailSchema)
def get_notification(notification_id: UUID) -> Mapping[str, Any]:
    """Get a notification with the number of its deliveries in each state"""
    return _detail(queries.get(str(notification_id)))


@blueprint.route(f"{ONE}/deliveries")
@_requires(VIEW)
@blueprint.arguments(DeliveryQuery, location="query")
@blueprint.response(200, page_schema(DeliverySchema))
def list_deliveries(query: dict[str, Any], notification_id: UUID) -> Mapping[str, Any]:
    """List the deliveries of a notification, newest first"""
    return page_response(queries.page_deliveries(str(notification_id), **query))


@blueprint.route(f"{ONE}/unreached")
@_requires(VIEW)
@blueprint.response(200, UnreachedSchema)
def list_unreached(notification_id: UUID) -> Mapping[str, Any]:
    """List the students about whom no person was reached by any channel, at most 500"""
    return {"items": queries.unreached_students(str(notification_id))}


@blueprint.route(f"{ONE}/cancel", methods=["POST"])
@_requires(CANCEL)
@blueprint.response(200, NotificationDetailSchema)
@blueprint.alt_response(409, description="It is cancelled, or finished with nothing that waits.")
def cancel_notification(notification_id: UUID) -> Mapping[str, Any]:
    """Cancel what is not delivered yet"""
    notification = services.cancel(str(notification_id))
    detail = _detail(notification)
    commit_and_keep()
    return detail


@blueprint.route(f"{ONE}/retry", methods=["POST"])
@_requires(RETRY)
@blueprint.response(200, RetriedDeliveriesSchema)
@blueprint.alt_response(409, description="It is cancelled or has expired, or the school is disabled.")
def retry_notification(notification_id: UUID) -> Mapping[str, Any]:
    """Try the failed deliveries again"""
    retried = services.retry_failed(str(notification_id))
    db.session.commit()
    return {"retried": retried}


def _send(values: dict[str, Any]) -> Notification:
    user = acting_user()
    school_id = _school_id(user, values.pop("school_id"))
    notification = services.send(_content(values), user, school_id)
    commit_and_keep()
    return notification


def _content(values: Mapping[str, Any]) -> Content:
    given = dict(values)
    if "channels" in given:
        given["channels"] = tuple(channel.value for channel in given["channels"])
    return Content(**given)


def _school_id(user: User, given: int | None) -> int:
    """Return the school for which a user acts: admins choose it."""
    if given in (None, user.school_id):
        return user.school_id
    if not can(user, "schools.view_all"):
        problem = "Only admins can choose a school."
        raise ForbiddenError("You can send notifications of your own school only.", {"school_id": [problem]})
    if db.session.get(School, given) is None:
        raise InvalidInputError("Unknown school.", {"school_id": ["Select a school."]})
    return given


def _url_of(notification: Notification) -> str:
    return url_for("api_notifications.get_notification", notification_id=notification.id)


def _detail(notification: Notification) -> Mapping[str, Any]:
    """Return the fields of a notification with those of its deliveries and jobs."""
    recipients, left_out = queries.count_recipients(notification.id)
    batch = db.session.get(JobBatch, notification.batch_id)
    counts = job_counts([batch])[batch.id] if batch else {}
    return {
        **{name: getattr(notification, name) for name in NotificationSchema().dump_fields},
        "recipients": recipients,
        "left_out": left_out,
        "deliveries": queries.counts([notification.id])[notification.id],
        "progress": {
            "jobs": {state.value: counts[state] for state in JobState if counts.get(state)},
            "total": sum(counts.values()),
            "ended": sum(counts.get(state, 0) for state in FINALIZED),
        },
    }


# ── Scheduled notifications ──────────────────────────────────────────────────────────────────────────────────────


@blueprint.route("/scheduled-notifications")
@_requires(VIEW)
@blueprint.arguments(ScheduledQuery, location="query")
@blueprint.response(200, page_schema(ScheduledSchema))
def list_scheduled(query: dict[str, Any]) -> Mapping[str, Any]:
    """List scheduled notifications, the latest time first; with `state=scheduled` the next one first"""
    return page_response(scheduling.page_scheduled(**query))


@blueprint.route("/scheduled-notifications", methods=["POST"])
@versioned
@_requires(SEND)
@blueprint.arguments(NewScheduledSchema)
@blueprint.response(201, ScheduledSchema)
@blueprint.alt_response(409, description="The school is disabled.")
@accept_body(MAX_CONTENT_BYTES)
@accept_values(MAX_CONTENT_VALUES)
def schedule_notification(values: dict[str, Any]) -> tuple[ScheduledNotification, int, dict[str, str]]:
    """Schedule a notification; who gets it is looked up at its time"""
    user = acting_user()
    school_id, local_time = _school_id(user, values.pop("school_id")), values.pop("local_time")
    row = scheduling.schedule(_content(values), local_time, user, school_id)
    commit_and_keep()
    return row, 201, {"Location": url_for("api_notifications.get_scheduled", scheduled_id=row.id)}


@blueprint.route(SCHEDULED)
@versioned
@_requires(VIEW)
@blueprint.response(200, ScheduledSchema)
def get_scheduled(scheduled_id: UUID) -> ScheduledNotification:
    """Get a scheduled notification"""
    return scheduling.get_scheduled(str(scheduled_id))


@blueprint.route(SCHEDULED, methods=["PATCH"])
@versioned
@_requires(SEND)
@blueprint.arguments(ScheduledChangesSchema)
@blueprint.response(200, ScheduledSchema)
@blueprint.alt_response(409, description="It was already sent or cancelled.")
@accept_body(MAX_CONTENT_BYTES)
@accept_values(MAX_CONTENT_VALUES)
def change_scheduled(changes: dict[str, Any], scheduled_id: UUID) -> ScheduledNotification:
    """Change what a scheduled notification says, to whom, and its time"""
    row = _lock(scheduled_id)
    local_time = changes.pop("local_time", None)
    if "channels" in changes:
        changes["channels"] = tuple(channel.value for channel in changes["channels"])
    row = scheduling.reschedule(row.id, content=replace(Content.of(row), **changes), local_time=local_time)
    commit_and_keep()
    return row


@blueprint.route(SCHEDULED, methods=["DELETE"])
@versioned
@_requires(CANCEL)
@blueprint.response(204)
@blueprint.alt_response(409, description="It was already sent or cancelled.")
def cancel_scheduled(scheduled_id: UUID) -> None:
    """Cancel a scheduled notification, which is kept as cancelled"""
    scheduling.cancel_scheduled(_lock(scheduled_id).id)
    db.session.commit()


def _lock(scheduled_id: UUID) -> ScheduledNotification:
    """Load the row of a write with its lock, and check `If-Match` on it."""
    row = scheduling.get_scheduled(str(scheduled_id), for_update=True)
    check_stale(ScheduledSchema, row)
    return row


# ── The inbox ────────────────────────────────────────────────────────────────────────────────────────────────────


@blueprint.route("/inbox")
@blueprint.arguments(InboxQuery, location="query")
@blueprint.response(200, page_schema(InboxEntrySchema))
def list_inbox(query: dict[str, Any]) -> Mapping[str, Any]:
    """List the notifications in your inbox, newest first"""
    unread = query.pop("unread")
    return page_response(queries.inbox(acting_user(), unread_only=unread, **query))


@blueprint.route("/inbox/<uuid:delivery_id>/read", methods=["POST"])
@blueprint.response(200, InboxEntrySchema)
def mark_read(delivery_id: UUID) -> NotificationDelivery:
    """Mark a notification in your inbox as read"""
    entry = queries.mark_read(acting_user(), str(delivery_id))
    commit_and_keep()
    return entry


@blueprint.route("/inbox/read", methods=["POST"])
@blueprint.response(200, ReadSchema)
def mark_all_read() -> Mapping[str, int]:
    """Mark all notifications in your inbox as read"""
    read = queries.mark_all_read(acting_user())
    db.session.commit()
    return {"read": read}
