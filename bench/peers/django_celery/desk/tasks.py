"""What workers run."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from http.client import HTTPConnection
from smtplib import SMTPException
from urllib.parse import urlsplit

from celery import shared_task
from django.conf import settings
from django.contrib.auth.models import User
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string
from django.utils import timezone

from desk.models import Reservation, Status


@shared_task(autoretry_for=(SMTPException, OSError), retry_backoff=60, max_retries=5)
def send_status_mail(reservation_id: int, old: str, new: str, changed_at: str) -> None:
    """Notify the customer of a new status."""
    reservation = Reservation.objects.select_related("customer").get(pk=reservation_id)
    context = {
        "reservation": reservation,
        "old": old,
        "new": new,
        "changed_at": datetime.fromisoformat(changed_at),
        "subject": f"Reservation #{reservation.pk} {new}",
        "zone": settings.TIME_ZONE,
        "public_url": settings.PUBLIC_URL,
    }
    message = EmailMultiAlternatives(
        context["subject"],
        render_to_string("email/reservation_status.txt", context),
        to=[reservation.customer.email],
    )
    message.attach_alternative(render_to_string("email/reservation_status.html", context), "text/html")
    message.send()


@shared_task(autoretry_for=(SMTPException, OSError), retry_backoff=60, max_retries=5)
def send_notification_mail(user_id: int, title: str, body: str) -> None:
    """Mail a notification to one person."""
    user = User.objects.get(pk=user_id)
    context = {"user": user, "title": title, "body": body, "public_url": settings.PUBLIC_URL}
    message = EmailMultiAlternatives(title, render_to_string("email/notification.txt", context), to=[user.email])
    message.attach_alternative(render_to_string("email/notification.html", context), "text/html")
    message.send()


@shared_task
def push_to_all(tokens: list[str], title: str, body: str) -> None:
    """Push a notification to devices, one after the other, over one connection to FCM."""
    url = urlsplit(os.environ["FCM_ENDPOINT"])
    connection = HTTPConnection(url.netloc, timeout=10)
    for token in tokens:
        message = {"message": {"token": token, "notification": {"title": title, "body": body}}}
        headers = {"Authorization": "Bearer bench", "Content-Type": "application/json"}
        connection.request("POST", "/v1/projects/bench/messages:send", json.dumps(message), headers)
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise OSError(f"FCM responds with {response.status}")


@shared_task
def complete_overdue() -> int:
    """Completes confirmed reservations that began long enough ago; one by one, so that the signals fire."""
    begun_before = timezone.now() - timedelta(minutes=settings.OVERDUE_MINUTES)
    overdue = Reservation.objects.filter(status=Status.CONFIRMED, start_time__lte=begun_before)
    completed = 0
    for reservation in overdue.iterator():
        reservation.status = Status.COMPLETED
        reservation.save(update_fields=["status", "updated_at"])
        completed += 1
    return completed
