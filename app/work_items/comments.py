"""Comments on items, mentions in them, and watchers. The caller commits."""

from __future__ import annotations

import re
from collections.abc import Iterable

import sqlalchemy as sa

from app.accounts import Role, User, require
from app.work_items.emails import MENTION
from app.work_items.models import MAX_COMMENT_CHARACTERS, WorkItem, WorkItemComment, WorkItemWatcher
from app.work_items.queries import get
from app.work_items.recipients import recipients_of
from flask_belfry.changes import subject_of
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError, NotFoundError
from flask_belfry.core.text import CONTROL_CHARACTERS, CONTROL_CHARACTERS_REFUSED
from flask_belfry.db import db, insert_ignoring_conflicts
from flask_belfry.mail import MailRequest, send_mails

# A username as accounts allow it, but not a part of an email address.
MENTIONED = re.compile(r"(?<![\w@.+-])@([A-Za-z0-9](?:[A-Za-z0-9._-]{1,38}[A-Za-z0-9]))")
MAX_MENTIONS = 20


def comment(user: User, item: WorkItem, text: str) -> WorkItemComment:
    """Add a comment, flushed; its author becomes a watcher of the item.

    People of the school who are mentioned as `@username` get a mail. Those whom staff mention become watchers too,
    and so may see the item; a mention by another user notifies only people who may see the item already.

    Raises InvalidInputError: the text is empty or too long, or mentions too many people.
    """
    require(user, "work_items.comment", item)
    written = WorkItemComment(item=item, author=user, text=_cleaned(text), school_id=item.school_id)
    db.session.add(written)
    db.session.flush()
    _add_watchers(item, [user.id])
    _mail_mentions(user, item, written, already=())
    return written


def edit_comment(user: User, found: WorkItemComment, text: str) -> None:
    """Change a comment, flushed; people whom the new text mentions first get a mail.

    Raises:
        ForbiddenError: the user is not its author.
        InvalidInputError: as `comment`.
    """
    require(user, "work_items.edit_comment", found, message="Only the author can change a comment.")
    already, found.text, found.edited_at = mentions_in(found.text), _cleaned(text), utc_now()
    db.session.flush()
    _mail_mentions(user, found.item, found, already)


def delete_comment(user: User, found: WorkItemComment) -> None:
    """Delete a comment: staff may delete any, others their own. Raises ForbiddenError."""
    require(user, "work_items.delete_comment", found, message="Only staff and the author can delete a comment.")
    db.session.delete(found)
    db.session.flush()


def get_comment(user: User, comment_id: int) -> WorkItemComment:
    """Return a comment on an item that `user` may see. Raises NotFoundError."""
    found = db.session.get(WorkItemComment, comment_id)
    if found is None:
        raise NotFoundError(f"Comment #{comment_id} does not exist.")
    get(user, found.item_id)
    return found


def watch(user: User, item: WorkItem) -> None:
    """Make the user a watcher, who is notified as the reporter is."""
    require(user, "work_items.watch", item)
    _add_watchers(item, [user.id])


def unwatch(user: User, item: WorkItem) -> None:
    """Remove the user from the watchers."""
    db.session.execute(
        sa.delete(WorkItemWatcher).where(WorkItemWatcher.item_id == item.id, WorkItemWatcher.user_id == user.id)
    )


def is_watched_by(user: User, item: WorkItem) -> bool:
    """Return whether the user watches an item."""
    return db.session.get(WorkItemWatcher, (item.id, user.id)) is not None


def mentions_in(text: str) -> set[str]:
    """Return the usernames that a text mentions, in lower case."""
    return {name.lower() for name in MENTIONED.findall(text)}


def _mail_mentions(author: User, item: WorkItem, written: WorkItemComment, already: Iterable[str]) -> None:
    named = sorted(mentions_in(written.text) - set(already))
    if len(named) > MAX_MENTIONS:
        raise InvalidInputError(
            "The comment mentions too many people.", {"text": [f"mention at most {MAX_MENTIONS} people"]}
        )
    people = [person for person in _mentioned(item, named) if person.id != author.id]
    if author.is_staff:
        _add_watchers(item, [person.id for person in people])
    part = {person.user_id for person in recipients_of([item.id])[item.id]}
    requests = [
        MailRequest(
            to=[person.email],
            key=f"{MENTION}/{written.id}/{person.id}",
            context={"comment_id": written.id, "by": author.id, "reader": person.id},
            subject=subject_of(item),
        )
        for person in people
        if person.is_staff or person.id in part
    ]
    send_mails(MENTION, requests)


def _mentioned(item: WorkItem, names: Iterable[str]) -> list[User]:
    is_of_school = sa.or_(User.school_id == item.school_id, User.role == Role.ADMIN)
    query = sa.select(User).where(User.username_key.in_(list(names)), User.active, User.confirmed_at.is_not(None))
    return list(db.session.scalars(query.where(is_of_school).order_by(User.id)))


def _add_watchers(item: WorkItem, user_ids: Iterable[int]) -> None:
    rows = [{"item_id": item.id, "user_id": user_id, "since": utc_now()} for user_id in sorted(set(user_ids))]
    if rows:
        insert_ignoring_conflicts(db.session(), WorkItemWatcher, rows, key="user_id")


def _cleaned(text: str) -> str:
    stripped = text.replace("\r\n", "\n").strip()
    if not 1 <= len(stripped) <= MAX_COMMENT_CHARACTERS:
        raise InvalidInputError("Invalid comment.", {"text": [f"Write 1 to {MAX_COMMENT_CHARACTERS} characters."]})
    if CONTROL_CHARACTERS.search(stripped):
        raise InvalidInputError("Invalid comment.", {"text": [CONTROL_CHARACTERS_REFUSED]})
    return stripped
