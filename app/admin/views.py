"""The models of the panel: how each is shown, and which are left out, with the reason.

A model that is not listed here is shown read-only under the name of its slice.
"""

from __future__ import annotations

from typing import Any

from app.accounts import AccessToken, AccountCode, LoginAddress, LoginSession, MessagePreference, User
from app.admin.slices import (
    ClassView,
    CommentView,
    ReservationView,
    SchoolView,
    StudentView,
    TokenView,
    UserView,
    WorkItemView,
)
from app.admin.view import PanelView
from app.api import IdempotencyRecord
from app.audit import AuditEntry
from app.directory import Guardian, SchoolClass, Student
from app.notifications import (
    Notification,
    NotificationDelivery,
    NotificationPreference,
    NotificationRecipient,
    NotificationSettings,
    ScheduledNotification,
)
from app.push import Device
from app.reservations import Reservation, Resource
from app.schools import School
from app.work_items import DigestEntry, WorkItem, WorkItemComment, WorkItemWatcher
from flask_belfry.changes import StatusChange
from flask_belfry.core.presentation import label
from flask_belfry.db import Base
from flask_belfry.mail import EmailMessage, EmailSuppression, MailDomainHold, MailStatistics, MailTotals
from flask_belfry.operations import BulkOperation, BulkOperationJob
from flask_belfry.outbox import (
    CustomSchedule,
    Deployment,
    JobAttempt,
    JobBatch,
    JobLimit,
    JobLog,
    JobPause,
    JobRecord,
    Schedule,
    ScheduleTick,
    UniquePeriod,
    WorkerProcess,
)
from flask_belfry.statistics import FailureCount, FailureGroup, JobStatistics, JobTotals, QueueSample, Release, RollUp

PEOPLE, DIRECTORY, DESK, WORK = "People", "Classes and students", "Reservations", "Work items"
NOTIFICATIONS, LEDGERS, SYSTEM = "Notifications", "Ledgers", "The job system"

# The packages of the models; tests have models of their own.
OWN = ("app.", "flask_belfry.")

LEFT_OUT: dict[type[Any], str] = {
    Deployment: "one row, the deployment's id: doctor and /readyz report what follows from it",
    BulkOperationJob: "the jobs of a bulk operation: its page shows them",
    FailureCount: "the counts of a group of failures: the pages of jobs show them",
    JobStatistics: "counts and histograms: the pages of jobs show what follows from them",
    MailStatistics: "the same of mails",
    JobTotals: "their sums, for monitoring",
    MailTotals: "the same of mails",
    QueueSample: "the same of queues",
    Release: "the pages of jobs show them",
    RollUp: "until when the statistics are complete",
    IdempotencyRecord: "responses of the API, kept for a day for the client that sent the request",
}


def views() -> list[PanelView]:
    """Return the views of one application, in the order of the first page."""
    described = _described()
    # A subclass in its parent's table is shown with it.
    shown = {view.model for view in described}
    return described + [
        PanelView(model, label(model.__module__.split(".")[1]), label(model.__tablename__))
        for model in sorted((mapper.class_ for mapper in Base.registry.mappers), key=lambda model: model.__name__)
        if model.__module__.startswith(OWN) and model not in LEFT_OUT and not shown.intersection(model.__mro__)
    ]


def _described() -> list[PanelView]:
    about = ("subject_type", "subject_id")
    return [
        UserView(
            User,
            PEOPLE,
            "Users",
            columns=("id", "username", "name", "email", "role", "may_operate", "active", "school_id", "last_login_at"),
            searches=("username", "name", "email"),
            filters=("role", "may_operate", "active", "school_id", "created_at"),
            sorts=("username_key", "email"),
            creates=("username", "email", "name", "role", "school_id", "time_zone"),
            changes=("username", "email", "name", "role", "may_operate", "active", "time_zone"),
            deletes=True,
        ),
        SchoolView(
            School,
            PEOPLE,
            "Schools",
            searches=("name", "slug"),
            creates=("name", "slug", "time_zone"),
            changes=("name", "time_zone"),
            deletes=True,
        ),
        TokenView(
            AccessToken,
            PEOPLE,
            "Access tokens",
            columns=("id", "name", "user_id", "scopes", "last_used_at", "expires_at", "revoked_at"),
            filters=("user_id", "created_at"),
        ),
        PanelView(
            LoginSession,
            PEOPLE,
            "Login sessions",
            columns=("id", "user_id", "ip_address", "user_agent", "created_at", "last_seen_at"),
            filters=("user_id", "created_at"),
            deletes=True,
        ),
        PanelView(
            LoginAddress,
            PEOPLE,
            "Login IP addresses",
            columns=("id", "user_id", "ip_address", "state", "user_agent", "last_seen_at"),
            filters=("user_id", "state"),
        ),
        PanelView(
            Device,
            PEOPLE,
            "Devices",
            columns=("id", "user_id", "kind", "name", "created_at", "last_seen_at"),
            filters=("user_id", "kind"),
            deletes=True,
        ),
        PanelView(MessagePreference, PEOPLE, "Message preferences", filters=("user_id",)),
        PanelView(AccountCode, PEOPLE, "Account codes", filters=("purpose", "user_id")),
        ClassView(
            SchoolClass,
            DIRECTORY,
            "Classes",
            searches=("name",),
            filters=("school_id",),
            creates=("school_id", "name"),
            changes=("name",),
            deletes=True,
        ),
        StudentView(
            Student,
            DIRECTORY,
            "Students",
            columns=("id", "number", "name", "class_id", "enrolled_on", "left_on", "school_id"),
            searches=("name", "number"),
            filters=("class_id", "school_id", "enrolled_on", "left_on"),
            creates=("school_id", "number", "name", "class_id", "enrolled_on", "left_on"),
            changes=("number", "name", "class_id", "enrolled_on", "left_on"),
            deletes=True,
        ),
        PanelView(
            Guardian,
            DIRECTORY,
            "Guardians",
            columns=("id", "student_id", "user_id", "relation", "is_restricted", "school_id"),
            filters=("student_id", "user_id", "is_restricted", "school_id"),
        ),
        ReservationView(
            Reservation,
            DESK,
            "Reservations",
            columns=("id", "customer_id", "resource_id", "start_time", "status", "school_id"),
            searches=("note",),
            filters=("status", "customer_id", "resource_id", "school_id", "start_time"),
            sorts=("start_time",),
            creates=("customer_id", "start_time", "duration_minutes", "resource_id", "party_size", "note"),
            changes=("status", "start_time", "duration_minutes", "resource_id", "party_size", "note"),
            deletes=True,
        ),
        PanelView(
            Resource,
            DESK,
            "Resources",
            searches=("name",),
            filters=("active", "school_id"),
            creates=("school_id", "name", "capacity", "active"),
            changes=("name", "capacity", "active"),
            deletes=True,
        ),
        WorkItemView(
            WorkItem,
            WORK,
            "Work items",
            columns=("id", "kind", "title", "status", "priority", "responsible_id", "due_date", "school_id"),
            searches=("title", "description"),
            filters=(
                "kind",
                "status",
                "priority",
                "responsible_id",
                "reporter_id",
                "parent_id",
                "school_id",
                "due_date",
            ),
            creates=(
                *("kind", "title", "description", "status", "priority", "due_date"),
                *("responsible_id", "reporter_id", "parent_id"),
            ),
            changes=(
                *("title", "description", "status", "priority", "due_date"),
                *("responsible_id", "reporter_id", "parent_id"),
            ),
            deletes=True,
        ),
        CommentView(
            WorkItemComment, WORK, "Comments", searches=("text",), filters=("item_id", "author_id"), deletes=True
        ),
        PanelView(WorkItemWatcher, WORK, "Watchers", filters=("item_id", "user_id")),
        PanelView(DigestEntry, WORK, "Digest entries", filters=("item_id",)),
        PanelView(
            Notification,
            NOTIFICATIONS,
            "Notifications",
            columns=("id", "state", "type", "title", "sender_id", "school_id", "created_at", "finished_at"),
            filters=("school_id",),
        ),
        PanelView(
            ScheduledNotification,
            NOTIFICATIONS,
            "Scheduled",
            columns=("id", "state", "type", "title", "sender_id", "school_id", "send_at"),
            filters=("school_id",),
        ),
        PanelView(
            NotificationDelivery,
            NOTIFICATIONS,
            "Deliveries",
            columns=("id", "notification_id", "user_id", "channel", "state", "reason", "attempts", "created_at"),
            filters=("notification_id", "user_id"),
        ),
        PanelView(
            NotificationRecipient,
            NOTIFICATIONS,
            "Recipients",
            columns=("id", "notification_id", "user_id", "student_id", "left_out"),
            filters=("notification_id", "user_id", "student_id"),
        ),
        PanelView(NotificationPreference, NOTIFICATIONS, "Preferences", filters=("user_id",)),
        PanelView(NotificationSettings, NOTIFICATIONS, "Quiet hours", filters=("user_id",)),
        PanelView(
            EmailMessage,
            LEDGERS,
            "Mails",
            columns=("id", "state", "kind", "recipient", *about, "school_id", "created_at"),
            filters=("state", "kind", "recipient", *about, "school_id"),
        ),
        PanelView(
            EmailSuppression,
            LEDGERS,
            "Suppressions",
            columns=("id", "email", "status_code", "source", "created_at"),
            filters=("source", "email"),
        ),
        PanelView(MailDomainHold, LEDGERS, "Refusing domains"),
        PanelView(
            StatusChange,
            LEDGERS,
            "Changes",
            columns=("id", "at", *about, "field", "old", "new", "user_id"),
            filters=(*about, "user_id", "school_id"),
        ),
        PanelView(
            AuditEntry,
            LEDGERS,
            "Audit entries",
            columns=("id", "at", "action", *about, "user_id", "ip_address"),
            filters=("action", *about, "user_id", "school_id"),
        ),
        PanelView(
            JobRecord,
            SYSTEM,
            "Jobs",
            columns=("id", "state", "name", "queue", *about, "created_at", "finished_at"),
            filters=("state", "name", *about, "school_id"),
            page="job",
        ),
        PanelView(
            JobAttempt,
            SYSTEM,
            "Failed attempts",
            columns=("id", "job_id", "number", "outcome", "worker", "error_type", "finished_at"),
            filters=("outcome", "job_id"),
        ),
        PanelView(
            JobBatch,
            SYSTEM,
            "Batches",
            columns=("id", "name", *about, "created_at", "finished_at", "completed", "failed", "cancelled"),
            filters=("name", *about, "school_id"),
        ),
        PanelView(
            JobLog,
            SYSTEM,
            "Log lines",
            columns=("job_id", "claim", "attempt", "worker", "dropped", "updated_at"),
            filters=("job_id",),
        ),
        PanelView(
            FailureGroup,
            SYSTEM,
            "Groups of failures",
            columns=("id", "state", "job_name", "error_type", "frame", "failures", "first_seen_at", "last_seen_at"),
            filters=("state", "job_name", "error_type", "school_id"),
        ),
        PanelView(
            BulkOperation,
            SYSTEM,
            "Bulk operations",
            columns=(
                "id",
                "kind",
                "state",
                "query",
                "total",
                "changed",
                "failed",
                "user_id",
                "created_at",
                "finished_at",
            ),
            filters=("kind", "state", "user_id", "school_id"),
        ),
        PanelView(JobLimit, SYSTEM, "Limits"),
        PanelView(JobPause, SYSTEM, "Pauses", filters=("kind",)),
        PanelView(UniquePeriod, SYSTEM, "Unique periods", filters=("job_id",)),
        PanelView(Schedule, SYSTEM, "Schedules"),
        PanelView(
            CustomSchedule,
            SYSTEM,
            "Custom schedules",
            columns=("name", "job_name", "cron", "every_seconds", "zone", "user_id", "school_id", "last_tick_at"),
            filters=("job_name", "user_id", "school_id"),
        ),
        PanelView(ScheduleTick, SYSTEM, "Run times", filters=("schedule", "outcome")),
        PanelView(WorkerProcess, SYSTEM, "Processes", filters=("kind", "host")),
    ]
