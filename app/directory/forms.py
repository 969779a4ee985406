"""The forms of schools, classes, students and guardians: names on the page, ids in the services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zoneinfo import available_timezones

from flask import current_app
from wtforms import BooleanField, DateField, SelectField, StringField
from wtforms.fields.choices import SelectChoice  # pyright: ignore[reportAttributeAccessIssue] - newer than its stubs
from wtforms.validators import DataRequired, InputRequired, Length, Optional

from app.accounts import find_user
from app.directory.models import (
    MAX_CLASS_NAME_CHARACTERS,
    MAX_NUMBER_CHARACTERS,
    MAX_REASON_CHARACTERS,
    MAX_RELATION_CHARACTERS,
    MAX_STUDENT_NAME_CHARACTERS,
    SchoolClass,
)
from app.schools import MAX_SCHOOL_NAME_CHARACTERS, MAX_SLUG_CHARACTERS
from app.web.forms import ServiceForm, add_error, plain_text

MAX_LOGIN_CHARACTERS = 254


class SchoolForm(ServiceForm):
    """The form of a new or existing school; the slug of an existing one does not change."""

    name = StringField("Name", [DataRequired("Enter a name."), Length(max=MAX_SCHOOL_NAME_CHARACTERS), plain_text])
    slug = StringField(
        "Slug",
        [DataRequired("Enter a slug."), Length(max=MAX_SLUG_CHARACTERS), plain_text],
        description="Lower-case letters, digits and hyphens. It identifies the school in commands and cannot be "
        "changed.",
    )
    time_zone = SelectField("Time zone", [Optional()], choices=lambda: [_zone_of_installation(), *_zones()])

    def values(self) -> dict[str, Any]:
        """Return the arguments of the service."""
        given = {name: self[name].data for name in ("name", "slug") if name in self}
        return given | {"time_zone": self.time_zone.data or None}


class ClassForm(ServiceForm):
    """The form of a new or existing class."""

    name = StringField(
        "Name",
        [DataRequired("Enter a name."), Length(max=MAX_CLASS_NAME_CHARACTERS), plain_text],
        description="Unique in the school, for example 7b.",
    )


class StudentForm(ServiceForm):
    """The form of a new or existing student."""

    number = StringField(
        "Number",
        [DataRequired("Enter a number."), Length(max=MAX_NUMBER_CHARACTERS), plain_text],
        description="Unique in the school.",
    )
    name = StringField("Name", [DataRequired("Enter a name."), Length(max=MAX_STUDENT_NAME_CHARACTERS), plain_text])
    class_id = SelectField("Class", [Optional()], coerce=lambda value: int(value) if value else None)
    enrolled_on = DateField("Enrolled on", [InputRequired("Enter the first day.")])
    left_on = DateField("Leaves on", [Optional()], description="The first day after the last one.")

    def offer(self, classes: Sequence[SchoolClass]) -> None:
        """Fill the choices."""
        self.class_id.choices = [("", "No class"), *((each.id, each.name) for each in classes)]

    def values(self) -> dict[str, Any]:
        """Return the arguments of the service."""
        return {name: self[name].data for name in ("number", "name", "class_id", "enrolled_on", "left_on")}


class GuardianForm(ServiceForm):
    """The form of a new or existing guardian; the person of an existing one does not change."""

    FORM_FIELDS = {"user_id": "person"}

    person = StringField(
        "Person",
        [DataRequired("Enter a username or an email address."), Length(max=MAX_LOGIN_CHARACTERS), plain_text],
        description="Username or email address of a user of the school.",
    )
    relation = StringField(
        "Relation", [Length(max=MAX_RELATION_CHARACTERS), plain_text], description="For example mother."
    )
    is_restricted = BooleanField(
        "Contact restricted", description="The person receives nothing about this student, for example by custody."
    )
    restriction_reason = StringField(
        "Reason of the restriction",
        [Length(max=MAX_REASON_CHARACTERS), plain_text],
        description="Required with a restriction. Only staff can see it.",
    )

    def values(self) -> dict[str, Any] | None:
        """Return the arguments of the service; None if there is no such person, and the field has the error."""
        given: dict[str, Any] = {
            "relation": self.relation.data or "",
            "is_restricted": self.is_restricted.data,
            "restriction_reason": self.restriction_reason.data or None,
        }
        if "person" not in self:
            return given
        user = find_user((self.person.data or "").strip())
        if user is None:
            add_error(self.person, "No user has this username or email address.")
            return None
        return given | {"user_id": user.id}


def _zone_of_installation() -> SelectChoice:
    return SelectChoice("", f"Default ({current_app.config['TIMEZONE']})")


def _zones() -> list[SelectChoice]:
    return [SelectChoice(zone, zone.replace("_", " ")) for zone in sorted(available_timezones())]
