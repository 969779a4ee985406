"""Delivery of a chunk of mails: select, render, mark as sending, send, and record the outcome of each.

No transaction is open while the SMTP server is used. The state `sent` is committed together with the end of the mail's
job. The only window is a crash between the server's reply and that commit: the row is then still `sending`, so that the
next attempt knows that the mail may have been sent.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import structlog
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.core.database_errors import is_transient
from flask_belfry.db import db
from flask_belfry.db.columns import error_text
from flask_belfry.db.tenancy import scope_of, use_scope
from flask_belfry.mail import ledger
from flask_belfry.mail.errors import (
    MailError,
    MailTemplateError,
    PermanentMailError,
    ServerBusyError,
    ServerTimeoutError,
    ServerUnreachableError,
    UncertainMailError,
    without_mailbox,
)
from flask_belfry.mail.ledger import Outcome
from flask_belfry.mail.message import OutgoingMessage
from flask_belfry.mail.models import MailEntry, MailState
from flask_belfry.mail.registry import Context, hourly_cap, kind_of, opted_out
from flask_belfry.mail.rendering import render
from flask_belfry.mail.transport import deliver_message, is_server_working, lend_connection
from flask_belfry.outbox import JobState, JobTimeoutError

log = structlog.get_logger(__name__)

# The number of mails that are marked as sending in one commit: few, so that a crash leaves few uncertain, and more when
# the server is fast, so that commits do not slow down sending.
FIRST_WAVE = 4
LARGEST_WAVE = 32
WAVE_SECONDS = 0.2
# The claims of a wave's jobs are checked again after this time: the process may have been frozen meanwhile.
HELD_SECONDS = 2.0
# After this many server timeouts in a row the other mails of the chunk fail without being tried.
MAX_SERVER_TIMEOUTS = 3
# How long mails are kept before they are released, if the server admits no connection but serves other processes.
RELEASE_SECONDS = 10.0

STATES_AFTER = {
    JobState.RETRYABLE: MailState.DEFERRED,
    JobState.FAILED: MailState.FAILED,
    JobState.CANCELLED: MailState.CANCELLED,
}
FINAL = frozenset({MailState.SENT, MailState.SUPPRESSED, MailState.SKIPPED})


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
    def before_commit(self, save: Callable[[Session, Sequence[Any]], None]) -> None: ...


@dataclass
class _Mail:
    """A mail in one attempt, with its job."""

    item: Item
    entry: MailEntry
    message: OutgoingMessage | None = None
    may_be_sent: bool = False


@dataclass
class Delivery:
    """One attempt to deliver a chunk of mails."""

    chunk: MailChunk
    _mails: dict[str, _Mail] = field(default_factory=dict)
    _outcomes: dict[str, Outcome] = field(default_factory=dict)
    _unsendable: list[Callable[[], None]] = field(default_factory=list)
    _held_at: float = 0.0

    def run(self) -> None:
        """Complete, fail or release every job of the chunk."""
        self.chunk.before_commit(self._save)
        mails = self._without_skipped([mail for mail in self._load() if self._is_sendable(mail)])
        contexts = _contexts(mails)
        rendered = [mail for mail in mails if self._render(mail, contexts)]
        self.chunk.session.rollback()  # no transaction is open while the SMTP server is used
        for end in self._unsendable:
            end()
        self._send_all(rendered)

    # ── Before sending: these methods only read; `_later` collects what ends the unsendable mails ────────────────

    def _load(self) -> list[_Mail]:
        items = list(self.chunk)
        entries = ledger.load(self.chunk.session, [item.args["email_id"] for item in items])
        for item in items:
            entry = entries.get(item.args["email_id"])
            if entry is None:
                self._later(self.chunk.fail, item, PermanentMailError("the ledger has no such mail"))
            else:
                self._mails[item.id] = _Mail(item, entry)
        return list(self._mails.values())

    def _is_sendable(self, mail: _Mail) -> bool:
        entry = mail.entry
        if entry.job_id != mail.item.id:
            self._later(self.chunk.answer, mail.item, {"superseded": True})
        elif entry.state in FINAL:
            self._later(self.chunk.answer, mail.item, {"state": entry.state.value})
        elif not entry.recipients:  # erased
            self._later(self._end, mail, MailState.SKIPPED, "its recipient was deleted")
        elif not current_app.config["MAIL_ENABLED"]:
            self._later(self._end, mail, MailState.SUPPRESSED)
        elif entry.state in (MailState.SENDING, MailState.UNCERTAIN) and _holds_uncertain():
            is_new = entry.state is MailState.SENDING
            self._later(self._hold, mail, "its worker crashed while it was sending it", is_new)
        else:
            return True
        return False

    def _without_skipped(self, mails: Sequence[_Mail]) -> list[_Mail]:
        # Mails that may have been sent already are not skipped, because their state must record that.
        unsent = [mail for mail in mails if mail.entry.state not in (MailState.SENDING, MailState.UNCERTAIN)]
        refusing = opted_out(mail.entry for mail in unsent)
        for mail in unsent:
            if mail.entry.id in refusing:
                self._later(self._end, mail, MailState.SKIPPED, "the recipient opted out of this kind of mail")
        beyond = self._beyond_caps([mail.entry for mail in unsent if mail.entry.id not in refusing])
        for mail in unsent:
            if mail.entry.id in beyond:
                self._later(self._end, mail, MailState.SKIPPED, "one user caused too many mails for this recipient")
        return [mail for mail in mails if mail.entry.id not in refusing | beyond]

    def _beyond_caps(self, entries: Sequence[MailEntry]) -> set[str]:
        if not current_app.config["RATE_LIMITS_ENABLED"]:
            return set()
        beyond: set[str] = set()
        for name, of_kind in _by_kind(entries).items():
            if cap := hourly_cap(name):
                beyond |= ledger.beyond_cap(self.chunk.session, name, of_kind, cap)
        return beyond

    def _render(self, mail: _Mail, contexts: Mapping[str, Context | BaseException | None]) -> bool:
        context = contexts.get(mail.entry.id)
        if context is None:
            self._later(self._end, mail, MailState.SKIPPED, "its subject no longer exists")
            return False
        try:
            mail.message = message_for(mail.entry, _checked(context, mail.entry.kind))
        except MailError as error:
            self._later(self.chunk.fail, mail.item, error)
        except BaseException as error:
            if _concerns_chunk(error):
                raise
            self.chunk.session.rollback()
            self._later(self.chunk.fail, mail.item, error)
        else:
            return True
        return False

    def _later(self, end: Callable[..., None], *arguments: Any) -> None:
        self._unsendable.append(partial(end, *arguments))

    # ── Sending ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _send_all(self, mails: Sequence[_Mail]) -> None:
        if not mails:
            return
        try:
            with lend_connection(lambda: self.chunk.should_stop):
                self._send_waves(mails)
        except ServerUnreachableError as error:
            self._handle_unreachable(mails, error)

    def _send_waves(self, mails: Sequence[_Mail]) -> None:
        remaining, wave, timeouts = list(mails), FIRST_WAVE, 0
        while remaining:
            began_at = time.monotonic()
            now, remaining = remaining[:wave], remaining[wave:]
            now = self._mark_sending(now)
            while now := self._still_held(now):
                if self.chunk.should_stop:
                    return self._release(now + remaining)
                mail, *now = now
                error = self._send(mail)
                timeouts = timeouts + 1 if isinstance(error, ServerTimeoutError) else 0
                if error and timeouts >= MAX_SERVER_TIMEOUTS:
                    return self._fail_all(now + remaining, error)
            wave = _next_wave(wave, time.monotonic() - began_at)
        return None

    def _release(self, mails: Sequence[_Mail]) -> None:
        for mail in mails:
            self.chunk.release(mail.item)

    def _mark_sending(self, mails: Sequence[_Mail]) -> list[_Mail]:
        held = self.chunk.held([mail.item for mail in mails])
        mine = [mail for mail in mails if mail.item.id in held]
        _call_on_sending(self.chunk.session, [mail.entry for mail in mine])
        marked = ledger.mark_sending(self.chunk.session, [mail.entry.id for mail in mine])
        self._held_at = time.monotonic()
        return [mail for mail in mine if mail.entry.id in marked]

    def _still_held(self, mails: Sequence[_Mail]) -> list[_Mail]:
        """Return the mails whose jobs this worker still holds: another claim may have sent the others."""
        if not mails or time.monotonic() - self._held_at < HELD_SECONDS:
            return list(mails)
        held = self.chunk.held([mail.item for mail in mails])
        self.chunk.session.rollback()
        self._held_at = time.monotonic()
        return [mail for mail in mails if mail.item.id in held]

    def _send(self, mail: _Mail) -> MailError | None:
        """Send a mail and end its job. Return an error that may affect other mails too.

        Raises:
            ServerUnreachableError: nothing of the mail was sent, and its job has not ended.
        """
        assert mail.message is not None, "only rendered mails are sent"
        mail.may_be_sent = True
        try:
            receipt = deliver_message(mail.message)
        except UncertainMailError as error:
            self._end_uncertain(mail, error)
        except ServerUnreachableError:
            mail.may_be_sent = False
            raise
        except MailError as error:
            self._fail(mail, error)
            return error
        except BaseException as error:
            if _concerns_chunk(error):
                raise
            self.chunk.fail(mail.item, error)
        else:
            refused = "; ".join(map(str, receipt.refusals))
            self._end(mail, MailState.SENT, f"refused {refused}" if refused else None)
        return None

    def _handle_unreachable(self, mails: Sequence[_Mail], error: ServerUnreachableError) -> None:
        """End the mails that were not sent because no connection is available: if other threads or processes have one,
        the server works, and no attempt is used."""
        unsent = [mail for mail in mails if self.chunk.is_unanswered(mail.item)]
        if isinstance(error, ServerBusyError) or is_server_working():
            return self._release_unsent(unsent, error)
        if ledger.is_another_sending(self.chunk.session, [mail.entry.id for mail in self._mails.values()]):
            # Without the pause this worker would claim them again immediately, and slow down those with a connection.
            _pause(RELEASE_SECONDS, lambda: self.chunk.should_stop)
            return self._release_unsent(unsent, error)
        return self._fail_all(unsent, error)

    def _release_unsent(self, mails: Sequence[_Mail], error: ServerUnreachableError) -> None:
        log.warning("mail.released", mails=len(mails), reason=error.message)
        self._release(mails)

    def _fail_all(self, mails: Sequence[_Mail], error: MailError) -> None:
        # Each would wait for the same failure, and block the thread meanwhile.
        for mail in mails:
            self._fail(mail, error)

    # ── Outcomes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _end(self, mail: _Mail, state: MailState, last_error: str | None = None) -> None:
        self._outcomes[mail.item.id] = Outcome(mail.entry.id, mail.item.id, state, last_error)
        self.chunk.answer(mail.item, {"state": state.value})

    def _hold(self, mail: _Mail, reason: str, is_new: bool) -> None:
        self._outcomes[mail.item.id] = Outcome(
            mail.entry.id, mail.item.id, MailState.UNCERTAIN, f"held: {reason}", is_new
        )
        self.chunk.answer(mail.item, {"state": MailState.UNCERTAIN.value, "held": True})

    def _end_uncertain(self, mail: _Mail, error: UncertainMailError) -> None:
        log.warning("mail.uncertain", mail=mail.entry.id, reason=error.message)
        if _holds_uncertain():
            self._hold(mail, error.detail, is_new=True)
        else:
            self._fail(mail, error)

    def _fail(self, mail: _Mail, error: MailError) -> None:
        mail.may_be_sent = isinstance(error, UncertainMailError)
        self.chunk.fail(mail.item, error)

    def _save(self, session: Session, answers: Sequence[ItemAnswer]) -> None:
        """Write the outcomes in the transaction that ends the jobs, so that ledger and job records always agree."""
        outcomes = [self._outcome(answer) for answer in answers]
        ledger.write_outcomes(session, [outcome for outcome in outcomes if outcome is not None])

    def _outcome(self, answer: ItemAnswer) -> Outcome | None:
        mail = self._mails.get(answer.item.id)
        if mail is None or mail.entry.job_id != answer.item.id:
            return self._outcomes.get(answer.item.id)
        is_released = answer.error is None and answer.state is JobState.RETRYABLE
        if is_released or answer.state is JobState.PENDING:  # the job runs again
            return None if mail.may_be_sent else Outcome(mail.entry.id, mail.item.id, MailState.QUEUED)
        if answer.error is None:
            return self._outcomes.get(answer.item.id)
        is_uncertain = mail.may_be_sent
        state = MailState.UNCERTAIN if is_uncertain else STATES_AFTER[answer.state]
        _log_failure(mail.entry, answer.error, state)
        return Outcome(mail.entry.id, answer.item.id, state, _in_full(answer.error), is_uncertain)


def deliver(chunk: MailChunk) -> None:
    """Deliver the mails of a chunk of `mail.deliver` jobs, whose argument `email_id` names the mail."""
    Delivery(chunk).run()


def message_for(entry: MailEntry, context: Context) -> OutgoingMessage:
    """Render a mail. Raises MailTemplateError."""
    rendered = render(entry.kind, context, entry.recipients[0])
    return OutgoingMessage(
        subject=rendered.subject,
        recipients=entry.recipients,
        text=rendered.text,
        html=rendered.html,
        message_id=entry.message_id,
        sender=current_app.config["MAIL_DEFAULT_SENDER"],
    )


def _contexts(mails: Sequence[_Mail]) -> dict[str, Context | BaseException | None]:
    groups: dict[tuple[str, int | None], list[MailEntry]] = defaultdict(list)
    for mail in mails:
        groups[mail.entry.kind, mail.entry.school_id].append(mail.entry)
    contexts: dict[str, Context | BaseException | None] = {}
    for (kind, school_id), entries in groups.items():
        # A mail of one school must not contain data of another.
        with use_scope(scope_of(school_id)):
            contexts |= _contexts_of_kind(kind, entries)
    return contexts


def _call_on_sending(session: Session, entries: Sequence[MailEntry]) -> None:
    """Call the `on_sending` functions of the kinds."""
    for name, of_kind in _by_kind(entries).items():
        if (on_sending := kind_of(name).on_sending) is not None:
            on_sending(session, of_kind)


def _by_kind(entries: Iterable[MailEntry]) -> Mapping[str, list[MailEntry]]:
    found: dict[str, list[MailEntry]] = defaultdict(list)
    for entry in entries:
        found[entry.kind].append(entry)
    return found


def _contexts_of_kind(name: str, entries: Sequence[MailEntry]) -> dict[str, Context | BaseException | None]:
    """Return the contexts of one kind. If its function fails, halving finds the faulty entry, which gets the error."""
    try:
        return dict(kind_of(name).contexts(entries))
    except BaseException as error:
        if _concerns_chunk(error):
            raise
        db.session.rollback()
        if len(entries) == 1:
            return {entries[0].id: error}
        half = len(entries) // 2
        return _contexts_of_kind(name, entries[:half]) | _contexts_of_kind(name, entries[half:])


def _checked(context: Context | BaseException, kind: str) -> Context:
    """Return the context; raise the error of the kind's function."""
    if isinstance(context, MailError):
        raise context
    if isinstance(context, BaseException):
        reason = f"{type(context).__name__}: {error_text(context)}"
        raise MailTemplateError(f"the context of {kind} failed: {reason}") from context
    return context


def _pause(seconds: float, should_stop: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at and not should_stop():
        time.sleep(0.1)


def _next_wave(wave: int, took_seconds: float) -> int:
    if took_seconds > WAVE_SECONDS:
        return max(FIRST_WAVE, wave // 2)
    return min(LARGEST_WAVE, wave * 2)


def _holds_uncertain() -> bool:
    return current_app.config["MAIL_UNCERTAIN"] == "hold"


def _log_failure(entry: MailEntry, error: BaseException, state: MailState) -> None:
    mailbox, _, domain = entry.recipients[0].rpartition("@") if entry.recipients else ("", "", "")
    # Errors of templates and contexts may quote personal data; a server's reply may quote the mailbox.
    reply = {}
    if isinstance(error, MailError) and not isinstance(error, MailTemplateError):
        reply["reply"] = without_mailbox(error.message, mailbox)
    log.warning(
        "mail.attempt_failed",
        mail=entry.id,
        kind=entry.kind,
        domain=domain,
        state=state.value,
        error=type(error).__name__,
        **reply,
    )


def _concerns_chunk(error: BaseException) -> bool:
    """Return whether an error ends the whole chunk: a transient database error, the time limit, Ctrl-C."""
    return isinstance(error, JobTimeoutError | KeyboardInterrupt) or is_transient(error)


def _in_full(error: BaseException) -> str:
    return error.detail if isinstance(error, MailError) else f"{type(error).__name__}: {error_text(error)}"
