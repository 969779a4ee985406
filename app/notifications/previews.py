"""What a notification looks like by each channel, and who gets it, before it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app import push
from app.notifications.audiences import Audience, audience
from app.notifications.content import Content, check
from app.notifications.emails import kind_of_type, paragraphs_of
from app.notifications.models import NotificationChannel
from app.schools import School
from flask_belfry import mail
from flask_belfry.db import db

NAMES_SHOWN = 20


@dataclass(frozen=True)
class ChannelPreview:
    """What one channel shows.

    Args:
        channel: the channel.
        title: the subject of the mail, or the title.
        text: the text.
        html: of the mail.
        is_cut: whether the channel has no space for the whole text.
    """

    channel: NotificationChannel
    title: str
    text: str
    html: str | None = None
    is_cut: bool = False


@dataclass(frozen=True)
class Preview:
    """What each channel of a notification shows, and who gets it."""

    channels: Sequence[ChannelPreview]
    audience: Audience


def preview(content: Content, school_id: int) -> Preview:
    """Return the preview of a notification of a school. Raises InvalidInputError, which names every invalid field."""
    check(content, school_id)
    return Preview(channel_previews(content, school_id), audience(school_id, content.targets, limit=NAMES_SHOWN))


def channel_previews(content: Content, school_id: int) -> list[ChannelPreview]:
    """Return what each channel of a notification shows, which may be incomplete."""
    shown = {
        NotificationChannel.MAIL: _mail,
        NotificationChannel.PUSH: _push,
        NotificationChannel.IN_APP: _in_app,
    }
    return [show(content, school_id) for channel, show in shown.items() if channel in content.channels]


def _mail(content: Content, school_id: int) -> ChannelPreview:
    school = db.session.get_one(School, school_id)
    context = {
        "title": content.title,
        "paragraphs": paragraphs_of(content.body),
        "school": school.name,
        "students": [],
        "path": "/inbox",
    }
    rendered = mail.preview(kind_of_type(content.type), context)
    return ChannelPreview(NotificationChannel.MAIL, rendered.subject, rendered.text, rendered.html)


def _push(content: Content, _: int) -> ChannelPreview:
    shown = push.shown_body(content.title, content.body, content.data)
    return ChannelPreview(NotificationChannel.PUSH, content.title, shown, is_cut=shown != content.body)


def _in_app(content: Content, _: int) -> ChannelPreview:
    return ChannelPreview(NotificationChannel.IN_APP, content.title, content.body)
