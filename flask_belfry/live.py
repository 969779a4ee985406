"""Responses to polls of pages that are updated live: 304 while nothing has changed, without rendering.

A page's fragment is rendered from its context, so the context is its version: the rows and values that the queries
returned. Requests for the same fragment within FRAGMENT_SECONDS, of any user with the same view, share one version.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

import sqlalchemy as sa
from flask import Response, current_app, make_response, render_template, request

from flask_belfry.changes.host import current_host
from flask_belfry.core.presentation import reader_zone
from flask_belfry.db import Base
from flask_belfry.db.tenancy import current_scope

# Shorter than the shortest interval of polling: a page never gets a fragment that is older than itself.
FRAGMENT_SECONDS = 1.5
# The longest time for which durations on an unchanged page stay as they are. (Its script counts the ages.)
CLOCK_SECONDS = 30
MAX_FRAGMENTS = 100
# The actions that decide which buttons and links a fragment of the job system has.
ACTIONS = (
    "jobs.change", "jobs.enqueue", "queues.change", "schedule.change", "failures.change", "workers.change",
    "mails.view", "mails.change", "mails.suppress",
)  # fmt: skip
# In a kept fragment: tokens belong to one session.
_CSRF_MARK = "\0csrf\0"
# Most values are these: they are recognized first.
_ATOMS = frozenset((str, int, float, bool, type(None), datetime, timedelta))

Context = Mapping[str, Any]


@dataclass(frozen=True)
class _Fragment:
    """What polls get: its tag, and its text once a request has needed it."""

    made_at: float
    tag: str
    text: str | None = None


def respond(
    template: str,
    make_context: Callable[[], Context],
    seconds: float | None = None,
    *,
    actions: Sequence[str] = ACTIONS,
) -> Response:
    """Return the fragment that `template` renders, or 304 if the requester has it.

    Args:
        template: renders from its context only: what it reads elsewhere is not part of the version.
        make_context: makes the context; not called while the fragment is kept. It must depend on the URL, the scope,
            the permissions and the time zone of the requester only.
        seconds: how long it is kept, less than the page's interval; None for FRAGMENT_SECONDS.
        actions: which of the requester's permissions the fragment depends on.
    """
    fragments: dict[str, _Fragment] = current_app.extensions.setdefault("live_fragments", {})
    key, now = _key(template, actions), time.monotonic()
    kept = fragments.get(key)
    if (
        kept is None
        or now - kept.made_at >= (FRAGMENT_SECONDS if seconds is None else seconds)
        or not (kept.text or _is_known(kept.tag))
    ):
        context = make_context()
        tag = _digest([key, int(time.time() // CLOCK_SECONDS), _plain(context)])
        # The text of an older fragment with the same tag is not used: the ages in it are those of its time.
        text = None
        if not _is_known(tag):
            text = render_template(template, **context).replace(_csrf_token(), _CSRF_MARK)
        kept = _Fragment(now, tag, text)
        _keep(fragments, key, kept)
    text = (kept.text or "").replace(_CSRF_MARK, _csrf_token())
    response = Response(status=304) if _is_known(kept.tag) else make_response(text)
    response.set_etag(kept.tag)
    return response


def _is_known(tag: str) -> bool:
    return request.if_none_match.contains_weak(tag)


def _key(template: str, actions: Sequence[str]) -> str:
    may = [action for action in actions if current_host().allows(action)]
    query = request.query_string.decode(errors="replace")
    return repr((template, request.path, query, current_scope(), may, reader_zone().key))


def _keep(fragments: dict[str, _Fragment], key: str, fragment: _Fragment) -> None:
    # Threads of this process share it. Losing an entry to another thread costs one rendering.
    fragments.pop(key, None)
    fragments[key] = fragment
    for oldest in list(fragments)[:-MAX_FRAGMENTS]:
        fragments.pop(oldest, None)


def _csrf_token() -> str:
    make: Callable[[], str] | None = current_app.jinja_env.globals.get("csrf_token")
    return make() if make else _CSRF_MARK


def _digest(value: object) -> str:
    return blake2b(repr(value).encode(), digest_size=12).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value whose `repr` is the same for the same content: of rows, the columns that are loaded."""
    if type(value) in _ATOMS:
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Base):
        loaded = sa.inspect(value).dict
        names = sa.inspect(type(value)).column_attrs.keys()
        return type(value).__name__, [(name, loaded[name]) for name in names if name in loaded]
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, [_plain(getattr(value, each.name)) for each in fields(value)]
    if isinstance(value, Mapping):
        return [(_plain(key), _plain(each)) for key, each in value.items()]
    return sorted(map(repr, value)) if isinstance(value, Set) else value
