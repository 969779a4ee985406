"""The form of a job's arguments: texts as they were typed, the values that they mean, the errors beside the fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flask_belfry.changes.host import current_host
from flask_belfry.core.errors import AppError
from flask_belfry.core.presentation import sentence
from flask_belfry.operations.job_parameters import FieldKind, Parameter

REQUIRED = "This field is required."
ARG = "arg_"


@dataclass
class JobForm:
    """A form, filled in.

    Args:
        job: the name of the job.
        parameters: its arguments.
        texts: what was typed, by the names of the fields; those of arguments begin with `arg_`.
        errors: messages by the names of the fields, and under "" those of the form as a whole.
    """

    # The fields of the form by those of the service, where they differ.
    FIELDS: ClassVar[Mapping[str, str]] = {"args": "", "job": ""}

    job: str
    parameters: list[Parameter]
    texts: Mapping[str, str]
    errors: dict[str, list[str]] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Return what was typed in a field."""
        return self.texts.get(name, "")

    def args(self) -> dict[str, Any]:
        """Return the arguments, and note the errors of fields whose text means no value."""
        args: dict[str, Any] = {}
        for each in self.parameters:
            text = self.text(ARG + each.name).strip()
            if each.kind is FieldKind.CHECKBOX:
                args[each.name] = text == "true"
            elif text:
                try:
                    args[each.name] = each.read(text)
                except ValueError as error:
                    self.add(ARG + each.name, sentence(str(error)))
            elif each.is_required and each.may_be_null:
                args[each.name] = None
            elif each.is_required:
                self.add(ARG + each.name, REQUIRED)
        return args

    def school_id(self) -> int | None:
        """Return the selected school, and note the error of an unknown one."""
        text = self.text("school")
        if not text:
            return None
        by_text = {str(id): id for id in current_host().schools()}
        if text not in by_text:
            self.add("school", "Select one of the schools.")
        return by_text.get(text)

    def note(self, error: AppError) -> None:
        """Note the errors of a service, beside what is noted already."""
        if not error.fields:
            self.add("", error.message)
        for name, messages in error.fields.items():
            field_name = self.FIELDS.get(name, name.replace("args.", ARG, 1))
            if field_name not in self.errors:
                self.add(field_name, *map(sentence, messages))

    def add(self, name: str, *messages: str) -> None:
        """Note errors of a field."""
        self.errors.setdefault(name, []).extend(messages)


def checked(parameters: list[Parameter]) -> dict[str, str]:
    """Return the texts of the checkboxes that are checked by default."""
    return {ARG + each.name: "true" for each in parameters if each.kind is FieldKind.CHECKBOX and each.default}
