"""Preparation of a chunk of mails: which of them are sent, and their messages. Only the database is used, to read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from flask import current_app

from flask_belfry.core.database_errors import is_transient
from flask_belfry.db import db
from flask_belfry.db.columns import error_text
from flask_belfry.db.tenancy import scope_of, use_scope
from flask_belfry.mail import ledger
from flask_belfry.mail.domain_holds import claim_probe, read_holds
from flask_belfry.mail.errors import MailError, MailTemplateError, PermanentMailError
from flask_belfry.mail.message import OutgoingMessage
from flask_belfry.mail.models import MailEntry, MailState, is_expired
from flask_belfry.mail.outcomes import ChunkMail, Outcomes, holds_uncertain
from flask_belfry.mail.registry import (
    Context,
    ContextOrSkip,
    Skip,
    by_kind,
    hourly_cap,
    kind_of,
    opted_out,
    unsubscribe_paths,
)
from flask_belfry.mail.rendering import Rendered, absolute_url, render
from flask_belfry.mail.return_path import return_path
from flask_belfry.mail.suppressions import suppressed_among
from flask_belfry.outbox import JobTimeoutError

FINAL = frozenset({MailState.SENT, MailState.SUPPRESSED, MailState.SKIPPED, MailState.BOUNCED})


def prepare(outcomes: Outcomes) -> list[ChunkMail]:
    """Return the mails of the chunk that are to be sent, rendered. The jobs of the others have ended.

    No transaction is open afterwards, because the SMTP server is used next.
    """
    return _Preparation(outcomes).run()


def message_for(entry: MailEntry, context: Context, unsubscribe_path: str | None = None) -> OutgoingMessage:
    """Render a mail. Raises MailTemplateError."""
    unsubscribe_url = absolute_url(unsubscribe_path) if unsubscribe_path else None
    rendered = render(entry.kind, context, entry.recipients[0], unsubscribe_url)
    return message_of(entry, rendered, unsubscribe_url)


def message_of(
    entry: MailEntry, rendered: Rendered, unsubscribe_url: str | None = None, *, sent_at: datetime | None = None
) -> OutgoingMessage:
    """Return the message of a rendered mail."""
    return OutgoingMessage(
        subject=rendered.subject,
        recipients=entry.recipients,
        text=rendered.text,
        html=rendered.html,
        message_id=entry.message_id,
        sender=current_app.config["MAIL_DEFAULT_SENDER"],
        extra_headers=_bulk_headers(entry.kind, unsubscribe_url),
        return_path=return_path(entry.id),
        sent_at=sent_at,
    )


def concerns_chunk(error: BaseException) -> bool:
    """Return whether an error ends the whole chunk: a transient database error, the time limit, Ctrl-C."""
    return isinstance(error, JobTimeoutError | KeyboardInterrupt) or is_transient(error)


class _Preparation:
    """Selects and renders mails; `_later` collects what ends the others, because the steps only read."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._chunk, self._outcomes = outcomes.chunk, outcomes
        self._unsendable: list[Callable[[], None]] = []

    def run(self) -> list[ChunkMail]:
        mails = self._without_held(self._without_skipped([mail for mail in self._load() if self._is_sendable(mail)]))
        contexts = _contexts(mails)
        paths = unsubscribe_paths([mail.entry for mail in mails])
        rendered = [mail for mail in mails if self._render(mail, contexts, paths.get(mail.entry.id))]
        self._chunk.session.rollback()
        for end in self._unsendable:
            end()
        return rendered

    def _load(self) -> list[ChunkMail]:
        items = list(self._chunk)
        entries = ledger.load(self._chunk.session, [item.args["email_id"] for item in items])
        for item in items:
            entry = entries.get(item.args["email_id"])
            if entry is None:
                self._later(self._chunk.fail, item, PermanentMailError("the ledger has no such mail"))
            else:
                self._outcomes.mails[item.id] = ChunkMail(item, entry)
        return list(self._outcomes.mails.values())

    def _is_sendable(self, mail: ChunkMail) -> bool:
        entry = mail.entry
        if entry.job_id != mail.item.id:
            self._later(self._chunk.answer, mail.item, {"superseded": True})
        elif entry.state in FINAL:
            self._later(self._chunk.answer, mail.item, {"state": entry.state.value})
        elif not entry.recipients:  # erased
            self._later(self._outcomes.end, mail, MailState.SKIPPED, "its recipient was deleted")
        elif not current_app.config["MAIL_ENABLED"]:
            self._later(self._outcomes.end, mail, MailState.SUPPRESSED)
        elif entry.state in (MailState.SENDING, MailState.UNCERTAIN) and holds_uncertain():
            is_new = entry.state is MailState.SENDING
            self._later(self._outcomes.hold, mail, "its worker crashed while it was sending it", is_new)
        else:
            return True
        return False

    def _without_skipped(self, mails: Sequence[ChunkMail]) -> list[ChunkMail]:
        # Mails that may have been sent already are not skipped, because their state must record that.
        unsent = [mail for mail in mails if mail.is_unsent]
        suppressed = suppressed_among({mail.entry.recipients[0] for mail in unsent})
        refusing = opted_out(mail.entry for mail in unsent)
        for mail in unsent:
            if is_expired(mail.entry):  # its job was retried without its time
                refusing.add(mail.entry.id)
                self._later(self._outcomes.end, mail, MailState.CANCELLED, ledger.EXPIRED)
            elif reason := suppressed.get(mail.entry.recipients[0]):
                refusing.add(mail.entry.id)
                self._later(self._outcomes.end, mail, MailState.SKIPPED, f"suppressed: {reason}")
            elif mail.entry.id in refusing:
                self._later(self._outcomes.end, mail, MailState.SKIPPED, "the recipient opted out of this kind of mail")
        beyond = self._beyond_caps([mail.entry for mail in unsent if mail.entry.id not in refusing])
        for mail in unsent:
            if mail.entry.id in beyond:
                self._later(
                    self._outcomes.end, mail, MailState.SKIPPED, "one user caused too many mails for this recipient"
                )
        return [mail for mail in mails if mail.entry.id not in refusing | beyond]

    def _without_held(self, mails: Sequence[ChunkMail]) -> list[ChunkMail]:
        """Return the mails to domains that are not held; of a domain whose hold is due, one mail is the probe."""
        unsent = [mail for mail in mails if mail.is_unsent]
        holds = read_holds(self._chunk.session, {mail.domain for mail in unsent})
        held = [mail for mail in unsent if mail.domain in holds]
        for mail in {mail.domain: mail for mail in held}.values():
            hold = holds[mail.domain]
            if hold.is_due and claim_probe(self._chunk.session, hold):
                mail.probed = hold
        waiting = [mail for mail in held if mail.probed is None]
        for mail in waiting:
            self._later(self._outcomes.wait, mail, holds[mail.domain])
        waiting_ids = {mail.entry.id for mail in waiting}
        return [mail for mail in mails if mail.entry.id not in waiting_ids]

    def _beyond_caps(self, entries: Sequence[MailEntry]) -> set[str]:
        if not current_app.config["RATE_LIMITS_ENABLED"]:
            return set()
        beyond: set[str] = set()
        for name, of_kind in by_kind(entries).items():
            if cap := hourly_cap(name):
                beyond |= ledger.beyond_cap(self._chunk.session, name, of_kind, cap)
        return beyond

    def _render(
        self,
        mail: ChunkMail,
        contexts: Mapping[str, ContextOrSkip | BaseException],
        unsubscribe_path: str | None,
    ) -> bool:
        context = contexts.get(mail.entry.id)
        if context is None or isinstance(context, Skip):
            reason = "its subject no longer exists" if context is None else context.reason
            self._later(self._outcomes.end, mail, MailState.SKIPPED, reason)
            return False
        try:
            mail.message = message_for(mail.entry, _checked(context, mail.entry.kind), unsubscribe_path)
        except MailError as error:
            self._later(self._chunk.fail, mail.item, error)
        except BaseException as error:
            if concerns_chunk(error):
                raise
            self._chunk.session.rollback()
            self._later(self._chunk.fail, mail.item, error)
        else:
            return True
        return False

    def _later(self, end: Callable[..., None], *arguments: Any) -> None:
        self._unsendable.append(partial(end, *arguments))


def _bulk_headers(kind: str, unsubscribe_url: str | None) -> dict[str, str]:
    """Return the headers of bulk mail, and those with which mail programs let the recipient opt out (RFC 8058)."""
    headers: dict[str, str] = {}
    if kind_of(kind).queue == "bulk":
        headers["Precedence"] = "bulk"
    if unsubscribe_url:
        headers["List-Unsubscribe"] = f"<{unsubscribe_url}>"
        # The one-click request must use HTTPS (RFC 8058, section 3.1).
        if unsubscribe_url.startswith("https:") or current_app.config["APP_ENV"] != "production":
            headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    return headers


def _contexts(mails: Sequence[ChunkMail]) -> dict[str, ContextOrSkip | BaseException]:
    groups: dict[tuple[str, int | None], list[MailEntry]] = defaultdict(list)
    for mail in mails:
        groups[mail.entry.kind, mail.entry.school_id].append(mail.entry)
    contexts: dict[str, ContextOrSkip | BaseException] = {}
    for (kind, school_id), entries in groups.items():
        # A mail of one school must not contain data of another.
        with use_scope(scope_of(school_id)):
            contexts |= _contexts_of_kind(kind, entries)
    return contexts


def _contexts_of_kind(name: str, entries: Sequence[MailEntry]) -> dict[str, ContextOrSkip | BaseException]:
    """Return the contexts of one kind. If its function fails, halving finds the faulty entry, which gets the error."""
    try:
        return dict(kind_of(name).contexts(entries))
    except BaseException as error:
        if concerns_chunk(error):
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
