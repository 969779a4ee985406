"""The one job that sends every kind of mail, in chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask_belfry.execution import Chunk, JobTimeoutError, RetryPolicy, job
from flask_belfry.mail import delivery
from flask_belfry.mail.errors import PermanentMailError, TemporaryMailError, UncertainMailError


def retry_policy(settings: Mapping[str, Any]) -> RetryPolicy:
    """What may pass is tried again after MAIL_RETRY_DELAYS_SECONDS; a refusal for good is not."""
    return RetryPolicy(
        delays_seconds=settings["MAIL_RETRY_DELAYS_SECONDS"],
        # The mails that a slow server left no time for are none the worse for it.
        retry_on=(TemporaryMailError, UncertainMailError, JobTimeoutError),
        give_up_on=(PermanentMailError,),
    )


@job("mail.deliver", queue="mail", retry=retry_policy, timeout_seconds=300, chunk=50, takes=("email_id",))
def deliver(chunk: Chunk) -> None:
    """Renders the mails of the ledger that the chunk names, and hands them to the SMTP server."""
    delivery.deliver(chunk)
