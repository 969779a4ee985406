"""Password hashes: argon2id, by Flask-Security. Nothing else in the application sees a password."""

from __future__ import annotations

from flask import current_app
from flask_security.utils import hash_password, verify_password

__all__ = [
    "ARGON2_COSTS",
    "MAX_PASSWORD_CHARACTERS",
    "MIN_PASSWORD_CHARACTERS",
    "hash_password",
    "is_password",
    "needs_rehash",
]

MIN_PASSWORD_CHARACTERS = 8
MAX_PASSWORD_CHARACTERS = 200

# OWASP's password storage cheat sheet for argon2id: 19 MiB, 2 passes, 1 lane. The library's own 64 MiB would be
# 2 GiB when 32 threads log in at once.
ARGON2_COSTS = {"time_cost": 2, "memory_cost": 19 * 1024, "parallelism": 1}


def is_password(password_hash: str, password: str) -> bool:
    """Whether `password_hash` was made of `password`. Takes as long as `hash_password`."""
    try:
        return verify_password(password, password_hash)
    except ValueError:  # no hash at all: an account that was made without a password
        return False


def needs_rehash(password_hash: str) -> bool:
    """Whether the hash was made with other parameters than today's."""
    return current_app.extensions["security"].pwd_context.needs_update(password_hash)
