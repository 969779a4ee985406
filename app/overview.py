"""The start page: work that waits for staff today, collected from the slices."""

from __future__ import annotations

from flask import Flask, redirect, render_template, url_for
from flask.globals import app_ctx
from flask.typing import ResponseReturnValue
from flask_login import current_user

from app import reservations, work_items
from app.accounts import acting_user, can, login_required
from flask_belfry import mail, operations
from flask_belfry.core.presentation import date_today, reader_zone
from flask_belfry.operations import problems

SHOWN = 6


@login_required
def index() -> ResponseReturnValue:
    """Show the overview to staff; redirect others to their reservations."""
    if not current_user.is_staff:
        return redirect(url_for("reservations.list_"))
    waiting_count = reservations.count_waiting()
    today = reservations.of_day(date_today(), reader_zone())
    counts = operations.counts_by_state()
    return render_template(
        "index.html",
        numbers=_numbers(len(today), waiting_count, counts),
        today=today,
        waiting=reservations.waiting(SHOWN),
        waiting_count=waiting_count,
        my_work=work_items.open_of(acting_user(), SHOWN),
        problems=problems.known_count(app_ctx.app) if can(acting_user(), "jobs.view") else 0,
        held_domains=mail.held_domains(),
        failed_jobs=operations.latest_failures(SHOWN),
    )


def init_app(app: Flask) -> None:
    """Add the page at /."""
    app.add_url_rule("/", "index", index)


def _numbers(today: int, waiting: int, counts: dict[str, int]) -> list[dict[str, object]]:
    on_the_way = sum(counts.get(state, 0) for state in ("pending", "queued", "running", "scheduled"))
    failed, retryable = counts.get("failed", 0), counts.get("retryable", 0)
    return [
        _number("Reservations today", today, url_for("reservations.day", date=date_today())),
        _number(
            "Waiting for confirmation",
            waiting,
            url_for("reservations.list_", status="pending"),
            "warning" if waiting else "",
        ),
        _number("Jobs in progress", on_the_way, url_for("operations.jobs")),
        _number(
            "Jobs waiting to retry",
            retryable,
            url_for("operations.jobs", state="retryable"),
            "warning" if retryable else "",
        ),
        _number("Jobs failed", failed, url_for("operations.jobs", state="failed"), "danger" if failed else ""),
    ]


def _number(label: str, value: int, href: str, tone: str = "") -> dict[str, object]:
    return {"label": label, "value": value, "href": href, "tone": tone}
