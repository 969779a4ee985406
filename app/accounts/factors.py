"""The second factor as Flask-Security calls it: codes of an authenticator app (RFC 6238), and recovery codes."""

from __future__ import annotations

from typing import Any

from flask_security.recovery_codes import MfRecoveryCodesUtil
from flask_security.totp import Totp

from app.accounts.emails import send_second_factor
from app.accounts.permissions import acting_user
from app.accounts.second_factor import CODES_OF_USER, lock_second_factor, record_result
from app.web.keys import keyed_digest
from app.web.limiting import hit


class OnceOnlyTotp(Totp):
    """Codes of an authenticator app, each of which is taken once."""

    def verify_totp(self, token: str, totp_secret: str, user: Any, window: int = 0) -> bool:
        """Whether a code is right; counted and recorded. Raises TooManyRequests."""
        hit(CODES_OF_USER, str(user.id))
        return record_result(user, is_right=super().verify_totp(token, totp_secret, user, window))

    def get_last_counter(self, user: Any) -> int | None:
        """The step of the last code that was taken."""
        lock_second_factor(user)
        return user.tf_last_counter

    def set_last_counter(self, user: Any, tmatch: Any) -> None:
        """Called when a code is taken. The caller commits."""
        user.tf_last_counter = tmatch.counter


class HashedRecoveryCodes(MfRecoveryCodesUtil):
    """Recovery codes of which only hashes are kept, keyed with our secret since they are short."""

    def _encrypt_codes(self, codes: list[str]) -> list[str]:
        return [self._hash(code) for code in codes]

    def create_recovery_codes(self, user: Any) -> list[str]:
        """New codes in place of the user's old ones; the user is mailed. The caller commits."""
        send_second_factor(acting_user(), "recovery-codes")
        return super().create_recovery_codes(user)

    def get_recovery_codes(self, user: Any) -> list[str]:
        """Return none: codes are shown once, when they are made."""
        return []

    def check_recovery_code(self, user: Any, code: str) -> bool:
        """Whether it is one of the user's; counted and recorded. Raises TooManyRequests."""
        hit(CODES_OF_USER, str(user.id))
        lock_second_factor(user)
        return record_result(user, is_right=self._hash(code) in (user.mf_recovery_codes or []))

    def delete_recovery_code(self, user: Any, code: str) -> bool:
        """Called when a code was taken: it works no more. The caller commits."""
        used = self._hash(code)
        user.mf_recovery_codes = [kept for kept in user.mf_recovery_codes or [] if kept != used]
        return True

    def _hash(self, code: str) -> str:
        return keyed_digest("recovery-codes", code.strip()).hex()
