"""Keys and digests that follow from SECRET_KEY, for each purpose its own: what one tells is of no use for another."""

from __future__ import annotations

import hmac

from flask import current_app

HASH = "sha256"


def derived_key(purpose: str) -> bytes:
    """The key for one purpose, 32 bytes."""
    return hmac.digest(current_app.config["SECRET_KEY"].encode(), purpose.encode(), HASH)


def keyed_digest(purpose: str, text: str) -> bytes:
    """What `text` becomes for one purpose, 32 bytes: nobody can find it, or check a guess, without SECRET_KEY."""
    return hmac.digest(derived_key(purpose), text.encode(errors="surrogatepass"), HASH)
