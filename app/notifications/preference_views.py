"""The page on which users choose which notifications they get, and when."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, TimeField
from wtforms.fields.choices import SelectChoice  # pyright: ignore[reportAttributeAccessIssue] - newer than its stubs
from wtforms.validators import Optional

from app import push
from app.accounts import User, acting_user, login_required
from app.notifications import preferences
from app.notifications.models import Frequency, NotificationChannel, NotificationType
from app.notifications.preferences import FREQUENCIES
from app.web.forms import ServiceForm
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.core.presentation import label
from flask_belfry.db import db

pages = Blueprint("notification_preferences", __name__, url_prefix="/notifications/preferences")

FREQUENCY_LABELS = {
    Frequency.INSTANT: "Immediately",
    Frequency.DAILY: "Daily digest",
    Frequency.OFF: "Off",
}


def field_name(type_: NotificationType, channel: NotificationChannel) -> str:
    """Return the name of the field of a type and channel."""
    return f"{type_}_{channel}"


class PreferencesForm(ServiceForm):
    """Quiet hours, and below a field for each type and channel."""

    FORM_FIELDS = {
        f"preferences.{type_}.{channel}": field_name(type_, channel)
        for type_ in NotificationType
        for channel in NotificationChannel
    }

    quiet_from = TimeField("From", [Optional()])
    quiet_until = TimeField("Until", [Optional()])


for _type in NotificationType:
    for _channel, _frequencies in FREQUENCIES.items():
        _choices = [SelectChoice(each.value, FREQUENCY_LABELS[each]) for each in _frequencies]
        setattr(PreferencesForm, field_name(_type, _channel), SelectField(label(_channel), choices=_choices))


@pages.get("")
@login_required
def edit() -> ResponseReturnValue:
    """Show the form."""
    user = acting_user()
    hours = preferences.quiet_hours_of(user)
    chosen = {
        field_name(type_, channel): frequency.value
        for type_, by_channel in preferences.preferences_of(user).items()
        for channel, frequency in by_channel.items()
    }
    times = {"quiet_from": hours and hours.start, "quiet_until": hours and hours.until}
    return _page(PreferencesForm(data=chosen | times))


@pages.post("")
@login_required
def update() -> ResponseReturnValue:
    """Save the form."""
    form = PreferencesForm()
    if not form.validate_on_submit() or not _update(acting_user(), form):
        return _page(form), 422
    flash("Preferences saved.", "success")
    return redirect(url_for("notification_preferences.edit"), 303)


def _update(user: User, form: PreferencesForm) -> bool:
    changes = {
        type_.value: {channel.value: form[field_name(type_, channel)].data for channel in NotificationChannel}
        for type_ in NotificationType
    }
    try:
        preferences.lock(user)
        preferences.change_preferences(user, changes)
        preferences.set_quiet_hours(user, form.quiet_from.data, form.quiet_until.data)
    except InvalidInputError as error:
        db.session.rollback()
        form.take_errors(error.message, error.fields)
        return False
    db.session.commit()
    return True


def _page(form: PreferencesForm) -> str:
    fields = {
        type_: [form[field_name(type_, channel)] for channel in NotificationChannel] for type_ in NotificationType
    }
    zone = preferences.time_zone_of(acting_user()).key
    return render_template(
        "notifications/preferences.html", form=form, fields=fields, zone=zone, has_push=push.is_configured()
    )
