"""Keys and digests derived from SECRET_KEY, separate for each purpose: one of them reveals none of the others."""

from __future__ import annotations

import hmac

from flask import current_app

HASH = "sha256"


def derived_key(purpose: str) -> bytes:
    """Return the key for a purpose, 32 bytes."""
    return hmac.digest(current_app.config["SECRET_KEY"].encode(), purpose.encode(), HASH)


def keyed_digest(purpose: str, text: str) -> bytes:
    """Return the digest of `text` for a purpose, 32 bytes: a guess can only be checked with SECRET_KEY."""
    return hmac.digest(derived_key(purpose), text.encode(errors="surrogatepass"), HASH)
