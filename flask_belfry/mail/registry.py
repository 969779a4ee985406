"""The registry of mail kinds: the decorator `@mail_kind`, and the lookups of opt-outs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from flask_belfry.mail.errors import UnknownMailError
from flask_belfry.mail.models import KIND_CHARACTERS, MailEntry, MailState
from flask_belfry.outbox.registry import QUEUES

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Skip:
    """The answer of the function of a kind for a mail that is not wanted any more.

    Args:
        reason: why, for the ledger and for `on_outcome`, such as "the notification was cancelled".
    """

    reason: str


Context = Mapping[str, Any]
# Of each mail, as the function of its kind returns it: None if its subject no longer exists.
ContextOrSkip = Context | Skip | None
Contexts = Callable[[Sequence[MailEntry]], Mapping[str, ContextOrSkip]]
Sample = Callable[[], Context]
OnSending = Callable[[Session, Sequence[MailEntry]], None]
OnOutcome = Callable[[Session, Sequence["MailOutcome"]], None]
OptOutLookup = Callable[[str, Collection[str]], Collection[str]]
UnsubscribePaths = Callable[[Sequence[MailEntry]], Mapping[str, str]]
UnsubscribeLookup = Callable[[str, Collection[str]], Mapping[str, str]]


@dataclass(frozen=True)
class MailOutcome:
    """The state that a mail has after a change.

    Args:
        mail_id: its id in the ledger.
        context: the context that the caller of `send_mails` gave.
        state: the new state.
        error: why, for the states that have a reason.
        attempts: how many attempts were made.
        is_final: whether no job will change the state.
        is_temporary: of a failed one: whether the last error was temporary, so that a later attempt may succeed.
    """

    mail_id: str
    state: MailState
    context: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    attempts: int = 0
    is_final: bool = True
    is_temporary: bool = False


@dataclass(frozen=True)
class MailKind:
    """A kind of mail: its name, which is also its folder of templates, the function for its contexts, and a sample.

    Args:
        reason: why the recipient gets it: the footer shows it after "You are receiving this email because". None if
            each context has its own `reason`.
        on_sending: called with a session and the mails of the kind that are about to be sent, in the transaction that
            marks them as sending.
        on_outcome: called with a session and the outcomes of mails of the kind, in each transaction that changes their
            states to any but `queued` and `sending`.
        secrets: names in the context that only the recipient may read; the pages of the ledger mask their values.
        choice: for kinds that recipients may opt out of: the event that it reports, such as "A job failed". None for
            kinds that are always sent.
        hourly_cap: the maximum number of mails of the kind that one user may cause for one recipient in an hour; the
            others are skipped.
        queue: the queue of its deliveries: `bulk` for mails that may come later than those that people wait for.
        templates: the folder of its templates, which kinds may share; None is that of its name.
        unsubscribe: returns the paths of the pages on which the recipients of mails opt out without a login, by the
            mail's id; without it, kinds with `choice` use the registered lookups.
    """

    name: str
    contexts: Contexts
    sample: Sample
    reason: str | None
    on_sending: OnSending | None = None
    on_outcome: OnOutcome | None = None
    secrets: frozenset[str] = frozenset()
    choice: str | None = None
    hourly_cap: int | None = None
    queue: str = "mail"
    templates: str | None = None
    unsubscribe: UnsubscribePaths | None = None

    @property
    def folder(self) -> str:
        """The folder of its templates."""
        return self.templates or self.name


_kinds: dict[str, MailKind] = {}
_opt_out_lookups: list[OptOutLookup] = []
_unsubscribe_lookups: list[UnsubscribeLookup] = []


def mail_kind(
    name: str,
    *,
    sample: Sample,
    reason: str | None,
    on_sending: OnSending | None = None,
    on_outcome: OnOutcome | None = None,
    secrets: Iterable[str] = (),
    choice: str | None = None,
    hourly_cap: int | None = None,
    queue: str = "mail",
    templates: str | None = None,
    unsubscribe: UnsubscribePaths | None = None,
) -> Callable[[Contexts], Contexts]:
    """Register the function that returns the template contexts of one kind of mail.

    The function receives ledger entries and returns a context for each, by the entry's id, with one query for all of
    them. None means that the subject no longer exists, and a `Skip` that the mail is not wanted for another reason: it
    is skipped. The function may read through `db.session` and must not write.

    Args:
        name: lower-case letters, digits and hyphens. It must not change: the ledger stores it. The folder
            `templates/email/<name>/`, or that of `templates`, contains `subject.txt`, `body.txt` and `body.html`.
        sample: returns a context for the preview, without the database.
        reason, on_sending, on_outcome, secrets, choice, hourly_cap, queue, templates, unsubscribe: see `MailKind`.
    """
    if queue not in QUEUES:
        raise ValueError(f"{name}: queue must be one of {', '.join(QUEUES)}, not {queue!r}")
    if not NAME.fullmatch(name) or len(name) > KIND_CHARACTERS:
        raise ValueError(
            f"the name of a mail must be at most {KIND_CHARACTERS} lower-case letters, digits and hyphens, not {name!r}"
        )

    def register(function: Contexts) -> Contexts:
        known = _kinds.get(name)
        if known is not None and known.contexts.__module__ != function.__module__:
            raise ValueError(f"{name} is already registered by {known.contexts.__module__}")
        _kinds[name] = MailKind(
            name,
            function,
            sample,
            reason,
            on_sending,
            on_outcome,
            frozenset(secrets),
            choice,
            hourly_cap,
            queue,
            templates,
            unsubscribe,
        )
        return function

    return register


def kind_of(name: str) -> MailKind:
    """Return the kind with this name. Raises UnknownMailError."""
    try:
        return _kinds[name]
    except KeyError:
        raise UnknownMailError(name) from None


def kinds() -> list[MailKind]:
    """Return all kinds, sorted by name."""
    return [_kinds[name] for name in sorted(_kinds)]


def optional_kinds() -> dict[str, str]:
    """Return the kinds that recipients may opt out of: the `choice` of each, by name."""
    return {kind.name: kind.choice for kind in kinds() if kind.choice is not None}


def hourly_cap(name: str) -> int | None:
    """Return the cap of a kind; None if it has no cap, or is no longer registered."""
    kind = _kinds.get(name)
    return kind.hourly_cap if kind else None


def opt_out_lookup(lookup: OptOutLookup) -> OptOutLookup:
    """Register a function that returns those of some lower-case email addresses that opted out of an optional kind.

    It is called once per kind, should use one query, and must not write.
    """
    _opt_out_lookups.append(lookup)
    return lookup


def opted_out(entries: Iterable[MailEntry]) -> set[str]:
    """Return the ids of the mails whose recipients opted out of their kind, with one lookup per optional kind."""
    optional = optional_kinds()
    emails: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in entries:
        if entry.kind in optional:
            emails[entry.kind][entry.id] = entry.recipients[0].lower()
    found: set[str] = set()
    for kind, by_id in emails.items():
        refusing = {email for lookup in _opt_out_lookups for email in lookup(kind, set(by_id.values()))}
        found |= {id for id, email in by_id.items() if email in refusing}
    return found


def outcome_listener(name: str) -> OnOutcome | None:
    """Return the `on_outcome` of a kind; None if it has none, or is no longer registered."""
    kind = _kinds.get(name)
    return kind.on_outcome if kind else None


def unsubscribe_lookup(lookup: UnsubscribeLookup) -> UnsubscribeLookup:
    """Register a function that returns the paths of the unsubscribe pages of some lower-case email addresses, for an
    optional kind.

    It is called once per kind, should use one query, and must not write.
    """
    _unsubscribe_lookups.append(lookup)
    return lookup


def unsubscribe_paths(entries: Sequence[MailEntry]) -> dict[str, str]:
    """Return the paths of the unsubscribe pages of the mails that have one, by the mail's id."""
    paths: dict[str, str] = {}
    for name, of_kind in by_kind(entries).items():
        kind = kind_of(name)
        if kind.unsubscribe is not None:
            paths |= kind.unsubscribe(of_kind)
        elif kind.choice is not None:
            emails = {entry.id: entry.recipients[0].lower() for entry in of_kind}
            found: dict[str, str] = {}
            for lookup in _unsubscribe_lookups:
                found |= lookup(name, set(emails.values()))
            paths |= {id: found[email] for id, email in emails.items() if email in found}
    return paths


def by_kind(entries: Iterable[MailEntry]) -> Mapping[str, list[MailEntry]]:
    """Return the mails of each kind, by its name."""
    found: dict[str, list[MailEntry]] = defaultdict(list)
    for entry in entries:
        found[entry.kind].append(entry)
    return found
