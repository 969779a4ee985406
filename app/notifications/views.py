"""The pages of notifications for those who send them: the form, the list and the details, which are updated live.

Times that are typed are in the time zone of the school; those that are shown, in that of the reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.accounts import acting_user, can
from app.notifications import choices, queries, scheduling, services
from app.notifications.audiences import Audience, audience
from app.notifications.content import Content, Targets
from app.notifications.forms import LATER, NOW, TYPE_LABELS, NotificationForm, zone_words
from app.notifications.models import (
    MAX_BODY_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    DeliveryState,
    Notification,
    NotificationChannel,
    NotificationState,
    NotificationType,
    ScheduledNotification,
    ScheduledState,
)
from app.notifications.outcomes import outcome_of
from app.notifications.previews import channel_previews
from app.notifications.rules import CANCEL, RETRY, SEND, VIEW
from flask_belfry import live
from flask_belfry.changes.host import authorized
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.core.presentation import localtime
from flask_belfry.core.text import query_text
from flask_belfry.db import db

pages = Blueprint("notifications", __name__, url_prefix="/notifications")

# The largest audience that gets a notification without a confirmation.
CONFIRM_ABOVE = 50
TEST_PREFIX = "Test: "
# What a preview shows before anything is typed.
NO_TITLE, NO_TEXT = "No title yet", "No text yet"
# Fields of the form that are not sent again by the confirmation.
OF_STEP = ("csrf_token", "step", "confirmed")
# The columns of the table: first what people look for.
COLUMNS = (
    *(DeliveryState.DELIVERED, DeliveryState.FAILED, DeliveryState.BOUNCED, DeliveryState.DEFERRED),
    *(DeliveryState.HELD, DeliveryState.QUEUED, DeliveryState.SKIPPED, DeliveryState.CANCELLED),
)
# The permissions that the list and the details show buttons and links for.
SHOWN_ACTIONS = (SEND, CANCEL, RETRY, "mails.view", "jobs.view")
DELIVERIES, NOT_REACHED, LEFT_OUT = TABS = ("deliveries", "not-reached", "left-out")


@pages.get("")
@authorized(VIEW)
def list_() -> ResponseReturnValue:
    """List notifications, newest first, filtered by the query: type, state, cursor."""
    waiting = scheduling.page_scheduled(state=ScheduledState.SCHEDULED)
    return render_template(
        "notifications/list.html",
        scheduled_count=f"{len(waiting.items)}{'+' if waiting.next_cursor else ''}" if waiting.items else "",
        **_list_context(),
    )


@pages.get("/live")
@authorized(VIEW)
def list_live() -> ResponseReturnValue:
    """Return the part of the list that is updated live."""
    return live.respond("notifications/_rows.html", _list_context, actions=SHOWN_ACTIONS)


@pages.get("/scheduled")
@authorized(VIEW)
def scheduled() -> ResponseReturnValue:
    """List the notifications that wait for their time, the next first; `?state=` lists those that were sent or not."""
    state = _member(ScheduledState, "state") or ScheduledState.SCHEDULED
    page = scheduling.page_scheduled(state=state, cursor=request.args.get("cursor"))
    return render_template(
        "notifications/scheduled.html",
        rows=[(row, Targets.from_json(row.targets)) for row in page.items],
        state=state.value,
        next_cursor=page.next_cursor,
        may_send=can(acting_user(), SEND),
    )


@pages.route("/new", methods=["GET", "POST"])
@authorized(SEND)
def new() -> ResponseReturnValue:
    """Show and handle the form of a new notification; `?when=later` asks for a time."""
    form = NotificationForm(_school_id(), when=LATER if request.args.get("when") == LATER else NOW)
    return _form_page(form) if request.method == "GET" else _handle(form, None)


@pages.route("/scheduled/<uuid:scheduled_id>/edit", methods=["GET", "POST"])
@authorized(SEND)
def edit_scheduled(scheduled_id: object) -> ResponseReturnValue:
    """Show and handle the form of a notification that waits for its time."""
    row = scheduling.get_scheduled(str(scheduled_id))
    if row.state is not ScheduledState.SCHEDULED:
        flash(f"This notification was already {row.state}.", "warning")
        return redirect(url_for("notifications.scheduled"), 303)
    form = NotificationForm(row.school_id)
    if request.method == "GET":
        form.fill(row)
        return _form_page(form, row)
    return _handle(form, row)


@pages.post("/scheduled/<uuid:scheduled_id>/cancel")
@authorized(SEND)
def cancel_scheduled(scheduled_id: object) -> ResponseReturnValue:
    """Cancel a notification that waits for its time."""
    row = scheduling.get_scheduled(str(scheduled_id))
    try:
        scheduling.cancel_scheduled(row.id)
    except ConflictError as error:
        db.session.rollback()
        flash(error.message, "error")
    else:
        db.session.commit()
        flash("Cancelled: it is not sent.", "success")
    return redirect(url_for("notifications.scheduled"), 303)


@pages.post("/audience")
@authorized(SEND)
def show_audience() -> ResponseReturnValue:
    """Return only the sentence about whom the form reaches, as filled in so far."""
    return render_template("notifications/_audience.html", **_audience_context(NotificationForm(_school_id())))


@pages.post("/preview")
@authorized(SEND)
def preview() -> ResponseReturnValue:
    """Return only the preview of the form, as filled in so far."""
    form = NotificationForm(_school_id())
    return render_template("notifications/_preview.html", preview=_preview(form))


@pages.get("/find")
@authorized(SEND)
def find() -> ResponseReturnValue:
    """Return the first students or people that a text finds. Query parameters: kind, text, school."""
    text = query_text("text")
    search = choices.find_people if request.args.get("kind") == "people" else choices.find_students
    found = search(_school_id(), text) if text else []
    return render_template("notifications/_found.html", found=found, text=text)


@pages.get("/<uuid:notification_id>")
@authorized(VIEW)
def detail(notification_id: object) -> ResponseReturnValue:
    """Show a notification with its deliveries. Query parameters: tab, state, channel, cursor."""
    return render_template("notifications/detail.html", **_detail_context(str(notification_id)))


@pages.get("/<uuid:notification_id>/live")
@authorized(VIEW)
def detail_live(notification_id: object) -> ResponseReturnValue:
    """Return the part of a notification that is updated live."""
    make_context = partial(_detail_context, str(notification_id))
    return live.respond("notifications/_detail.html", make_context, actions=SHOWN_ACTIONS)


@pages.post("/<uuid:notification_id>/cancel")
@authorized(CANCEL)
def cancel(notification_id: object) -> ResponseReturnValue:
    """Cancel what is not delivered yet."""
    try:
        services.cancel(str(notification_id))
    except ConflictError as error:
        db.session.rollback()
        flash(error.message, "error")
    else:
        db.session.commit()
        flash("Cancelled: what was not delivered yet is not sent.", "success")
    return redirect(url_for("notifications.detail", notification_id=notification_id), 303)


@pages.post("/<uuid:notification_id>/retry")
@authorized(RETRY)
def retry(notification_id: object) -> ResponseReturnValue:
    """Enqueue the failed deliveries again."""
    try:
        count = services.retry_failed(str(notification_id))
    except ConflictError as error:
        db.session.rollback()
        flash(error.message, "error")
    else:
        db.session.commit()
        retried = f"{count:,} {'delivery is' if count == 1 else 'deliveries are'} enqueued again."
        flash(retried if count else "No delivery can be retried.", "success" if count else "warning")
    return redirect(url_for("notifications.detail", notification_id=notification_id), 303)


# ── The form ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _handle(form: NotificationForm, row: ScheduledNotification | None) -> ResponseReturnValue:
    step = request.form.get("step", "send")
    if step in ("edit", "preview"):
        return _form_page(form, row)
    if step == "test":
        return _send_test(form, row)
    content = form.content()
    if content is None:
        return _form_page(form, row, 422)
    reached = audience(form.school_id, content.targets)
    if reached.count > CONFIRM_ABOVE and request.form.get("confirmed") != str(reached.count):
        return _confirm_page(form, content, reached)
    try:
        answer = _save(form, content, row, reached)
    except (ConflictError, InvalidInputError) as error:
        db.session.rollback()
        form.take_errors(error.message, error.fields)
        return _form_page(form, row, 422)
    return answer


def _save(
    form: NotificationForm, content: Content, row: ScheduledNotification | None, reached: Audience
) -> ResponseReturnValue:
    local_time: datetime | None = form.local_time.data
    if row is not None or form.is_later:
        if row is not None:
            saved = scheduling.reschedule(row.id, content=content, local_time=local_time)
        else:
            assert local_time is not None, "checked by the form"
            saved = scheduling.schedule(content, local_time, acting_user(), form.school_id)
        db.session.commit()
        flash(f"Scheduled for {localtime(saved.send_at)}.", "success")
        return redirect(url_for("notifications.scheduled"), 303)
    notification = services.send(content, acting_user(), form.school_id)
    db.session.commit()
    flash(f"Accepted: it is being sent to {_people(reached.count)}.", "success")
    return redirect(url_for("notifications.detail", notification_id=notification.id), 303)


def _send_test(form: NotificationForm, row: ScheduledNotification | None) -> ResponseReturnValue:
    """Send it to its author only, marked as a test; the form keeps its input."""
    valid = [form[name].validate(form) for name in ("title", "body", "type", "channels")]
    if not all(valid):
        return _form_page(form, row, 422)
    user = acting_user()
    content = form.shown_content(Targets(users=(user.id,)))
    content = replace(content, title=f"{TEST_PREFIX}{content.title}"[:MAX_TITLE_CHARACTERS], is_critical=False)
    try:
        services.send(content, user, user.school_id)
    except (ConflictError, InvalidInputError) as error:
        db.session.rollback()
        form.take_errors(error.message, error.fields)
        return _form_page(form, row, 422)
    db.session.commit()
    flash("A test is being sent to you only.", "success")
    return _form_page(form, row)


def _form_page(form: NotificationForm, row: ScheduledNotification | None = None, status: int = 200) -> Any:
    sees_schools = row is None and can(acting_user(), "schools.view_all")
    page = render_template(
        "notifications/form.html",
        scheduled=row,
        schools=choices.schools() if sees_schools else {},
        preview=_preview(form),
        zone_words=zone_words(form.zone),
        title_characters=MAX_TITLE_CHARACTERS,
        body_characters=MAX_BODY_CHARACTERS,
        **_audience_context(form, keeps_errors=True),
    )
    return page, status


def _confirm_page(form: NotificationForm, content: Content, reached: Audience) -> ResponseReturnValue:
    local_time: datetime | None = form.local_time.data
    when = f"{local_time:%a} {local_time.day} {local_time:%b %Y, %H:%M}, {form.zone.key}" if local_time else ""
    return render_template(
        "notifications/confirm.html",
        form=form,
        content=content,
        audience=reached,
        when=when if form.is_later else "Now",
        values=[(name, value) for name, value in request.form.items(multi=True) if name not in OF_STEP],
    )


def _audience_context(form: NotificationForm, *, keeps_errors: bool = False) -> dict[str, Any]:
    """Return the audience of a form; the page shows the errors at the fields, the fragment in itself."""
    fields = (form.students, form.people)
    targets = form.look_up()
    errors = [] if keeps_errors else [message for field in fields for message in field.errors]
    reached = None if targets.is_empty else audience(form.school_id, targets)
    chosen = {"chosen_students": form.student_choices, "chosen_people": form.person_choices}
    return {"form": form, "audience": reached, "target_errors": errors, **chosen}


def _preview(form: NotificationForm) -> dict[str, Any]:
    """Return what mail and push show of a form; those that are not selected are shown too."""
    content = form.shown_content(Targets())
    typed = replace(
        content,
        title=" ".join(content.title.split()) or NO_TITLE,
        body=content.body or NO_TEXT,
        channels=(NotificationChannel.MAIL, NotificationChannel.PUSH),
    )
    return {
        "sender": current_app.config["MAIL_DEFAULT_SENDER"],
        "chosen": [NotificationChannel(channel).value for channel in content.channels],
        "by_channel": {shown.channel.value: shown for shown in channel_previews(typed, form.school_id)},
    }


def _school_id() -> int:
    """Return the school of the form: that of the user, or one that an admin has chosen."""
    chosen = request.values.get("school", "")
    if can(acting_user(), "schools.view_all"):
        return next((id for id in choices.schools() if str(id) == chosen), acting_user().school_id)
    return acting_user().school_id


# ── The list and the details ─────────────────────────────────────────────────────────────────────────────────────


def _list_context() -> dict[str, Any]:
    shown = {"type": _member(NotificationType, "type"), "state": _member(NotificationState, "state")}
    page = queries.page(queries.Filters(**shown), cursor=request.args.get("cursor"))
    counts = queries.counts([row.id for row in page.items])
    return {
        "rows": [(row, outcome_of(counts[row.id], is_sending=_is_sending(row))) for row in page.items],
        "next_cursor": page.next_cursor,
        "filters": {name: member.value if member else None for name, member in shown.items()},
        "types": [type_.value for type_ in TYPE_LABELS],
        "is_sending": any(_is_sending(row) for row in page.items),
        "may_send": can(acting_user(), SEND),
    }


def _detail_context(notification_id: str) -> dict[str, Any]:
    notification = queries.get(notification_id)
    counts = queries.counts([notification.id])[notification.id]
    is_sending, user = _is_sending(notification), acting_user()
    expected = queries.count_recipients(notification.id)[0] * len(notification.channels) if is_sending else 0
    present = {state for numbers in counts.values() for state in numbers}
    failed = sum(numbers.get(DeliveryState.FAILED.value, 0) for numbers in counts.values())
    targets = Targets.from_json(notification.targets)
    tab = request.args.get("tab")
    tab = tab if tab in TABS else DELIVERIES
    return {
        "notification": notification,
        "targets": targets,
        "has_students": bool(targets.students or targets.classes),
        "outcome": outcome_of(counts, is_sending=is_sending, expected=expected),
        "table": [(channel, counts[channel.value]) for channel in NotificationChannel if channel.value in counts],
        "states": [state.value for state in COLUMNS if state.value in present],
        "retryable": failed,
        "tab": tab,
        "may_cancel": (is_sending or _has_open(notification, present)) and can(user, CANCEL),
        "may_retry": notification.state is not NotificationState.CANCELLED and can(user, RETRY),
        "may_see_mails": can(user, "mails.view"),
        "may_see_jobs": can(user, "jobs.view"),
        "is_live": is_sending,
        **_tab_context(notification, tab),
    }


def _has_open(notification: Notification, present: set[str]) -> bool:
    is_finished = notification.state is NotificationState.FINISHED
    return is_finished and any(state.value in present for state in services.OPEN)


def _tab_context(notification: Notification, tab: str) -> dict[str, Any]:
    if tab == NOT_REACHED:
        students = [(each.student, _reasons(each)) for each in queries.unreached_students(notification.id)]
        return {"students": students, "listed": _listed(students)}
    if tab == LEFT_OUT:
        left_out = queries.left_out(notification.id)
        return {"left_out": left_out, "listed": _listed(left_out)}
    shown = {"state": _member(DeliveryState, "state"), "channel": _member(NotificationChannel, "channel")}
    page = queries.page_deliveries(notification.id, cursor=request.args.get("cursor"), **shown)
    filters = {name: member.value if member else None for name, member in shown.items()}
    return {"deliveries": page.items, "next_cursor": page.next_cursor, "filters": filters}


def _listed(rows: Sequence[object]) -> str:
    """Return the number of a tab."""
    return f"{len(rows):,}{'+' if len(rows) >= queries.MAX_UNREACHED else ''}"


def _reasons(unreached: queries.UnreachedStudent) -> list[tuple[str, list[tuple[NotificationChannel, str]]]]:
    """Return why each guardian was not reached, by channel."""
    found: list[tuple[str, list[tuple[NotificationChannel, str]]]] = []
    for person in unreached.people:
        if person.left_out:
            found.append((f"{person.user.name}: left out, {person.left_out}", []))
            continue
        found.append((person.user.name, [(row.channel, _outcome_words(row)) for row in person.deliveries]))
    return found


def _outcome_words(delivery: Any) -> str:
    if delivery.state is DeliveryState.DELIVERED:
        return "not read"
    return f"{delivery.state}: {delivery.reason}" if delivery.reason else str(delivery.state)


def _is_sending(notification: Notification) -> bool:
    return notification.state is NotificationState.SENDING


def _member(enum: Any, name: str) -> Any:
    """Return the member of an enum that the query names; an invalid filter is ignored, as on every page."""
    value = request.args.get(name)
    return enum(value) if value in list(enum) else None


def _people(number: int) -> str:
    return f"{number:,} {'person' if number == 1 else 'people'}"
