"""What the forms of all slices share: text without control characters, and a service's refusal beside its fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from flask_wtf import FlaskForm
from wtforms import Field, IntegerField
from wtforms.validators import ValidationError

from flask_belfry.core.presentation import sentence
from flask_belfry.core.text import CONTROL_CHARACTERS, CONTROL_CHARACTERS_REFUSED
from flask_belfry.db.pagination import MAX_INTEGER


class ServiceForm(FlaskForm):
    """A form whose values a service takes, which may refuse them."""

    # The form's fields, by the service's; the others have one name.
    FORM_FIELDS: ClassVar[Mapping[str, str]] = {}

    def take_errors(self, message: str, fields: Mapping[str, Sequence[str]]) -> None:
        """Puts a service's refusal beside the fields that it names; what names none goes on top."""
        named = False
        for name, messages in fields.items():
            field = self._fields.get(self.FORM_FIELDS.get(name, name))
            if field is not None:
                add_error(field, *map(sentence, messages))
                named = True
        if not named:
            self.form_errors.append(message)


class WholeNumberField(IntegerField):
    """A whole number that a column can have. Of a longer one, validators and pages fail."""

    def process_formdata(self, valuelist: list[str]) -> None:
        """Called with what was typed."""
        super().process_formdata(valuelist)
        if self.data is not None and abs(self.data) > MAX_INTEGER:
            self.data = None
            raise ValueError(f"Must be between -{MAX_INTEGER} and {MAX_INTEGER}.")


def plain_text(_: FlaskForm, field: Field) -> None:
    """A validator: what the API's fields refuse, a form's refuse too."""
    if CONTROL_CHARACTERS.search(field.data or ""):
        raise ValidationError(CONTROL_CHARACTERS_REFUSED)


def unix_lines(text: str | None) -> str:
    """Text as it was typed: browsers send line ends as CR LF (HTML, "constructing the entry list")."""
    return (text or "").replace("\r\n", "\n").strip()


def add_error(field: Field, *messages: str) -> None:
    """Says what is wrong with a field."""
    # A tuple until the field was validated.
    field.errors = [*field.errors, *messages]
