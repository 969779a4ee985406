"""The form of a schedule: texts as they were typed, the draft that they mean, and the errors beside the fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask_belfry.changes.host import current_host
from flask_belfry.core.errors import AppError
from flask_belfry.core.presentation import reader_zone, sentence
from flask_belfry.operations.custom_schedules import Draft
from flask_belfry.operations.job_parameters import FieldKind, Parameter
from flask_belfry.outbox import CustomSchedule

REQUIRED = "This field is required."
UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}
MAX_COUNT_DIGITS = 9
_ARG = "arg_"
# The fields of the form by those of the service, where they differ.
_FIELDS = {"every_seconds": "count", "args": "", "job": ""}


@dataclass
class ScheduleForm:
    """A form, filled in.

    Args:
        job: the name of the job.
        parameters: its arguments.
        texts: what was typed, by the names of the fields; those of arguments begin with `arg_`.
        errors: messages by the names of the fields, and under "" those of the form as a whole.
    """

    job: str
    parameters: list[Parameter]
    texts: Mapping[str, str]
    errors: dict[str, list[str]] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Return what was typed in a field."""
        return self.texts.get(name, "")

    def draft(self) -> Draft:
        """Return the draft, and note the errors of fields whose text means no value."""
        is_cron = self.text("when") != "every"
        for name in ("name", *(["cron"] if is_cron else [])):
            if name in self.texts and not self.text(name).strip():
                self._add(name, REQUIRED)
        return Draft(
            name=self.text("name").strip(),
            job=self.job,
            args=self._args(),
            cron=self.text("cron").strip() if is_cron else None,
            every_seconds=None if is_cron else self._seconds(),
            zone=self.text("zone").strip() if is_cron else "",
            school_id=self._school_id(),
        )

    def note(self, error: AppError) -> None:
        """Note the errors of a service, beside what is noted already."""
        if not error.fields:
            self._add("", error.message)
        for name, messages in error.fields.items():
            field_name = _FIELDS.get(name, name.replace("args.", _ARG, 1))
            if field_name not in self.errors:
                self._add(field_name, *map(sentence, messages))

    def _args(self) -> dict[str, Any]:
        args: dict[str, Any] = {}
        for each in self.parameters:
            text = self.text(_ARG + each.name).strip()
            if each.kind is FieldKind.CHECKBOX:
                args[each.name] = text == "true"
            elif text:
                try:
                    args[each.name] = each.read(text)
                except ValueError as error:
                    self._add(_ARG + each.name, sentence(str(error)))
            elif each.is_required and each.may_be_null:
                args[each.name] = None
            elif each.is_required:
                self._add(_ARG + each.name, REQUIRED)
        return args

    def _seconds(self) -> int:
        count, unit = self.text("count").strip(), UNITS.get(self.text("unit"), 1)
        if count.isascii() and count.isdecimal() and len(count) <= MAX_COUNT_DIGITS:
            return int(count) * unit
        self._add("count", sentence("must be a whole number") if count else REQUIRED)
        return 0

    def _school_id(self) -> int | None:
        text = self.text("school")
        if not text:
            return None
        by_text = {str(id): id for id in current_host().schools()}
        if text not in by_text:
            self._add("school", "Select one of the schools.")
        return by_text.get(text)

    def _add(self, name: str, *messages: str) -> None:
        self.errors.setdefault(name, []).extend(messages)


def empty_texts(parameters: list[Parameter]) -> dict[str, str]:
    """Return the texts of the form of a new schedule."""
    checked = {_ARG + each.name: "true" for each in parameters if each.kind is FieldKind.CHECKBOX and each.default}
    return {"when": "cron", "unit": "minutes", "zone": reader_zone().key, **checked}


def texts_of(row: CustomSchedule, parameters: list[Parameter]) -> dict[str, str]:
    """Return the texts of the form of an existing schedule."""
    seconds = row.every_seconds or 60
    unit = max((name for name, size in UNITS.items() if not seconds % size), key=lambda name: UNITS[name])
    given = {each: row.args[each.name] for each in parameters if row.args.get(each.name) is not None}
    return {
        "when": "cron" if row.cron else "every",
        "cron": row.cron or "",
        "count": str(seconds // UNITS[unit]) if row.every_seconds else "",
        "unit": unit,
        "zone": row.zone,
        "school": "" if row.school_id is None else str(row.school_id),
        **{_ARG + each.name: each.shown(value) for each, value in given.items()},
    }
