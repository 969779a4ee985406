"""Delivering a chunk of mails: decide, render, mark as sending, hand over, and say what became of each.

No transaction is open while a server is talked to. `sent` commits together with the end of the mail's job, so the only
window is a death between the server's answer and that commit; the row then still says `sending`, and the next attempt
knows that the mail may have left.
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
from flask_belfry.mail.opt_outs import opted_out
from flask_belfry.mail.registry import Context, hourly_cap, kind_of
from flask_belfry.mail.rendering import render
from flask_belfry.mail.transport import deliver_message, is_server_working, lend_connection
from flask_belfry.outbox import JobState, JobTimeoutError

log = structlog.get_logger(__name__)

# Mails marked as sending before the first of them is handed over: few enough that a kill leaves little uncertain, and
# more when the server is fast, so that the commits in between do not slow it down.
FIRST_WAVE = 4
LARGEST_WAVE = 32
WAVE_SECONDS = 0.2
# What was known so long ago of who holds a wave's jobs is asked again: this process may have been frozen meanwhile.
HELD_SECONDS = 2.0
# A server that falls silent this often in a row is left alone until the next attempt.
SILENCES = 3
# How long mails are kept for which the server admits no connection, while it takes those of other processes.
RELEASE_SECONDS = 10.0

STATES_AFTER = {
    JobState.RETRYABLE: MailState.DEFERRED,
    JobState.FAILED: MailState.FAILED,
    JobState.CANCELLED: MailState.CANCELLED,
}
SETTLED = frozenset({MailState.SENT, MailState.SUPPRESSED, MailState.SKIPPED})


class Item(Protocol):
    """One job of a chunk."""

    @property
    def id(self) -> str: ...
    @property
    def args(self) -> Mapping[str, Any]: ...


class ItemAnswer(Protocol):
    """What the engine is about to commit for one job of a chunk."""

    @property
    def item(self) -> Item: ...
    @property
    def error(self) -> BaseException | None: ...
    @property
    def state(self) -> JobState: ...


class MailChunk(Protocol):
    """What delivery needs of the engine's chunk."""

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
class _Letter:
    """A mail on its way through one attempt."""

    item: Item
    entry: MailEntry
    message: OutgoingMessage | None = None
    may_have_left: bool = False


@dataclass
class Delivery:
    """One attempt at a chunk of mails."""

    chunk: MailChunk
    _letters: dict[str, _Letter] = field(default_factory=dict)
    _outcomes: dict[str, Outcome] = field(default_factory=dict)
    _unsendable: list[Callable[[], None]] = field(default_factory=list)
    _held_at: float = 0.0

    def run(self) -> None:
        """Answers or fails every item of the chunk."""
        self.chunk.before_commit(self._save)
        letters = self._wanted([letter for letter in self._load() if self._is_to_be_sent(letter)])
        contexts = _contexts(letters)
        rendered = [letter for letter in letters if self._render(letter, contexts)]
        self.chunk.session.rollback()  # no transaction is open while a server is talked to
        for end in self._unsendable:
            end()
        self._send_all(rendered)

    # ── Before sending: only reads; what is known to end already is ended after that ─────────────────────────

    def _load(self) -> list[_Letter]:
        items = list(self.chunk)
        entries = ledger.load(self.chunk.session, [item.args["email_id"] for item in items])
        for item in items:
            entry = entries.get(item.args["email_id"])
            if entry is None:
                self._later(self.chunk.fail, item, PermanentMailError("the ledger has no such mail (any more)"))
            else:
                self._letters[item.id] = _Letter(item, entry)
        return list(self._letters.values())

    def _is_to_be_sent(self, letter: _Letter) -> bool:
        entry = letter.entry
        if entry.job_id != letter.item.id:
            self._later(self.chunk.answer, letter.item, {"superseded": True})
        elif entry.state in SETTLED:
            self._later(self.chunk.answer, letter.item, {"state": entry.state.value})
        elif not entry.recipients:  # erased since
            self._later(self._end, letter, MailState.SKIPPED, "nobody is to get it any more")
        elif not current_app.config["MAIL_ENABLED"]:
            self._later(self._end, letter, MailState.SUPPRESSED)
        elif entry.state in (MailState.SENDING, MailState.UNCERTAIN) and _holds_uncertain():
            is_new = entry.state is MailState.SENDING
            self._later(self._hold, letter, "its worker died while it was handed over", is_new)
        else:
            return True
        return False

    def _wanted(self, letters: Sequence[_Letter]) -> list[_Letter]:
        # One that may have left already is not asked about: that it may have must stay on record.
        asked = [letter for letter in letters if letter.entry.state not in (MailState.SENDING, MailState.UNCERTAIN)]
        refused = opted_out(letter.entry for letter in asked)
        for letter in asked:
            if letter.entry.id in refused:
                self._later(self._end, letter, MailState.SKIPPED, "its reader does not want mails of this kind")
        beyond = self._beyond_caps([letter.entry for letter in asked if letter.entry.id not in refused])
        for letter in asked:
            if letter.entry.id in beyond:
                self._later(self._end, letter, MailState.SKIPPED, "the same user caused too many for this reader")
        return [letter for letter in letters if letter.entry.id not in refused | beyond]

    def _beyond_caps(self, entries: Sequence[MailEntry]) -> set[str]:
        if not current_app.config["RATE_LIMITS_ENABLED"]:
            return set()
        by_kind: defaultdict[str, list[MailEntry]] = defaultdict(list)
        for entry in entries:
            by_kind[entry.kind].append(entry)
        beyond: set[str] = set()
        for name, of_kind in by_kind.items():
            if cap := hourly_cap(name):
                beyond |= ledger.beyond_cap(self.chunk.session, name, of_kind, cap)
        return beyond

    def _render(self, letter: _Letter, contexts: Mapping[str, Context | BaseException | None]) -> bool:
        context = contexts.get(letter.entry.id)
        if context is None:
            self._later(self._end, letter, MailState.SKIPPED, "what it is about is gone")
            return False
        try:
            letter.message = message_for(letter.entry, _checked(context, letter.entry.kind))
        except MailError as error:
            self._later(self.chunk.fail, letter.item, error)
        except BaseException as error:
            if _is_about_all(error):
                raise
            self.chunk.session.rollback()
            self._later(self.chunk.fail, letter.item, error)
        else:
            return True
        return False

    def _later(self, end: Callable[..., None], *arguments: Any) -> None:
        self._unsendable.append(partial(end, *arguments))

    # ── Sending ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _send_all(self, letters: Sequence[_Letter]) -> None:
        if not letters:
            return
        try:
            with lend_connection(lambda: self.chunk.should_stop):
                self._send_waves(letters)
        except ServerUnreachableError as error:
            self._give_up(letters, error)

    def _send_waves(self, letters: Sequence[_Letter]) -> None:
        remaining, wave, silences = list(letters), FIRST_WAVE, 0
        while remaining:
            began_at = time.monotonic()
            now, remaining = remaining[:wave], remaining[wave:]
            now = self._mark_sending(now)
            while now := self._still_held(now):
                if self.chunk.should_stop:
                    return self._release(now + remaining)
                letter, *now = now
                error = self._send(letter)
                silences = silences + 1 if isinstance(error, ServerTimeoutError) else 0
                if error and silences >= SILENCES:
                    return self._fail_all(now + remaining, error)
            wave = _next_wave(wave, time.monotonic() - began_at)
        return None

    def _release(self, letters: Sequence[_Letter]) -> None:
        # Another thread or process begins them again.
        for letter in letters:
            self.chunk.release(letter.item)

    def _mark_sending(self, letters: Sequence[_Letter]) -> list[_Letter]:
        held = self.chunk.held([letter.item for letter in letters])
        mine = [letter for letter in letters if letter.item.id in held]
        _announce(self.chunk.session, [letter.entry for letter in mine])
        marked = ledger.mark_sending(self.chunk.session, [letter.entry.id for letter in mine])
        self._held_at = time.monotonic()
        return [letter for letter in mine if letter.entry.id in marked]

    def _still_held(self, letters: Sequence[_Letter]) -> list[_Letter]:
        """Those whose jobs nobody else has claimed since they were marked, and may have sent."""
        if not letters or time.monotonic() - self._held_at < HELD_SECONDS:
            return list(letters)
        held = self.chunk.held([letter.item for letter in letters])
        self.chunk.session.rollback()
        self._held_at = time.monotonic()
        return [letter for letter in letters if letter.item.id in held]

    def _send(self, letter: _Letter) -> MailError | None:
        """Hands one mail over and answers its item; returns the error that another mail might meet too.

        Raises:
            ServerUnreachableError: nothing of the mail was handed over, and its item has no answer.
        """
        assert letter.message is not None, "only rendered mails are sent"
        letter.may_have_left = True
        try:
            receipt = deliver_message(letter.message)
        except UncertainMailError as error:
            self._end_uncertain(letter, error)
        except ServerUnreachableError:
            letter.may_have_left = False
            raise
        except MailError as error:
            self._fail(letter, error)
            return error
        except BaseException as error:
            if _is_about_all(error):
                raise
            self.chunk.fail(letter.item, error)
        else:
            refused = "; ".join(map(str, receipt.refusals)) or None
            self._end(letter, MailState.SENT, f"refused {refused}" if refused else None)
        return None

    def _give_up(self, letters: Sequence[_Letter], error: ServerUnreachableError) -> None:
        """Ends what is left of `letters`, for which there is no connection: where others have one, the server works,
        and no attempt is used."""
        left = [letter for letter in letters if self.chunk.is_unanswered(letter.item)]
        if isinstance(error, ServerBusyError) or is_server_working():
            return self._release_unsent(left, error)
        if ledger.is_another_sending(self.chunk.session, [letter.entry.id for letter in self._letters.values()]):
            # Claimed again at once they would come back as fast, and keep those from working who have a connection.
            _pause(RELEASE_SECONDS, lambda: self.chunk.should_stop)
            return self._release_unsent(left, error)
        return self._fail_all(left, error)

    def _release_unsent(self, letters: Sequence[_Letter], error: ServerUnreachableError) -> None:
        log.warning("mail.released", mails=len(letters), reason=error.message)
        self._release(letters)

    def _fail_all(self, letters: Sequence[_Letter], error: MailError) -> None:
        # Each would wait as long for the same answer, and hold up the thread for all of them.
        for letter in letters:
            self._fail(letter, error)

    # ── Outcomes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _end(self, letter: _Letter, state: MailState, last_error: str | None = None) -> None:
        self._outcomes[letter.item.id] = Outcome(letter.entry.id, letter.item.id, state, last_error)
        self.chunk.answer(letter.item, {"state": state.value})

    def _hold(self, letter: _Letter, reason: str, is_new: bool) -> None:
        self._outcomes[letter.item.id] = Outcome(
            letter.entry.id, letter.item.id, MailState.UNCERTAIN, f"held: {reason}", is_new
        )
        self.chunk.answer(letter.item, {"state": MailState.UNCERTAIN.value, "held": True})

    def _end_uncertain(self, letter: _Letter, error: UncertainMailError) -> None:
        log.warning("mail.uncertain", mail=letter.entry.id, reason=error.message)
        if _holds_uncertain():
            self._hold(letter, error.detail, is_new=True)
        else:
            self._fail(letter, error)

    def _fail(self, letter: _Letter, error: MailError) -> None:
        letter.may_have_left = isinstance(error, UncertainMailError)
        self.chunk.fail(letter.item, error)

    def _save(self, session: Session, answers: Sequence[ItemAnswer]) -> None:
        """Called in each transaction that ends items: the ledger says the same as the job records, or neither does."""
        outcomes = [self._outcome(answer) for answer in answers]
        ledger.write_outcomes(session, [outcome for outcome in outcomes if outcome is not None])

    def _outcome(self, answer: ItemAnswer) -> Outcome | None:
        letter = self._letters.get(answer.item.id)
        if letter is None or letter.entry.job_id != answer.item.id:
            return self._outcomes.get(answer.item.id)
        is_released = answer.error is None and answer.state is JobState.RETRYABLE
        if is_released or answer.state is JobState.PENDING:  # another begins it again
            return None if letter.may_have_left else Outcome(letter.entry.id, letter.item.id, MailState.QUEUED)
        if answer.error is None:
            return self._outcomes.get(answer.item.id)
        is_uncertain = letter.may_have_left
        state = MailState.UNCERTAIN if is_uncertain else STATES_AFTER[answer.state]
        _log_failure(letter.entry, answer.error, state)
        return Outcome(letter.entry.id, answer.item.id, state, _in_full(answer.error), is_uncertain)


def deliver(chunk: MailChunk) -> None:
    """Delivers the mails of a chunk of `mail.deliver` jobs; each item's args hold the `email_id`."""
    Delivery(chunk).run()


def message_for(entry: MailEntry, context: Context) -> OutgoingMessage:
    """The mail as it goes out. Raises MailTemplateError."""
    rendered = render(entry.kind, context, entry.recipients[0])
    return OutgoingMessage(
        subject=rendered.subject,
        recipients=entry.recipients,
        text=rendered.text,
        html=rendered.html,
        message_id=entry.message_id,
        sender=current_app.config["MAIL_DEFAULT_SENDER"],
    )


def _contexts(letters: Sequence[_Letter]) -> dict[str, Context | BaseException | None]:
    alike: dict[tuple[str, int | None], list[MailEntry]] = defaultdict(list)
    for letter in letters:
        alike[letter.entry.kind, letter.entry.school_id].append(letter.entry)
    contexts: dict[str, Context | BaseException | None] = {}
    for (kind, school_id), entries in alike.items():
        # A mail of a school tells of nothing that is another's.
        with use_scope(scope_of(school_id)):
            contexts |= _contexts_of_kind(kind, entries)
    return contexts


def _announce(session: Session, entries: Sequence[MailEntry]) -> None:
    """Tells the kinds that want to know it which of their mails are about to be handed over."""
    for name, of_kind in _by_kind(entries).items():
        if (on_sending := kind_of(name).on_sending) is not None:
            on_sending(session, of_kind)


def _by_kind(entries: Iterable[MailEntry]) -> Mapping[str, list[MailEntry]]:
    found: dict[str, list[MailEntry]] = defaultdict(list)
    for entry in entries:
        found[entry.kind].append(entry)
    return found


def _contexts_of_kind(name: str, entries: Sequence[MailEntry]) -> dict[str, Context | BaseException | None]:
    """The contexts of one kind; an entry that makes its function fail is found by halving, and gets the error."""
    try:
        return dict(kind_of(name).contexts(entries))
    except BaseException as error:
        if _is_about_all(error):
            raise
        db.session.rollback()
        if len(entries) == 1:
            return {entries[0].id: error}
        half = len(entries) // 2
        return _contexts_of_kind(name, entries[:half]) | _contexts_of_kind(name, entries[half:])


def _checked(context: Context | BaseException, kind: str) -> Context:
    """The context, unless its kind's function failed over it."""
    if isinstance(context, MailError):
        raise context
    if isinstance(context, BaseException):
        said = f"{type(context).__name__}: {error_text(context)}"
        raise MailTemplateError(f"the context of {kind} cannot be had: {said}") from context
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
    # What a template or its context failed over may be personal; a server's answer may repeat the mailbox.
    answer = {}
    if isinstance(error, MailError) and not isinstance(error, MailTemplateError):
        answer["answer"] = without_mailbox(error.message, mailbox)
    log.warning(
        "mail.attempt_failed",
        mail=entry.id,
        kind=entry.kind,
        domain=domain,
        state=state.value,
        error=type(error).__name__,
        **answer,
    )


def _is_about_all(error: BaseException) -> bool:
    """Whether it ends the attempt of all mails of a chunk, and not of one: the database, the time limit, Ctrl-C."""
    return isinstance(error, JobTimeoutError | KeyboardInterrupt) or is_transient(error)


def _in_full(error: BaseException) -> str:
    return error.detail if isinstance(error, MailError) else f"{type(error).__name__}: {error_text(error)}"
