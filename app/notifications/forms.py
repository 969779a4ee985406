"""The form of a notification: names, numbers and local times on the page; ids and UTC times for the services."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from wtforms import (
    BooleanField,
    DateTimeLocalField,
    Field,
    RadioField,
    SelectField,
    SelectMultipleField,
    StringField,
    TextAreaField,
)
from wtforms.validators import InputRequired, Length, Optional

from app.accounts import Role
from app.notifications import choices
from app.notifications.content import Content, Targets
from app.notifications.models import (
    MAX_BODY_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    NotificationChannel,
    NotificationType,
    ScheduledNotification,
)
from app.schools import school_zone
from app.web.forms import REQUIRED, ServiceForm, add_error, plain_text, unix_lines
from app.web.local_time import local_from_utc, utc_from_local

LOCAL_FORMATS = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"]
NOW, LATER = "now", "later"
CHANNEL_LABELS = {
    NotificationChannel.MAIL: "Mail",
    NotificationChannel.PUSH: "Push",
    NotificationChannel.IN_APP: "In the app",
}
# The usual one first.
TYPE_LABELS = {type_: type_.value.capitalize() for type_ in (NotificationType.GENERAL, *NotificationType)}
ROLE_LABELS = {Role.MEMBER: "Members", Role.STAFF: "Staff", Role.ADMIN: "Admins"}
# Names that a message quotes.
QUOTED_NAMES = 5
SEPARATORS = re.compile(r"[,;\r\n]+")
MAX_LIST_CHARACTERS = 20_000


class NotificationForm(ServiceForm):
    """The form of a new notification, or of a scheduled one."""

    FORM_FIELDS = {
        "users": "people",
        "targets": "everyone",
        "targets.users": "people",
        "targets.students": "students",
        "targets.classes": "classes",
        "targets.roles": "roles",
    }

    title = StringField("Title", [InputRequired(REQUIRED), Length(max=MAX_TITLE_CHARACTERS), plain_text])
    body = TextAreaField("Text", [InputRequired(REQUIRED), Length(max=MAX_BODY_CHARACTERS), plain_text])
    type = SelectField(
        "Type", [InputRequired(REQUIRED)], choices=[(type_.value, text) for type_, text in TYPE_LABELS.items()]
    )
    is_critical = BooleanField(
        "Critical",
        description="Reaches everyone immediately, also in quiet hours and those who have turned this type off. "
        "Only for emergencies.",
    )
    channels = SelectMultipleField(
        "Channels",
        [InputRequired("Select at least one channel.")],
        choices=[(channel.value, text) for channel, text in CHANNEL_LABELS.items()],
        default=[channel.value for channel in NotificationChannel],
    )
    everyone = BooleanField("Everyone at the school")
    roles = SelectMultipleField("Roles", choices=[(role.value, text) for role, text in ROLE_LABELS.items()])
    classes = SelectMultipleField("Classes", choices=[])
    students = StringField(
        "Students",
        [Length(max=MAX_LIST_CHARACTERS), plain_text],
        description="Student numbers, separated by commas.",
    )
    people = StringField(
        "People",
        [Length(max=MAX_LIST_CHARACTERS), plain_text],
        description="Usernames or email addresses, separated by commas.",
    )
    when = RadioField("When", choices=[(NOW, "Now"), (LATER, "At a time")], default=NOW)
    local_time = DateTimeLocalField("Time", [Optional()], format=LOCAL_FORMATS)
    expires_at = DateTimeLocalField("Expires", [Optional()], format=LOCAL_FORMATS)

    def __init__(self, school_id: int, **values: Any) -> None:
        super().__init__(**values)
        self.school_id = school_id
        self.zone = school_zone(school_id)
        classes = choices.classes(school_id)
        self._class_ids = {str(row.id): row.id for row in classes}
        self.classes.choices = [(str(row.id), row.name) for row in classes]
        self.student_choices: list[choices.Choice] = []
        self.person_choices: list[choices.Choice] = []

    def fill(self, row: ScheduledNotification) -> None:
        """Show a scheduled notification."""
        targets = Targets.from_json(row.targets)
        students = choices.students_of(self.school_id, targets.students)
        people = choices.people_of(self.school_id, targets.users)
        self.process(
            data={
                **{name: getattr(row, name) for name in ("title", "body", "is_critical", "channels", "local_time")},
                "type": row.type.value,
                "everyone": targets.everyone,
                "roles": list(targets.roles),
                "classes": [str(id) for id in targets.classes],
                "students": ", ".join(student.number for student in students),
                "people": ", ".join(user.username for user in people),
                "when": LATER,
                "expires_at": local_from_utc(row.expires_at, self.zone) if row.expires_at else None,
            }
        )

    def look_up(self) -> Targets:
        """Return the targets; names and numbers that do not exist become errors of their fields."""
        students = self._look_up(self.students, choices.students_by_number, "number", "student")
        people = self._look_up(self.people, choices.people_by_login, "username or email address", "user")
        self.student_choices = [choices.student_choice(student) for student in students]
        self.person_choices = [choices.person_choice(user) for user in people]
        return Targets(
            users=tuple(user.id for user in people),
            roles=tuple(role for role in self.roles.data or () if role in list(Role)),
            classes=tuple(self._class_ids[id] for id in self.classes.data or () if id in self._class_ids),
            students=tuple(student.id for student in students),
            everyone=bool(self.everyone.data),
        )

    def content(self) -> Content | None:
        """Return what the service gets, or None if a field is invalid, which then has an error."""
        # All errors are shown, not only those of the first step.
        is_valid = self.validate_on_submit()
        targets = self.look_up()
        expires_at = self._moment(self.expires_at)
        if self.when.data == LATER and not self.local_time.data and not self.local_time.errors:
            add_error(self.local_time, "Enter a time, or select now.")
        elif self.when.data == LATER:
            self._moment(self.local_time)
        if not (targets.everyone or targets.roles or targets.classes or self.students.data or self.people.data):
            add_error(self.everyone, "Select who gets it.")
        if not is_valid or any(field.errors for field in self):
            return None
        return self.shown_content(targets, expires_at)

    def shown_content(self, targets: Targets, expires_at: datetime | None = None) -> Content:
        """Return the content as typed so far, for previews."""
        type_ = self.type.data if self.type.data in list(NotificationType) else NotificationType.GENERAL
        return Content(
            title=(self.title.data or "").strip(),
            body=unix_lines(self.body.data),
            type=NotificationType(type_),
            is_critical=bool(self.is_critical.data),
            targets=targets,
            channels=tuple(channel for channel in NotificationChannel if channel.value in (self.channels.data or ())),
            expires_at=expires_at,
        )

    @property
    def is_later(self) -> bool:
        """Whether it is sent at a time."""
        return self.when.data == LATER

    def _look_up(
        self, field: Field, find: Callable[[int, Sequence[str]], Mapping[str, Any]], key: str, kind: str
    ) -> list[Any]:
        typed = [part.strip() for part in SEPARATORS.split(field.data or "") if part.strip()]
        # Previews look up what has not been validated.
        if not typed or field.errors or not field.validate(self):
            return []
        found = find(self.school_id, typed)
        missing = [part for part in dict.fromkeys(typed) if part.lower() not in found]
        if missing:
            named = ", ".join(missing[:QUOTED_NAMES]) + (" …" if len(missing) > QUOTED_NAMES else "")
            add_error(field, f"No {kind} of this school has this {key}: {named}.")
        # One person may be named twice, by the username and the email address.
        return list({row.id: row for part in typed if (row := found.get(part.lower()))}.values())

    def _moment(self, field: Field) -> datetime | None:
        if not field.data or field.errors:
            return None
        try:
            return utc_from_local(field.data, self.zone)
        except ValueError as error:
            add_error(field, f"This time {error}.")
            return None


def zone_words(zone: ZoneInfo) -> str:
    """Return the hint of fields with local times."""
    return f"Time zone of the school: {zone.key}."
