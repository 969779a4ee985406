"""API of the notification preferences and quiet hours of the user."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow import validate

from app.accounts import acting_user
from app.api.web import ApiBlueprint, Schema, check_stale, versioned
from app.notifications import preferences
from app.notifications.models import NotificationChannel, NotificationType
from flask_belfry.db import db

blueprint = ApiBlueprint(
    "notification_preferences", __name__, description="Which notifications the user gets, and when", area="profile"
)

PREFERENCES = "/me/notification-preferences"


def _by_type(name: str, *, required: bool) -> ma.fields.Nested:
    """Return a field with the frequencies by type and channel."""
    by_channel = Schema.from_dict(
        {
            channel.value: ma.fields.String(
                required=required, validate=validate.OneOf(preferences.FREQUENCIES[channel])
            )
            for channel in NotificationChannel
        },
        name=f"{name}OfTypeSchema",
    )
    by_type = Schema.from_dict(
        {type_.value: ma.fields.Nested(by_channel, required=required) for type_ in NotificationType},
        name=f"{name}Schema",
    )
    return ma.fields.Nested(by_type, required=required)


def _time(description: str, *, required: bool = False) -> ma.fields.Time:
    return ma.fields.Time(
        format="%H:%M", required=required, allow_none=True, metadata={"description": description, "example": "22:00"}
    )


class NotificationPreferencesSchema(Schema):
    """Which notifications the user gets, and when. Critical ones are always sent immediately."""

    preferences = _by_type("NotificationFrequencies", required=True)
    quiet_from = _time("When quiet hours begin, in the user's time zone; null: there are none.", required=True)
    quiet_until = _time("When they end, on the next day if that is not later.", required=True)


class NotificationPreferenceChangesSchema(Schema):
    """Changes of the preferences; absent fields do not change."""

    preferences = _by_type("NotificationFrequencyChanges", required=False)
    quiet_from = _time("When quiet hours begin, in the user's time zone; null for both times: there are none.")
    quiet_until = _time("When they end.")


@blueprint.route(PREFERENCES)
@versioned
@blueprint.response(200, NotificationPreferencesSchema)
def get_preferences() -> dict[str, Any]:
    """Return which notifications you get, and your quiet hours"""
    return _current()


@blueprint.route(PREFERENCES, methods=["PATCH"])
@versioned
@blueprint.arguments(NotificationPreferenceChangesSchema)
@blueprint.response(200, NotificationPreferencesSchema)
def change_preferences(changes: dict[str, Any]) -> dict[str, Any]:
    """Change which notifications you get, and your quiet hours; all of the changes or none"""
    user = acting_user()
    preferences.lock(user)
    current = _current()
    check_stale(NotificationPreferencesSchema, current)
    preferences.change_preferences(user, changes.pop("preferences", {}))
    hours = current | changes
    preferences.set_quiet_hours(user, hours["quiet_from"], hours["quiet_until"])
    changed = _current()
    db.session.commit()
    return changed


def _current() -> dict[str, Any]:
    user = acting_user()
    hours = preferences.quiet_hours_of(user)
    return {
        "preferences": preferences.preferences_of(user),
        "quiet_from": hours and hours.start,
        "quiet_until": hours and hours.until,
    }
