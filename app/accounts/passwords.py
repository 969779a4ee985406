"""Password hashes: argon2id. Nothing else in the application sees a password."""

from __future__ import annotations

from unicodedata import normalize

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

__all__ = [
    "ARGON2_COSTS",
    "MAX_PASSWORD_CHARACTERS",
    "MIN_PASSWORD_CHARACTERS",
    "NORMAL_FORM",
    "hash_password",
    "is_password",
    "needs_rehash",
]

MIN_PASSWORD_CHARACTERS = 8
MAX_PASSWORD_CHARACTERS = 200

# OWASP's password storage cheat sheet for argon2id: 19 MiB, 2 passes, 1 lane. The library's own 64 MiB would be
# 2 GiB when 32 threads log in at once.
ARGON2_COSTS = {"time_cost": 2, "memory_cost": 19 * 1024, "parallelism": 1}

# One keyboard sends ü as one character, another as two (NIST SP 800-63B, section 5.1.1.2).
NORMAL_FORM = "NFKD"


_hasher = PasswordHasher(
    time_cost=ARGON2_COSTS["time_cost"],
    memory_cost=ARGON2_COSTS["memory_cost"],
    parallelism=ARGON2_COSTS["parallelism"],
)


def hash_password(password: str) -> str:
    """The hash that is kept of a password. Takes long on purpose."""
    return _hasher.hash(normalize(NORMAL_FORM, password))


def is_password(password_hash: str, password: str) -> bool:
    """Whether `password_hash` was made of `password`. Takes as long as `hash_password`."""
    try:
        return _hasher.verify(password_hash, normalize(NORMAL_FORM, password))
    except (VerificationError, InvalidHashError):  # also no hash at all: an account that was made without a password
        return False


def needs_rehash(password_hash: str) -> bool:
    """Whether the hash was made with other parameters than today's."""
    return _hasher.check_needs_rehash(password_hash)
