"""Held domains: mail to a domain waits whose server refuses us, until one mail, the probe, is accepted.

A refusal is counted in the transaction that ends the mail's job, over all workers. Where no server refuses us, the
table is empty, and a commit with sent mails reads it once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from flask_belfry.changes import Subject, for_school
from flask_belfry.changes.actor import SUBJECT_ID_CHARACTERS
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import NotFoundError
from flask_belfry.db import db, insert_ignoring_conflicts, table_of
from flask_belfry.db.columns import is_storable
from flask_belfry.mail.models import DOMAIN_CHARACTERS, EmailMessage, MailDomainHold, MailState
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.outbox.pending import PendingMessage, publish_on_commit

log = structlog.get_logger(__name__)

# A domain is held after this many refusals in a row.
MAX_REFUSALS = 5
HOLD_SECONDS, LONGEST_HOLD_SECONDS = 15 * 60, 4 * 3_600
# The time that a probe has before another mail becomes the probe.
PROBE_SECONDS = 60
SUBJECT = "mail_hold"
_HOLDS = table_of(MailDomainHold)
_columns = _HOLDS.c
_IS_AMONG = _columns.domain.in_(sa.bindparam("domains", expanding=True))
_READ = sa.select(_columns.domain, _columns.probes, _columns.last_reply, _columns.held_until).where(
    _IS_AMONG, _columns.held_until.is_not(None)
)
# In one order, so that two transactions wait for each other and do not deadlock.
_LOCK = sa.select(_HOLDS).where(_IS_AMONG).order_by(_columns.domain).with_for_update()


@dataclass(frozen=True)
class Hold:
    """A held domain, as far as deliveries need it."""

    domain: str
    probes: int
    last_reply: str
    held_until: datetime

    @property
    def is_due(self) -> bool:
        """Whether a probe may be sent."""
        return self.held_until <= utc_now()

    @property
    def seconds(self) -> float:
        """The time until the next probe."""
        return max((self.held_until - utc_now()).total_seconds(), 1.0)

    @property
    def reason(self) -> str:
        """Why the domain's mails wait."""
        return f"mail to {self.domain} waits: {self.last_reply}"


@dataclass
class DomainReplies:
    """What the server of a domain answered to the mails of one commit, in their order.

    Args:
        was_accepted: whether it accepted one.
        refusals: how many mails it refused because of us after that.
        last_reply: the reply to the last of them, without the mailbox.
        is_probe: whether the last of them was the probe of a held domain.
    """

    was_accepted: bool = False
    refusals: int = 0
    last_reply: str = ""
    is_probe: bool = False

    def add_accepted(self) -> None:
        """Add a mail that was accepted."""
        self.was_accepted, self.refusals = True, 0

    def add_refused(self, reply: str, *, is_probe: bool) -> None:
        """Add a mail that was refused because of us."""
        self.refusals, self.last_reply, self.is_probe = self.refusals + 1, reply, is_probe


def domain_of(email: str) -> str:
    """Return the domain of an email address, as the table has it."""
    return email.rpartition("@")[2].lower()[:DOMAIN_CHARACTERS]


def hold_seconds(probes: int) -> int:
    """Return how long a domain is held after this many refused probes."""
    return min(HOLD_SECONDS * 2 ** min(probes, 10), LONGEST_HOLD_SECONDS)


def read_holds(session: Session, domains: Collection[str]) -> dict[str, Hold]:
    """Return those of `domains` that are held, with one query."""
    if not domains:
        return {}
    rows = session.connection().execute(_READ, {"domains": list(domains)})
    return {row.domain: Hold(*row) for row in rows}


def claim_probe(session: Session, hold: Hold) -> bool:
    """Return whether the caller may send the probe of a domain whose hold is due, one caller at a time. Commits."""
    statement = (
        sa.update(_HOLDS)
        .where(_columns.domain == hold.domain, _columns.held_until == hold.held_until)
        .values(held_until=utc_now() + timedelta(seconds=PROBE_SECONDS))
        .returning(_columns.domain)
    )
    is_claimed = session.connection().execute(statement).first() is not None
    session.commit()
    return is_claimed


def write_replies(session: Session, replies: Mapping[str, DomainReplies]) -> dict[str, Hold]:
    """Count refusals, hold domains, extend and lift holds, in the caller's transaction.

    Args:
        session: whose transaction.
        replies: what the servers answered, by domain.

    Returns:
        the domains among them that are held now.
    """
    if not replies:
        return {}
    if refused := [domain for domain, each in replies.items() if each.refusals]:
        new = {"refusals": 0, "probes": 0, "last_reply": "", "held_since": None, "held_until": None}
        rows = [new | {"domain": domain} for domain in refused]
        insert_ignoring_conflicts(session, MailDomainHold, rows, key="domain")
    found = session.connection().execute(_LOCK, {"domains": list(replies)}).all()
    changed = [_changed(row, replies[row.domain]) for row in found]
    _delete(session, [row.domain for row, values in zip(found, changed, strict=True) if values is None])
    held: dict[str, Hold] = {}
    for row, values in zip(found, changed, strict=True):
        if values is not None:
            session.connection().execute(sa.update(_HOLDS).where(_columns.domain == row.domain).values(values))
            if values["held_until"] is not None:
                held[row.domain] = Hold(row.domain, values["probes"], values["last_reply"], values["held_until"])
        elif row.held_since is not None:
            log.info("mail.hold_lifted", domain=row.domain, reason="a mail was accepted")
    return held


def held_domains() -> Sequence[MailDomainHold]:
    """Return the held domains, the longest held first."""
    query = sa.select(MailDomainHold).where(MailDomainHold.held_since.is_not(None))
    return db.session.scalars(query.order_by(MailDomainHold.held_since, MailDomainHold.domain)).all()


def lift_hold(domain: str) -> None:
    """Lift the hold of a domain, make its waiting mails due, and record the action. Commits. Raises NotFoundError."""
    key = domain.strip().lower()[:DOMAIN_CHARACTERS]
    row = db.session.get(MailDomainHold, key) if is_storable(key) else None
    if row is None or row.held_since is None:
        raise NotFoundError(f"Mail to {domain} is not held.")
    db.session.delete(row)
    db.session.flush()
    _wake(row.domain)
    # The id of a subject may be shorter than a domain.
    subject = Subject(SUBJECT, row.domain[:SUBJECT_ID_CHARACTERS])
    with for_school(None):
        current_host().record_action("mail_hold.lift", {subject: None}, {"domain": row.domain})
    db.session.commit()


def _changed(row: Any, replies: DomainReplies) -> dict[str, Any] | None:
    """Return the new values of a locked row, or None if it is deleted."""
    if replies.was_accepted and not replies.refusals:
        return None
    now = utc_now()
    was_held = row.held_since is not None and not replies.was_accepted
    values: dict[str, Any] = {
        "refusals": replies.refusals + (0 if replies.was_accepted else row.refusals),
        "probes": row.probes if was_held else 0,
        "last_reply": replies.last_reply,
        "held_since": row.held_since if was_held else None,
        "held_until": row.held_until if was_held else None,
    }
    if was_held and replies.is_probe:
        values["probes"] += 1
        values["held_until"] = now + timedelta(seconds=hold_seconds(values["probes"]))
    elif not was_held and values["refusals"] >= MAX_REFUSALS:
        values |= {"held_since": now, "held_until": now + timedelta(seconds=hold_seconds(0))}
        log.warning("mail.domain_held", domain=row.domain, refusals=values["refusals"], reply=replies.last_reply)
    return values


def _delete(session: Session, domains: Sequence[str]) -> None:
    if domains:
        session.connection().execute(sa.delete(_HOLDS).where(_IS_AMONG), {"domains": domains})


def _wake(domain: str) -> None:
    """Make the jobs due that wait for a domain. Their mails are deferred, of which there are few without a hold."""
    of_domain = sa.select(EmailMessage.job_id).where(
        EmailMessage.state == MailState.DEFERRED, EmailMessage.recipient.endswith(f"@{domain}", autoescape=True)
    )
    now = utc_now()
    statement = (
        sa.update(JobRecord)
        .where(JobRecord.id.in_(of_domain), JobRecord.state == JobState.SCHEDULED)
        .values(scheduled_at=now)
        .returning(JobRecord.id, JobRecord.name, JobRecord.queue, JobRecord.timeout_seconds)
    )
    rows = db.session.execute(statement, execution_options={"synchronize_session": False}).all()
    publish_on_commit(db.session(), [PendingMessage(*row, scheduled_at=now) for row in rows])
