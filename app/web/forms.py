"""What the forms of all slices share: validators, whole numbers, and the errors of services beside their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from flask_wtf import FlaskForm
from wtforms import Field, IntegerField
from wtforms.validators import ValidationError

from flask_belfry.core.presentation import sentence
from flask_belfry.core.text import CONTROL_CHARACTERS, CONTROL_CHARACTERS_REFUSED
from flask_belfry.db.columns import MAX_INTEGER

REQUIRED = "This field is required."


class ServiceForm(FlaskForm):
    """A form whose values are passed to a service, which may refuse them."""

    # Names of form fields by the service's names, where the two differ.
    FORM_FIELDS: ClassVar[Mapping[str, str]] = {}

    def take_errors(self, message: str, fields: Mapping[str, Sequence[str]]) -> None:
        """Show a service's error beside the fields that it names, or above the form if it names none of them."""
        named = False
        for name, messages in fields.items():
            field = self._fields.get(self.FORM_FIELDS.get(name, name))
            if field is not None:
                add_error(field, *map(sentence, messages))
                named = True
        if not named:
            self.form_errors.append(message)


class WholeNumberField(IntegerField):
    """A whole number that fits into a column: a longer one breaks validators and pages."""

    def process_formdata(self, valuelist: list[str]) -> None:
        """Read the typed text."""
        super().process_formdata(valuelist)
        if self.data is not None and abs(self.data) > MAX_INTEGER:
            self.data = None
            raise ValueError(f"Must be between -{MAX_INTEGER} and {MAX_INTEGER}.")


def plain_text(_: FlaskForm, field: Field) -> None:
    """Refuse control characters, as the fields of the API do."""
    if CONTROL_CHARACTERS.search(field.data or ""):
        raise ValidationError(CONTROL_CHARACTERS_REFUSED)


def unix_lines(text: str | None) -> str:
    r"""Return text stripped and with `\n` at line ends: browsers send CR LF (HTML, "constructing the entry list")."""
    return (text or "").replace("\r\n", "\n").strip()


def add_error(field: Field, *messages: str) -> None:
    """Add errors to a field."""
    # The errors are a tuple until the field has been validated.
    field.errors = [*field.errors, *messages]
