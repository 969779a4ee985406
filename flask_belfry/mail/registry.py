"""The kinds of mail of this process: the `@mail_kind` decorator of the slices' `emails.py`, and what it registers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from flask_belfry.mail.errors import UnknownMailError
from flask_belfry.mail.models import KIND_CHARACTERS, MailEntry

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

Context = Mapping[str, Any]
Contexts = Callable[[Sequence[MailEntry]], Mapping[str, Context | None]]
Sample = Callable[[], Context]
OnSending = Callable[[Session, Sequence[MailEntry]], None]


@dataclass(frozen=True)
class MailKind:
    """One kind of mail: its name (and folder of templates), who gives its contexts, and a sample.

    Args:
        reason: why its reader receives it, as the footer says it after "You are receiving this email because". None:
            each context has its own, named `reason`.
        on_sending: called with a session and the mails of the kind that are about to be handed over, in the transaction
            that says so.
        secrets: names of the context that only the recipient may read: whoever looks into the ledger sees dots.
        choice: for kinds that a reader may switch off: what it tells, in plain words. None: it always goes out.
        hourly_cap: the most mails of the kind that one user causes for one reader in an hour; more are skipped.
    """

    name: str
    contexts: Contexts
    sample: Sample
    reason: str | None
    on_sending: OnSending | None = None
    secrets: frozenset[str] = frozenset()
    choice: str | None = None
    hourly_cap: int | None = None


_kinds: dict[str, MailKind] = {}


def mail_kind(
    name: str,
    *,
    sample: Sample,
    reason: str | None,
    on_sending: OnSending | None = None,
    secrets: Iterable[str] = (),
    choice: str | None = None,
    hourly_cap: int | None = None,
) -> Callable[[Contexts], Contexts]:
    """Registers the function that gives the template contexts of one kind of mail.

    The function gets ledger entries and answers with a context for each by the entry's id, in one query for all;
    None says that the subject is gone, and the mail is skipped. It reads through `db.session`, and only reads.

    Args:
        name: stable, lower case with hyphens; the folder `templates/email/<name>/` holds
            `subject.txt`, `body.txt` and `body.html`.
        sample: gives a context for the preview, without a database.
        reason, on_sending, secrets, choice, hourly_cap: see `MailKind`.
    """
    if not NAME.fullmatch(name) or len(name) > KIND_CHARACTERS:
        raise ValueError(
            f"a mail's name takes lower case letters, digits and hyphens, at most {KIND_CHARACTERS}, not {name!r}"
        )

    def register(function: Contexts) -> Contexts:
        known = _kinds.get(name)
        if known is not None and known.contexts.__module__ != function.__module__:
            raise ValueError(f"{name} is registered by {known.contexts.__module__} already")
        _kinds[name] = MailKind(name, function, sample, reason, on_sending, frozenset(secrets), choice, hourly_cap)
        return function

    return register


def kind_of(name: str) -> MailKind:
    """The kind registered under `name`, or UnknownMailError."""
    try:
        return _kinds[name]
    except KeyError:
        raise UnknownMailError(name) from None


def kinds() -> list[MailKind]:
    """All kinds, by name."""
    return [_kinds[name] for name in sorted(_kinds)]


def optional_kinds() -> dict[str, str]:
    """The kinds that a reader may switch off, by name, each with what it tells in plain words."""
    return {kind.name: kind.choice for kind in kinds() if kind.choice is not None}


def hourly_cap(name: str) -> int | None:
    """The cap of a kind; None when it has none, or is registered no more."""
    kind = _kinds.get(name)
    return kind.hourly_cap if kind else None
