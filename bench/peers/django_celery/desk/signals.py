"""What follows from a saved reservation: the customer gets a mail, once the transaction has committed."""

from __future__ import annotations

from typing import Any

from django.db.models.signals import post_save
from django.dispatch import receiver
from django.utils import timezone

from desk.models import Reservation, Status
from desk.tasks import send_status_mail


@receiver(post_save, sender=Reservation)
def tell_the_customer(instance: Reservation, created: bool, **_: Any) -> None:
    """Called after each save."""
    old, new = instance.loaded_status, instance.status
    instance.loaded_status = new
    if not created and new != old and new in (Status.CONFIRMED, Status.CANCELLED):
        # transaction.on_commit(…delay…), as Celery spells it for Django.
        send_status_mail.delay_on_commit(instance.pk, old, new, timezone.now().isoformat())
