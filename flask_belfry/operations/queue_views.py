"""The page of queues: what waits and runs in them, and the pauses of queues, job names and limit keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_belfry import live
from flask_belfry.changes.host import authorized, current_host
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.core.presentation import reader_zone, sentence
from flask_belfry.core.text import query_text
from flask_belfry.operations import queues
from flask_belfry.outbox.models import LIMIT_KEY_CHARACTERS, REASON_CHARACTERS, PauseKind
from flask_belfry.outbox.registry import definitions

pages = Blueprint("queues", __name__, template_folder="templates", url_prefix="/jobs/queues")

VIEW, CHANGE = "jobs.view", "queues.change"
KINDS = {PauseKind.QUEUE: "Queue", PauseKind.JOB: "Job name", PauseKind.LIMIT: "Limit key"}
# By seconds; the empty one has no end.
DURATIONS = {
    "": "Until it is resumed",
    "900": "15 minutes",
    "3600": "1 hour",
    "14400": "4 hours",
    "86400": "1 day",
    "604800": "7 days",
}
FIELDS = ("kind", "name", "reason", "duration", "until")


@pages.get("")
@authorized(VIEW)
def list_() -> ResponseReturnValue:
    """Show the queues and the pauses; `kind` and `name` in the query fill the form."""
    form = {name: query_text(name) or "" for name in ("kind", "name")}
    return _page(form, {})


@pages.get("/live")
@authorized(VIEW)
def list_live() -> ResponseReturnValue:
    """Return the part of the page that is updated live."""
    return live.respond("operations/_queues.html", _context)


@pages.post("/pause")
@authorized(CHANGE)
def pause() -> ResponseReturnValue:
    """Pause what the form names, or show the form again with its errors."""
    form = {name: request.form.get(name, "").strip() for name in FIELDS}
    try:
        paused = queues.pause(**_values(form))
    except InvalidInputError as error:
        return _page(form, error.fields), 422
    flash(f"{KINDS[paused.kind]} {paused.name} is paused.", "success")
    return redirect(url_for("queues.list_"), 303)


@pages.post("/resume")
@authorized(CHANGE)
def resume() -> ResponseReturnValue:
    """Resume what the form names."""
    kind, name = _kind(request.form.get("kind", "")), request.form.get("name", "")
    queues.resume(kind, name)
    flash(f"{KINDS[kind]} {name} is resumed.", "success")
    return redirect(url_for("queues.list_"), 303)


def _values(form: Mapping[str, str]) -> dict[str, Any]:
    if form["duration"] not in DURATIONS:
        raise InvalidInputError("Invalid duration.", {"duration": ["Select one of the durations."]})
    if form["duration"] and form["until"]:
        raise InvalidInputError("Two ends.", {"until": ["Select a duration or an end, not both."]})
    return {
        "kind": _kind(form["kind"]),
        "name": form["name"],
        "reason": form["reason"] or None,
        "duration": timedelta(seconds=int(form["duration"])) if form["duration"] else None,
        "ends_at": _moment(form["until"]) if form["until"] else None,
    }


def _kind(text: str) -> PauseKind:
    if text not in list(PauseKind):
        raise InvalidInputError("Invalid kind.", {"kind": ["Select a queue, a job name or a limit key."]})
    return PauseKind(text)


def _moment(text: str) -> datetime:
    """Return a time that the browser sends without its zone, in which pages show times."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=reader_zone())
    except ValueError as error:
        raise InvalidInputError("Invalid time.", {"until": ["Invalid time; use YYYY-MM-DDTHH:MM."]}) from error


def _page(form: Mapping[str, str], errors: Mapping[str, Sequence[str]]) -> str:
    return render_template(
        "operations/queues.html",
        **_context(),
        form=form,
        # The service names the end as the API does.
        errors={
            "until" if name == "ends_at" else name: " ".join(map(sentence, messages))
            for name, messages in errors.items()
        },
        kinds={kind.value: title for kind, title in KINDS.items()},
        durations=DURATIONS,
        job_names=[found.name for found in definitions()],
        max_name_characters=LIMIT_KEY_CHARACTERS,
        max_reason_characters=REASON_CHARACTERS,
    )


def _context() -> dict[str, Any]:
    active = queues.active_pauses()
    return {
        "queues": queues.queues(active),
        "pauses": active,
        "pause_kinds": {kind.value: title for kind, title in KINDS.items()},
        "user_names": {user_id: current_host().user_name(user_id) for user_id in {each.user_id for each in active}},
        "may_change": current_host().allows(CHANGE),
    }
