"""Password hashes: argon2id. Nothing else in the application sees a password."""

from __future__ import annotations

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MIN_PASSWORD_CHARACTERS = 8
MAX_PASSWORD_CHARACTERS = 200

# OWASP's password storage cheat sheet for argon2id: 19 MiB, 2 passes, 1 lane. The library's own 64 MiB would be
# 2 GiB when 32 threads log in at once.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def hash_password(password: str) -> str:
    """The argon2id hash of `password`, with its salt and parameters."""
    return _hasher.hash(password)


def is_password(password_hash: str, password: str) -> bool:
    """Whether `password_hash` was made of `password`. Takes as long as `hash_password`."""
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def needs_rehash(password_hash: str) -> bool:
    """Whether the hash was made with other parameters than today's."""
    return _hasher.check_needs_rehash(password_hash)
