"""The mail ledger: one row per mail and recipient, sent or not. Rendered mails are not stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from flask_belfry.changes import recorded_subject
from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base
from flask_belfry.db.columns import RowIdText, StorableText, UtcDateTime, UuidText, new_id, text_enum
from flask_belfry.db.tenancy import OfSchoolOrSystem
from flask_belfry.statistics import Counted, columns_of_totals

KEY_CHARACTERS = 250
KIND_CHARACTERS = 80
DOMAIN_CHARACTERS = 255
STATUS_CODE_CHARACTERS = 11
EMAIL_CHARACTERS = 320  # RFC 3696, section 3: 64 + "@" + 255
HAS_SUBJECT = sa.text("subject_type IS NOT NULL")


def _partial_index(name: str, condition: sa.TextClause, *columns: str) -> sa.Index:
    return sa.Index(f"ix_email_messages_{name}", *columns, sqlite_where=condition, postgresql_where=condition)


def _prefixed(characters: int) -> sa.String:
    # A search by prefix can use PostgreSQL's index only in collation C.
    return sa.String(characters).with_variant(sa.String(characters, collation="C"), "postgresql")


class MailState(StrEnum):
    """The state of a mail."""

    QUEUED = "queued"  # its job is waiting
    SENDING = "sending"  # a worker is sending it, or crashed while sending
    SENT = "sent"  # the server accepted it
    DEFERRED = "deferred"  # an attempt failed, or the recipient's domain is held; waits for the next attempt
    FAILED = "failed"  # a permanent error, or all attempts used
    CANCELLED = "cancelled"  # its job was cancelled before it was sent, or it expired
    UNCERTAIN = "uncertain"  # may have been sent: sent again, or held for an operator (MAIL_UNCERTAIN)
    SUPPRESSED = "suppressed"  # MAIL_ENABLED was false
    SKIPPED = "skipped"  # no valid recipient, suppressed, opted out, beyond a cap, or it is not wanted any more
    BOUNCED = "bounced"  # the server accepted it, and a server reported later that it was not delivered


# States that a job will change.
IN_PROGRESS = (MailState.QUEUED, MailState.SENDING, MailState.DEFERRED)


class EmailMessage(OfSchoolOrSystem, Base):
    """One mail to one recipient. `unique_key` makes it exist, and be sent, once."""

    __tablename__ = "email_messages"
    __subject_type__ = "mail"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True, default=new_id)
    unique_key: Mapped[str] = mapped_column(_prefixed(KEY_CHARACTERS), unique=True)
    kind: Mapped[str] = mapped_column(_prefixed(KIND_CHARACTERS))
    recipients: Mapped[list[str]] = mapped_column(sa.JSON)
    # The first recipient in lower case, for searching.
    recipient: Mapped[str | None] = mapped_column(_prefixed(EMAIL_CHARACTERS))
    # The data of the change that the mail reports; the subject may have changed when it is rendered.
    context: Mapped[dict[str, Any]] = mapped_column(sa.JSON, default=dict)

    subject_type: Mapped[str | None] = mapped_column(sa.String(60))
    subject_id: Mapped[str | None] = mapped_column(RowIdText(40))
    change_id: Mapped[str | None] = mapped_column(UuidText())
    user_id: Mapped[int | None]
    # The only job that may send the mail; an older job of the mail does nothing.
    job_id: Mapped[str | None] = mapped_column(UuidText())

    state: Mapped[MailState] = mapped_column(text_enum(MailState), default=MailState.QUEUED)
    attempts: Mapped[int] = mapped_column(default=0)
    uncertain_count: Mapped[int] = mapped_column(default=0)
    last_error: Mapped[str | None] = mapped_column(StorableText)
    # With which the server accepted it.
    reply: Mapped[str | None] = mapped_column(StorableText)
    message_id: Mapped[str] = mapped_column(sa.String(300))

    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    sending_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    bounced_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # When it is of no use any more, however often it is tried or sent again.
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (
        sa.Index("ix_email_messages_state_id", "state", "id"),
        sa.Index("ix_email_messages_kind_id", "kind", "id"),
        sa.Index("ix_email_messages_school_id_id", "school_id", "id"),
        sa.Index("ix_email_messages_school_id_state_id", "school_id", "state", "id"),
        sa.Index("ix_email_messages_recipient", "recipient", "id"),
        sa.Index("ix_email_messages_job_id", "job_id"),
        # Each mail writes to all of its indexes: none has what most mails lack, nor the time, which their ids have.
        _partial_index("subject", HAS_SUBJECT, "subject_type", "subject_id", "id"),
        _partial_index("change_id", sa.text("change_id IS NOT NULL"), "change_id"),
        _partial_index("bounced_at", sa.text("bounced_at IS NOT NULL"), "bounced_at"),
    )


class MailStatistics(Counted, Base):
    """What happened in this time to the mails of one kind.

    `accepted` counts those that were enqueued, `sent` those that the server accepted, `deferred` the attempts after
    which a mail is tried again, and the others the mails that ended so. A mail counts in the time of each event.
    """

    __tablename__ = "mail_statistics"

    kind: Mapped[str] = mapped_column(sa.String(KIND_CHARACTERS), primary_key=True)
    accepted: Mapped[int] = mapped_column(default=0)
    sent: Mapped[int] = mapped_column(default=0)
    deferred: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    bounced: Mapped[int] = mapped_column(default=0)
    skipped: Mapped[int] = mapped_column(default=0)

    # For pruning.
    __table_args__ = (sa.Index("ix_mail_statistics_resolution_at", "resolution", "at"),)


class MailTotals(Base):
    """The sums of MailStatistics over all complete minutes and schools, as JobTotals of jobs."""

    __tablename__ = "mail_totals"

    kind: Mapped[str] = mapped_column(sa.String(KIND_CHARACTERS), primary_key=True)

    __table_args__ = columns_of_totals(MailStatistics)


class SuppressionSource(StrEnum):
    """How an email address came to be suppressed."""

    SMTP = "smtp"  # the server refused it while a mail was sent
    BOUNCE = "bounce"  # a bounce message
    ADMIN = "admin"  # an admin added it


class EmailSuppression(Base):
    """An email address, of all schools, to which no mail is sent until an admin lifts the suppression."""

    __tablename__ = "email_suppressions"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True, default=new_id)
    # In lower case, as `EmailMessage.recipient`.
    email: Mapped[str] = mapped_column(_prefixed(EMAIL_CHARACTERS), unique=True)
    status_code: Mapped[str | None] = mapped_column(sa.String(STATUS_CODE_CHARACTERS))
    reason: Mapped[str | None] = mapped_column(StorableText)
    source: Mapped[SuppressionSource] = mapped_column(text_enum(SuppressionSource))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    # The mail that caused it, which may be deleted before.
    email_id: Mapped[str | None] = mapped_column(UuidText())
    user_id: Mapped[int | None]


class MailDomainHold(Base):
    """A domain whose server refuses us: counted, and after some refusals in a row held. A mail that it accepts deletes
    the row."""

    __tablename__ = "mail_domain_holds"

    domain: Mapped[str] = mapped_column(sa.String(DOMAIN_CHARACTERS), primary_key=True)
    refusals: Mapped[int] = mapped_column(default=0)  # in a row
    probes: Mapped[int] = mapped_column(default=0)  # refused since it is held
    last_reply: Mapped[str] = mapped_column(StorableText)
    # None while the refusals are only counted.
    held_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    held_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


@dataclass(frozen=True)
class MailEntry:
    """The values of a ledger row that rendering and sending need, without a session.

    Args:
        context: the context that the caller of `send_mails` gave.
        subject_type, subject_id: the row that the mail is about; the id as text.
        change_id: the StatusChange that caused it.
        user_id: the user who caused it, None for the system.
        school_id: the school that it belongs to; its context is read in the scope of that school.
        expires_at: when it is of no use any more.
    """

    id: str
    kind: str
    recipients: Sequence[str]
    context: Mapping[str, Any] = field(default_factory=dict)
    subject_type: str | None = None
    subject_id: str | None = None
    change_id: str | None = None
    user_id: int | None = None
    school_id: int | None = None
    job_id: str | None = None
    state: MailState = MailState.QUEUED
    message_id: str = ""
    expires_at: datetime | None = None

    @property
    def row_id(self) -> Any:
        """The id of the subject's row, with the type of its key; None when the mail has no subject."""
        subject = recorded_subject(self.subject_type, self.subject_id)
        return subject and subject.id


def is_expired(mail: EmailMessage | MailEntry) -> bool:
    """Return whether a mail is of no use any more."""
    return mail.expires_at is not None and mail.expires_at <= utc_now()


ENTRY_COLUMNS: tuple[Any, ...] = tuple(getattr(EmailMessage, name) for name in MailEntry.__dataclass_fields__)


def entry_of(mail: EmailMessage) -> MailEntry:
    """Return the values of a loaded row."""
    return MailEntry(**{name: getattr(mail, name) for name in MailEntry.__dataclass_fields__})
