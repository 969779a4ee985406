"""The form of a schedule: texts as they were typed, the draft that they mean, and the errors beside the fields."""

from __future__ import annotations

from flask_belfry.core.presentation import reader_zone, sentence
from flask_belfry.operations.custom_schedules import Draft
from flask_belfry.operations.job_form import ARG, REQUIRED, JobForm, checked
from flask_belfry.operations.job_parameters import Parameter
from flask_belfry.outbox import CustomSchedule

UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}
MAX_COUNT_DIGITS = 9


class ScheduleForm(JobForm):
    """A form, filled in."""

    FIELDS = {**JobForm.FIELDS, "every_seconds": "count"}
    # Whether the schedule has changed since the form was shown.
    is_stale = False

    def draft(self) -> Draft:
        """Return the draft, and note the errors of fields whose text means no value."""
        is_cron = self.text("when") != "every"
        for name in ("name", *(["cron"] if is_cron else [])):
            if name in self.texts and not self.text(name).strip():
                self.add(name, REQUIRED)
        return Draft(
            name=self.text("name").strip(),
            job=self.job,
            args=self.args(),
            cron=self.text("cron").strip() if is_cron else None,
            every_seconds=None if is_cron else self._seconds(),
            zone=self.text("zone").strip() if is_cron else "",
            school_id=self.school_id(),
        )

    def _seconds(self) -> int:
        count, unit = self.text("count").strip(), UNITS.get(self.text("unit"), 1)
        if count.isascii() and count.isdecimal() and len(count) <= MAX_COUNT_DIGITS:
            return int(count) * unit
        self.add("count", sentence("must be a whole number") if count else REQUIRED)
        return 0


def empty_texts(parameters: list[Parameter]) -> dict[str, str]:
    """Return the texts of the form of a new schedule."""
    return {"when": "cron", "unit": "minutes", "zone": reader_zone().key, **checked(parameters)}


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
        **{ARG + each.name: each.shown(value) for each, value in given.items()},
    }
