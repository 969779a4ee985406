"""Schemas of schools, classes, students and guardians in the API."""

from __future__ import annotations

import marshmallow as ma
from marshmallow import validate

from app.api import MAX_ID
from app.api.web import QueryOfPage, Schema, check_control_characters, id_field
from app.directory.models import (
    MAX_CLASS_NAME_CHARACTERS,
    MAX_NUMBER_CHARACTERS,
    MAX_REASON_CHARACTERS,
    MAX_RELATION_CHARACTERS,
    MAX_STUDENT_NAME_CHARACTERS,
)
from app.schools import MAX_SCHOOL_NAME_CHARACTERS, MAX_SLUG_CHARACTERS


def _text(characters: int, *, least: int = 1, description: str = "", **options: object) -> ma.fields.String:
    return ma.fields.String(
        validate=[validate.Length(least, characters), check_control_characters],
        metadata={"description": description} if description else {},
        **options,  # pyright: ignore[reportArgumentType]
    )


class SchoolChangesSchema(Schema):
    """Changes of a school; absent fields keep their values."""

    name = _text(MAX_SCHOOL_NAME_CHARACTERS)
    time_zone = _text(60, description="An IANA name; null is the setting TIMEZONE.", allow_none=True)


class NewSchoolSchema(SchoolChangesSchema):
    """A new school."""

    name = _text(MAX_SCHOOL_NAME_CHARACTERS, required=True)
    slug = _text(
        MAX_SLUG_CHARACTERS,
        description="Lower-case letters, digits and single hyphens; unique, and cannot be changed.",
        required=True,
    )


class SchoolSchema(Schema):
    """A school."""

    id = ma.fields.Integer(required=True)
    name = ma.fields.String(required=True)
    slug = ma.fields.String(required=True)
    time_zone = ma.fields.String(required=True, allow_none=True)
    is_disabled = ma.fields.Boolean(
        required=True, metadata={"description": "Whether its users cannot log in, and nothing is sent for it."}
    )
    created_at = ma.fields.AwareDateTime(format="iso", required=True)


class ClassChangesSchema(Schema):
    """Changes of a class."""

    name = _text(MAX_CLASS_NAME_CHARACTERS, description="Unique in the school.")


class NewClassSchema(Schema):
    """A new class of the user's school."""

    name = _text(MAX_CLASS_NAME_CHARACTERS, description="Unique in the school.", required=True)


class ClassSchema(Schema):
    """A class."""

    id = ma.fields.Integer(required=True)
    school_id = ma.fields.Integer(required=True)
    name = ma.fields.String(required=True)
    created_at = ma.fields.AwareDateTime(format="iso", required=True)


class StudentChangesSchema(Schema):
    """Changes of a student; absent fields keep their values."""

    number = _text(MAX_NUMBER_CHARACTERS, description="Unique in the school.")
    name = _text(MAX_STUDENT_NAME_CHARACTERS)
    class_id = id_field("A class of the school.", allow_none=True)
    enrolled_on = ma.fields.Date(metadata={"description": "The first day."})
    left_on = ma.fields.Date(allow_none=True, metadata={"description": "The first day after the last one."})


class NewStudentSchema(StudentChangesSchema):
    """A new student of the user's school."""

    number = _text(MAX_NUMBER_CHARACTERS, description="Unique in the school.", required=True)
    name = _text(MAX_STUDENT_NAME_CHARACTERS, required=True)
    enrolled_on = ma.fields.Date(required=True, metadata={"description": "The first day."})


class StudentSchema(Schema):
    """A student."""

    id = ma.fields.Integer(required=True)
    school_id = ma.fields.Integer(required=True)
    number = ma.fields.String(required=True)
    name = ma.fields.String(required=True)
    class_id = ma.fields.Integer(required=True, allow_none=True)
    enrolled_on = ma.fields.Date(required=True)
    left_on = ma.fields.Date(required=True, allow_none=True)
    created_at = ma.fields.AwareDateTime(format="iso", required=True)


class StudentQuery(QueryOfPage):
    """Filters of the list of students."""

    class_id = ma.fields.Integer(validate=validate.Range(1, MAX_ID))
    enrolled = ma.fields.Boolean(metadata={"description": "Whether they are enrolled today."})
    text = _text(100, description="Text in the name or the number.")


class GuardianChangesSchema(Schema):
    """Changes of a guardian; absent fields keep their values."""

    relation = _text(MAX_RELATION_CHARACTERS, least=0, description="Such as mother.")
    is_restricted = ma.fields.Boolean(
        metadata={"description": "Whether the guardian receives nothing about the student, for example by custody."}
    )
    restriction_reason = _text(
        MAX_REASON_CHARACTERS, description="Required with a restriction, null without one.", allow_none=True
    )


class NewGuardianSchema(GuardianChangesSchema):
    """A new guardian."""

    user_id = id_field("An active user of the school with a confirmed email address.", required=True)


class GuardianSchema(Schema):
    """A guardian of a student."""

    id = ma.fields.Integer(required=True)
    student_id = ma.fields.Integer(required=True)
    user_id = ma.fields.Integer(required=True)
    relation = ma.fields.String(required=True)
    is_restricted = ma.fields.Boolean(required=True)
    restriction_reason = ma.fields.String(required=True, allow_none=True)
