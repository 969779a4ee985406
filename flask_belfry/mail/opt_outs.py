"""Which mails their readers do not want. Who the readers are is not known here: the accounts, which send mails too, say
how to ask them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from flask_belfry.mail.models import MailEntry
from flask_belfry.mail.registry import optional_kinds

Lookup = Callable[[str, Collection[str]], Collection[str]]

_lookups: list[Lookup] = []


def opt_out_lookup(lookup: Lookup) -> Lookup:
    """Registers a function that gets an optional kind and addresses in small letters, and answers with those of them
    whose readers do not want it. It asks with one query, and only reads."""
    _lookups.append(lookup)
    return lookup


def opted_out(entries: Iterable[MailEntry]) -> set[str]:
    """The ids of those mails that their readers do not want; asks once for each kind that is optional."""
    optional = optional_kinds()
    by_kind: dict[str, list[MailEntry]] = defaultdict(list)
    for entry in entries:
        if entry.kind in optional:
            by_kind[entry.kind].append(entry)
    return {entry.id for kind, of_kind in by_kind.items() for entry in _refused(kind, of_kind)}


def _refused(kind: str, entries: Collection[MailEntry]) -> list[MailEntry]:
    addresses = {_reader(entry) for entry in entries}
    refusing = {address for lookup in _lookups for address in lookup(kind, addresses)}
    return [entry for entry in entries if _reader(entry) in refusing]


def _reader(entry: MailEntry) -> str:
    return entry.recipients[0].lower()
