"""Delivery of a chunk of mails: prepare them, mark them as sending, send, and end the job of each.

No transaction is open while the SMTP server is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from flask_belfry.mail import ledger
from flask_belfry.mail.errors import (
    MailError,
    SenderRefusedError,
    ServerBusyError,
    ServerTimeoutError,
    ServerUnreachableError,
    UncertainMailError,
)
from flask_belfry.mail.models import MailState
from flask_belfry.mail.outcomes import ChunkMail, MailChunk, Outcomes
from flask_belfry.mail.preparation import concerns_chunk, prepare
from flask_belfry.mail.registry import by_kind, kind_of
from flask_belfry.mail.transport import deliver_message, is_server_working, lend_connection, smtp_settings

log = structlog.get_logger(__name__)

# The claims of a wave's jobs are checked again after this time: the process may have been frozen meanwhile.
HELD_SECONDS = 2.0
# After this many server timeouts in a row the other mails of the chunk fail without being tried.
MAX_SERVER_TIMEOUTS = 3
# How long mails are kept before they are released, if the server admits no connection but serves other processes.
RELEASE_SECONDS = 10.0


def deliver(chunk: MailChunk) -> None:
    """Deliver the mails of a chunk of `mail.deliver` jobs, whose argument `email_id` names the mail."""
    _Delivery(chunk).run()


class _Delivery:
    """One attempt to deliver a chunk of mails."""

    def __init__(self, chunk: MailChunk) -> None:
        self._chunk = chunk
        self._outcomes = Outcomes(chunk)
        self._held_at = 0.0

    def run(self) -> None:
        """Complete, fail or release every job of the chunk."""
        self._chunk.before_commit(self._outcomes.write)
        self._send_all(prepare(self._outcomes))

    def _send_all(self, mails: Sequence[ChunkMail]) -> None:
        if not mails:
            return
        try:
            with lend_connection(lambda: self._chunk.should_stop):
                self._send_waves(mails)
        except ServerUnreachableError as error:
            self._handle_unreachable(mails, error)

    def _send_waves(self, mails: Sequence[ChunkMail]) -> None:
        remaining, waves, timeouts = list(mails), smtp_settings().waves, 0
        while remaining:
            began_at, size = time.monotonic(), waves.size
            now, remaining = remaining[:size], remaining[size:]
            now = self._mark_sending(now)
            while now := self._still_held(now):
                if self._chunk.should_stop:
                    return self._outcomes.release(now + remaining)
                mail, *now = now
                if hold := self._outcomes.hold_of(mail):
                    self._outcomes.wait(mail, hold)
                    continue
                error = self._send(mail)
                timeouts = timeouts + 1 if isinstance(error, ServerTimeoutError) else 0
                if error and timeouts >= MAX_SERVER_TIMEOUTS:
                    # Each would wait for the same failure, and block the thread meanwhile.
                    return self._outcomes.fail_all(now + remaining, error)
            waves.learn(time.monotonic() - began_at)
        return None

    def _mark_sending(self, mails: Sequence[ChunkMail]) -> list[ChunkMail]:
        held = self._chunk.held([mail.item for mail in mails])
        mine = [mail for mail in mails if mail.item.id in held]
        for name, of_kind in by_kind([mail.entry for mail in mine]).items():
            if (on_sending := kind_of(name).on_sending) is not None:
                on_sending(self._chunk.session, of_kind)
        marked = ledger.mark_sending(self._chunk.session, [mail.entry.id for mail in mine])
        self._held_at = time.monotonic()
        return [mail for mail in mine if mail.entry.id in marked]

    def _still_held(self, mails: Sequence[ChunkMail]) -> list[ChunkMail]:
        """Return the mails whose jobs this worker still holds: another claim may have sent the others."""
        if not mails or time.monotonic() - self._held_at < HELD_SECONDS:
            return list(mails)
        held = self._chunk.held([mail.item for mail in mails])
        self._chunk.session.rollback()
        self._held_at = time.monotonic()
        return [mail for mail in mails if mail.item.id in held]

    def _send(self, mail: ChunkMail) -> MailError | None:
        """Send a mail and end its job. Return an error that may affect other mails too.

        Raises:
            ServerUnreachableError: nothing of the mail was sent, and its job has not ended.
        """
        assert mail.message is not None, "only rendered mails are sent"
        mail.may_be_sent = True
        try:
            receipt = deliver_message(mail.message)
        except UncertainMailError as error:
            self._outcomes.end_uncertain(mail, error)
        except ServerUnreachableError:
            mail.may_be_sent = False
            raise
        except SenderRefusedError as error:
            self._outcomes.fail_refused(mail, error)
        except MailError as error:
            self._outcomes.fail(mail, error)
            return error
        except BaseException as error:
            if concerns_chunk(error):
                raise
            self._chunk.fail(mail.item, error)
        else:
            refused = "; ".join(map(str, receipt.refusals))
            self._outcomes.end(mail, MailState.SENT, f"refused {refused}" if refused else None, receipt.reply)
        return None

    def _handle_unreachable(self, mails: Sequence[ChunkMail], error: ServerUnreachableError) -> None:
        """End the mails that were not sent because no connection is available: if other threads or processes have one,
        the server works, and no attempt is used."""
        unsent = [mail for mail in mails if self._chunk.is_unanswered(mail.item)]
        if isinstance(error, ServerBusyError) or is_server_working():
            return self._release_unsent(unsent, error)
        if ledger.is_another_sending(self._chunk.session, [mail.entry.id for mail in self._outcomes.mails.values()]):
            # Without the pause this worker would claim them again immediately, and slow down those with a connection.
            _pause(RELEASE_SECONDS, lambda: self._chunk.should_stop)
            return self._release_unsent(unsent, error)
        return self._outcomes.fail_all(unsent, error)

    def _release_unsent(self, mails: Sequence[ChunkMail], error: ServerUnreachableError) -> None:
        log.warning("mail.released", mails=len(mails), reason=error.message)
        self._outcomes.release(mails)


def _pause(seconds: float, should_stop: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at and not should_stop():
        time.sleep(0.1)
