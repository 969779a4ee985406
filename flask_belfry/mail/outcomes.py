"""The outcomes of a chunk of mails: how the job of each ends, and what the ledger records with that.

The state `sent` is committed together with the end of the mail's job. The only window is a crash between the server's
reply and that commit: the row is then still `sending`, so that the next attempt knows that the mail may have been sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.db.columns import error_text
from flask_belfry.mail import ledger
from flask_belfry.mail.domain_holds import PROBE_SECONDS, DomainReplies, Hold, domain_of, hold_seconds, write_replies
from flask_belfry.mail.errors import (
    AddressRefusedError,
    MailError,
    MailTemplateError,
    SenderRefusedError,
    UncertainMailError,
    without_mailbox,
)
from flask_belfry.mail.ledger import Outcome
from flask_belfry.mail.message import OutgoingMessage
from flask_belfry.mail.models import MailEntry, MailState, SuppressionSource
from flask_belfry.mail.registry import MailOutcome, by_kind
from flask_belfry.mail.suppressions import suppress
from flask_belfry.outbox import JobState

log = structlog.get_logger(__name__)

STATES_AFTER = {
    JobState.RETRYABLE: MailState.DEFERRED,
    JobState.FAILED: MailState.FAILED,
    JobState.CANCELLED: MailState.CANCELLED,
}


class Item(Protocol):
    """A job of a chunk."""

    @property
    def id(self) -> str: ...
    @property
    def args(self) -> Mapping[str, Any]: ...


class ItemAnswer(Protocol):
    """The result that the engine is about to commit for a job of a chunk."""

    @property
    def item(self) -> Item: ...
    @property
    def error(self) -> BaseException | None: ...
    @property
    def state(self) -> JobState: ...


class MailChunk(Protocol):
    """The part of the engine's chunk that delivery uses."""

    session: Session

    def __iter__(self) -> Iterator[Item]: ...
    @property
    def should_stop(self) -> bool: ...
    def held(self, items: Any) -> set[str]: ...
    def is_unanswered(self, item: Any) -> bool: ...
    def release(self, item: Any) -> None: ...
    def answer(self, item: Any, result: Any = None) -> None: ...
    def fail(self, item: Any, error: BaseException) -> None: ...
    def snooze(self, item: Any, seconds: float, reason: str = "") -> None: ...
    def commit(self) -> None: ...
    def before_commit(self, save: Callable[[Session, Sequence[Any]], None]) -> None: ...


@dataclass
class ChunkMail:
    """A mail in one attempt, with its job. `probed` is the hold of its domain, of which it is the probe."""

    item: Item
    entry: MailEntry
    message: OutgoingMessage | None = None
    may_be_sent: bool = False
    probed: Hold | None = None
    refusal: SenderRefusedError | None = None

    @property
    def is_unsent(self) -> bool:
        """Whether no earlier attempt may have sent it. The state of others must record that they may be sent."""
        return self.entry.state not in (MailState.SENDING, MailState.UNCERTAIN)

    @property
    def domain(self) -> str:
        """The domain of its recipient."""
        return domain_of(self.entry.recipients[0])


@dataclass
class Outcomes:
    """The mails of a chunk in one attempt, by the ids of their jobs, and the outcomes so far."""

    chunk: MailChunk
    mails: dict[str, ChunkMail] = field(default_factory=dict)
    # The domains that are held since mails of the chunk were refused or accepted.
    _held: dict[str, Hold] = field(default_factory=dict)
    _outcomes: dict[str, Outcome] = field(default_factory=dict)

    def end(self, mail: ChunkMail, state: MailState, last_error: str | None = None, reply: str | None = None) -> None:
        """Complete the job of a mail, which then has this state, because the server accepted it with `reply`."""
        self._outcomes[mail.item.id] = Outcome(mail.entry.id, mail.item.id, state, last_error, reply)
        self.chunk.answer(mail.item, {"state": state.value})

    def hold(self, mail: ChunkMail, reason: str, is_new: bool) -> None:
        """Complete the job of a mail that a person must decide about."""
        self._outcomes[mail.item.id] = Outcome(
            mail.entry.id, mail.item.id, MailState.UNCERTAIN, f"held: {reason}", is_uncertain=is_new
        )
        self.chunk.answer(mail.item, {"state": MailState.UNCERTAIN.value, "held": True})

    def end_uncertain(self, mail: ChunkMail, error: UncertainMailError) -> None:
        """Hold a mail that may have been sent, or fail its job, according to MAIL_UNCERTAIN."""
        log.warning("mail.uncertain", mail=mail.entry.id, reason=error.message)
        if holds_uncertain():
            self.hold(mail, error.detail, is_new=True)
        else:
            self.fail(mail, error)

    def fail(self, mail: ChunkMail, error: MailError) -> None:
        """Fail the job of a mail."""
        mail.may_be_sent = isinstance(error, UncertainMailError)
        self.chunk.fail(mail.item, error)

    def fail_refused(self, mail: ChunkMail, error: SenderRefusedError) -> None:
        """Fail the job of a mail that was refused because of us, and count that before the next mail is sent. A probe
        waits instead, longer than the other mails of its domain: the next probe is another one, if there is one."""
        mail.may_be_sent, mail.refusal = False, error
        if mail.probed is None:
            self.chunk.fail(mail.item, error)
        else:
            seconds = hold_seconds(mail.probed.probes + 1) + PROBE_SECONDS
            self.chunk.snooze(mail.item, seconds, f"mail to {mail.domain} waits: {_reply(mail.entry, error)}")
        self.chunk.commit()

    def hold_of(self, mail: ChunkMail) -> Hold | None:
        """Return the hold for which the mail must wait; None if it may be sent."""
        return self._held.get(mail.domain) if mail.is_unsent else None

    def wait(self, mail: ChunkMail, hold: Hold) -> None:
        """Schedule the job of a mail again when the hold of its domain is due. No attempt is used."""
        self.chunk.snooze(mail.item, PROBE_SECONDS if hold.is_due else hold.seconds, hold.reason)

    def fail_all(self, mails: Sequence[ChunkMail], error: MailError) -> None:
        """Fail the jobs of several mails with one error."""
        for mail in mails:
            self.fail(mail, error)

    def release(self, mails: Sequence[ChunkMail]) -> None:
        """Release the claims: the jobs run again, and no attempt is used."""
        for mail in mails:
            self.chunk.release(mail.item)

    def write(self, session: Session, answers: Sequence[ItemAnswer]) -> None:
        """Write the outcomes in the transaction that ends the jobs, so that ledger and job records always agree."""
        outcomes = [outcome for answer in answers if (outcome := self._outcome(answer)) is not None]
        attempts = ledger.write_outcomes(session, outcomes)
        others = {outcome.mail_id for outcome in outcomes} - attempts.keys()
        for kind, entries in by_kind(mail.entry for mail in self.mails.values()).items():
            sent = [
                MailOutcome(entry.id, MailState.SENT, entry.context, attempts=attempts[entry.id])
                for entry in entries
                if entry.id in attempts
            ]
            ledger.report(session, kind, [entry.id for entry in entries if entry.id in others], sent)
        replies: dict[str, DomainReplies] = {}
        for answer in answers:
            if (mail := self._mail_of(answer)) is not None:
                self._add_reply(replies, mail, answer)
                if isinstance(answer.error, AddressRefusedError):
                    _suppress(session, mail.entry, answer.error)
        self._held |= write_replies(session, replies)

    def _add_reply(self, replies: dict[str, DomainReplies], mail: ChunkMail, answer: ItemAnswer) -> None:
        outcome = self._outcomes.get(answer.item.id)
        if mail.refusal is not None:
            reply = _reply(mail.entry, mail.refusal)
            replies.setdefault(mail.domain, DomainReplies()).add_refused(reply, is_probe=mail.probed is not None)
        elif answer.error is None and outcome is not None and outcome.state is MailState.SENT:
            replies.setdefault(mail.domain, DomainReplies()).add_accepted()

    def _mail_of(self, answer: ItemAnswer) -> ChunkMail | None:
        mail = self.mails.get(answer.item.id)
        return mail if mail is not None and mail.entry.job_id == answer.item.id else None

    def _outcome(self, answer: ItemAnswer) -> Outcome | None:
        mail = self._mail_of(answer)
        if mail is None:
            return self._outcomes.get(answer.item.id)
        is_released = answer.error is None and answer.state is JobState.RETRYABLE
        if is_released or answer.state is JobState.PENDING:  # the job runs again
            return None if mail.may_be_sent else Outcome(mail.entry.id, mail.item.id, MailState.QUEUED)
        if answer.error is None:
            return self._outcomes.get(answer.item.id)
        if answer.state is JobState.SCHEDULED:  # it waits for the hold of its domain
            return Outcome(mail.entry.id, answer.item.id, MailState.DEFERRED, str(answer.error))
        is_uncertain, error = mail.may_be_sent, answer.error
        state = MailState.UNCERTAIN if is_uncertain else STATES_AFTER[answer.state]
        _log_failure(mail.entry, error, state)
        reason = error.detail if isinstance(error, MailError) else f"{type(error).__name__}: {error_text(error)}"
        return Outcome(mail.entry.id, answer.item.id, state, reason, is_uncertain=is_uncertain)


def holds_uncertain() -> bool:
    """Return whether mails that may have been sent are held for a person."""
    return current_app.config["MAIL_UNCERTAIN"] == "hold"


def _suppress(session: Session, entry: MailEntry, error: AddressRefusedError) -> None:
    code, source = error.status_code, SuppressionSource.SMTP
    suppress(entry.recipients[0], code, source, reason=_reply(entry, error), mail_id=entry.id, session=session)


def _reply(entry: MailEntry, error: MailError) -> str:
    return without_mailbox(error.message, entry.recipients[0].rpartition("@")[0])


def _log_failure(entry: MailEntry, error: BaseException, state: MailState) -> None:
    domain = domain_of(entry.recipients[0]) if entry.recipients else ""
    # Errors of templates and contexts may quote personal data; a server's reply may quote the mailbox.
    reply = {}
    if isinstance(error, MailError) and not isinstance(error, MailTemplateError):
        reply["reply"] = _reply(entry, error)
    log.warning(
        "mail.attempt_failed",
        mail=entry.id,
        kind=entry.kind,
        domain=domain,
        state=state.value,
        error=type(error).__name__,
        **reply,
    )
