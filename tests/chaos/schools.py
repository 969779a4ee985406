"""Rows, mails and push messages of one school that are about those of another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.accounts import AccessToken, User
from app.notifications import Notification, NotificationDelivery, NotificationRecipient, ScheduledNotification
from app.push import Device
from app.reservations import Reservation
from flask_belfry.changes import StatusChange
from flask_belfry.db import db, table_of
from flask_belfry.mail import EmailMessage
from flask_belfry.operations import BulkOperation, BulkOperationJob
from flask_belfry.outbox import JobBatch, JobRecord
from tests.chaos.transactions import school_of_key

# By subject type, the school of a subject.
_SUBJECTS: Mapping[str, Any] = {
    "reservation": sa.select(Reservation.id, Reservation.school_id),
    "notification": sa.select(Notification.id, Notification.school_id),
    "scheduled_notification": sa.select(ScheduledNotification.id, ScheduledNotification.school_id),
    "user": sa.select(User.id, User.school_id),
    "mail": sa.select(EmailMessage.id, EmailMessage.school_id),
    "bulk_operation": sa.select(BulkOperation.id, BulkOperation.school_id),
    "access_token": sa.select(AccessToken.id, User.school_id).join(User, User.id == AccessToken.user_id),
}
_ABOUT_A_SUBJECT = (JobRecord, JobBatch, EmailMessage, StatusChange)


def foreign(pushes: Mapping[tuple[str, str], Sequence[float]]) -> list[str]:
    """Return a sentence for each of them.

    Args:
        pushes: by notification and token, the messages that the FCM server accepted.
    """
    return [*_of_subjects(), *_of_keys(), *_of_deliveries(), *_of_mails(), *_of_operations(), *_of_pushes(pushes)]


def _of_subjects() -> Iterable[str]:
    for type_, query in _SUBJECTS.items():
        schools = {str(id): school_id for id, school_id in db.session.execute(query)}
        for model in _ABOUT_A_SUBJECT:
            about = sa.select(model.id, model.school_id, model.subject_id).where(model.subject_type == type_)
            for row in db.session.execute(about):
                if row.subject_id in schools and row.school_id != schools[row.subject_id]:
                    of = f"{table_of(model).name} {row.id} of school {row.school_id}"
                    yield f"{of} is about {type_} {row.subject_id} of school {schools[row.subject_id]}"


def _of_keys() -> Iterable[str]:
    """The jobs of the load, also those that other jobs enqueue, and what was written by its transactions."""
    jobs = sa.select(JobRecord.id, JobRecord.school_id, JobRecord.args).where(JobRecord.name.like("chaos.%"))
    rows = [(f"job {row.id}", row.school_id, row.args["key"]) for row in db.session.execute(jobs)]
    for model, key in (
        (Reservation, Reservation.note),
        (Notification, Notification.title),
        (ScheduledNotification, ScheduledNotification.title),
    ):
        query = sa.select(model.id, model.school_id, key)
        rows += [(f"{table_of(model).name} {id}", school_id, text) for id, school_id, text in db.session.execute(query)]
    for of, school_id, key in rows:
        if school_id != school_of_key(key):
            yield f"{of} of {key} belongs to school {school_id}"


def _of_deliveries() -> Iterable[str]:
    for model in (NotificationRecipient, NotificationDelivery):
        query = sa.select(model.id, model.school_id, Notification.school_id, User.school_id)
        query = query.join(Notification, Notification.id == model.notification_id).join(User, User.id == model.user_id)
        for id, *schools in db.session.execute(query):
            if len(set(schools)) > 1:
                of = "it, its notification and its user"
                yield f"{table_of(model).name} {id}: {of} are of schools {', '.join(map(str, schools))}"


def _of_mails() -> Iterable[str]:
    """A mail and its job are of the school of its recipient."""
    emails = {row.email: row.school_id for row in db.session.execute(sa.select(User.email, User.school_id))}
    query = sa.select(
        EmailMessage.id, EmailMessage.school_id, EmailMessage.recipients, JobRecord.school_id.label("of_job")
    )
    for row in db.session.execute(query.outerjoin(JobRecord, JobRecord.id == EmailMessage.job_id)):
        schools = {row.school_id, *(emails[email] for email in row.recipients if email in emails), row.of_job}
        if len(schools) > 1:
            yield f"mail {row.id} of school {row.school_id}: its recipient and its job are of {schools}"


def _of_operations() -> Iterable[str]:
    query = sa.select(BulkOperation.id, BulkOperation.school_id, JobRecord.id, JobRecord.school_id)
    query = query.join(BulkOperationJob, BulkOperationJob.operation_id == BulkOperation.id)
    for id, school_id, job_id, of_job in db.session.execute(
        query.join(JobRecord, JobRecord.id == BulkOperationJob.job_id)
    ):
        if school_id is not None and school_id != of_job:
            yield f"bulk operation {id} of school {school_id} has changed job {job_id} of school {of_job}"


def _of_pushes(pushes: Mapping[tuple[str, str], Sequence[float]]) -> Iterable[str]:
    devices = sa.select(Device.token, User.school_id).join(User, User.id == Device.user_id)
    of_devices = {row.token: row.school_id for row in db.session.execute(devices)}
    query = sa.select(Notification.id, Notification.school_id)
    of_notifications = {row.id: row.school_id for row in db.session.execute(query)}
    for id, token in pushes:
        if of_notifications.get(id) != of_devices.get(token):
            yield f"a push message of notification {id} of school {of_notifications.get(id)} went to {token}"
