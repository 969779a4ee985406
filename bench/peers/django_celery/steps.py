"""What a case asks of Django and Celery, each step in a process of its own: `python steps.py STEP [NUMBER]`.

`bench/belfry/steps.py` has the same steps.
"""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "desk.settings")
django.setup()

from desk.models import Reservation, Status  # noqa: E402
from desk.tasks import complete_overdue, push_to_all, send_notification_mail  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402 - after setup()
from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from rest_framework.authtoken.models import Token  # noqa: E402

from bench.stepping import BODY, TITLE, measured, take  # noqa: E402


def prepare(customers: int) -> dict[str, str]:
    """Makes the tables, a member of staff with a token, and customers with the ids 1, 2, …"""
    call_command("migrate", verbosity=0)
    names = [f"customer{n}" for n in range(1, customers + 1)]
    User.objects.bulk_create(User(username=name, email=f"{name}@example.org", first_name=name) for name in names)
    staff = User.objects.create(username="staff", email="staff@example.org", is_staff=True)
    return {"authorization": f"Token {Token.objects.create(user=staff).key}"}


def confirm(_: int) -> None:
    """Confirms all reservations in one transaction: one task for each when it has committed."""
    with transaction.atomic():
        for reservation in list(Reservation.objects.all()):
            reservation.status = Status.CONFIRMED
            reservation.save()


def notify(_: int) -> dict[str, float]:
    """Mails a notification to all customers: one task for each."""
    return measured(_notify)


def _notify() -> int:
    people = User.objects.filter(is_staff=False).values_list("pk", flat=True)
    for id in people:
        send_notification_mail.delay(id, TITLE, BODY)
    return len(people)


def register_devices(_: int) -> None:
    """Nothing: the task is called with the tokens."""


def notify_by_push(_: int) -> None:
    """Pushes a notification to all customers: one task, which calls FCM in a loop."""
    ids = User.objects.filter(is_staff=False).values_list("pk", flat=True)
    push_to_all.delay([f"device-{id}" for id in ids], TITLE, BODY)


def sweep(_: int) -> dict[str, float]:
    """Completes the overdue reservations, as the periodic task does."""
    return measured(complete_overdue)


if __name__ == "__main__":
    take(prepare, confirm, notify, register_devices, notify_by_push, sweep)
