"""The return path of each mail (VERP): MAIL_BOUNCE_ADDRESS with a signed token that names the mail.

`bounces@mail.example.org` becomes `bounces+<token>@mail.example.org`. Without the signature, anyone could report any
mail as bounced.
"""

from __future__ import annotations

import base64
import hmac
from uuid import UUID

from flask import current_app

SEPARATOR = "+"
# The token is in base32, because mail servers may change the case of a local part: 26 characters for the 16 bytes of
# the id, and 13 for the 8 bytes of the signature.
ID_CHARACTERS = 26
SIGNATURE_BYTES = 8
_PURPOSE = b"return path of mails"


class ForgedReturnPathError(ValueError):
    """The email address has the form of a return path, and its signature is wrong."""


def return_path(mail_id: str) -> str | None:
    """Return the email address that receives the bounces of a mail; None without MAIL_BOUNCE_ADDRESS."""
    bounce_address = current_app.config["MAIL_BOUNCE_ADDRESS"]
    if not bounce_address:
        return None
    local, _, domain = bounce_address.rpartition("@")
    return f"{local}{SEPARATOR}{_base32(UUID(mail_id).bytes)}{_signature(mail_id)}@{domain}"


def mail_of(email: str) -> str | None:
    """Return the id of the mail whose bounces an email address receives; None if it is not a return path.

    Raises:
        ForgedReturnPathError: its signature is wrong.
    """
    bounce_address = current_app.config["MAIL_BOUNCE_ADDRESS"]
    if not bounce_address:
        return None
    prefix, _, domain = bounce_address.lower().rpartition("@")
    local, _, of_domain = email.strip().strip("<>").lower().rpartition("@")
    token = local.removeprefix(prefix + SEPARATOR)
    if of_domain != domain or token == local:
        return None
    try:
        mail_id = str(UUID(bytes=base64.b32decode(token[:ID_CHARACTERS].upper() + "======")))
    except ValueError as error:
        raise ForgedReturnPathError(email) from error
    if not hmac.compare_digest(token[ID_CHARACTERS:].encode(), _signature(mail_id).encode()):
        raise ForgedReturnPathError(email)
    return mail_id


def _signature(mail_id: str) -> str:
    key = hmac.digest(current_app.config["SECRET_KEY"].encode(), _PURPOSE, "sha256")
    return _base32(hmac.digest(key, UUID(mail_id).bytes, "sha256")[:SIGNATURE_BYTES])


def _base32(value: bytes) -> str:
    return base64.b32encode(value).decode("ascii").rstrip("=").lower()
