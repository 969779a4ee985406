"""The job that sends the mails of all kinds, in chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask_belfry.execution import Chunk, JobTimeoutError, RetryPolicy, job
from flask_belfry.mail import delivery
from flask_belfry.mail.errors import PermanentMailError, TemporaryMailError, UncertainMailError


def retry_policy(settings: Mapping[str, Any]) -> RetryPolicy:
    """Return the policy that retries temporary and uncertain errors after MAIL_RETRY_DELAYS_SECONDS."""
    return RetryPolicy(
        delays_seconds=settings["MAIL_RETRY_DELAYS_SECONDS"],
        # A slow server uses up the time limit of the whole chunk; the mails that are left are not at fault.
        retry_on=(TemporaryMailError, UncertainMailError, JobTimeoutError),
        give_up_on=(PermanentMailError,),
    )


@job("mail.deliver", queue="mail", retry=retry_policy, timeout_seconds=300, chunk=50, takes=("email_id",))
def deliver(chunk: Chunk) -> None:
    """Render the mails of the chunk and send them to the SMTP server."""
    delivery.deliver(chunk)
