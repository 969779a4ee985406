"""Defaults derived from the environment, the instance folder or other settings.

Constant defaults are defined in config.py.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask_belfry.core.settings.casts import ascii_domain, broker_url, host, web_url
from flask_belfry.core.settings.setting import SettingError

VERSION = "0.1.0"
SECRET_KEY_CHARACTERS = 32
BOUNCE_TOKEN_CHARACTERS = 20
METRICS_TOKEN_CHARACTERS = 16
# The path of a Unix socket is limited to 108 bytes on Linux and 104 elsewhere (sys/un.h); this leaves a margin.
SOCKET_PATH_BYTES = 100
LOCAL_MAIL_DOMAIN = "belfry.localhost"


def is_production(values: Mapping[str, Any]) -> bool:
    return values["APP_ENV"] == "production"


def secret_key(values: Mapping[str, Any], instance_path: Path) -> str:
    if is_production(values):
        raise SettingError(
            f"SECRET_KEY must be at least {SECRET_KEY_CHARACTERS} characters: it is not set, and production requires it"
        )
    return _kept_secret_key(instance_path / "secret-key")


def _kept_secret_key(path: Path) -> str:
    """Read the key, or generate it at the first start; processes that start together agree on one key."""
    try:
        return path.read_text()
    except FileNotFoundError:
        pass
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # mode 600
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(48))
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was first: use its key
    finally:
        Path(temporary).unlink()
    return path.read_text()


def embedded_broker_url(values: Mapping[str, Any], instance_path: Path) -> str:
    if is_production(values):
        raise SettingError(f"REDIS_URL must be {broker_url.valid_values}: it is not set, and production requires it")
    return f"unix://{embedded_broker_socket(instance_path)}"


def embedded_broker_socket(instance_path: Path) -> Path:
    """Return the socket of the embedded Valkey, which is used when REDIS_URL is unset."""
    path = instance_path / "valkey" / "valkey.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"belfry-{digest}.sock"


def public_url(values: Mapping[str, Any], instance_path: Path) -> str:
    if is_production(values):
        raise SettingError(f"PUBLIC_URL must be {web_url.valid_values}: it is not set, and production requires it")
    return f"http://127.0.0.1:{values['PORT']}"


def mail_server(values: Mapping[str, Any], instance_path: Path) -> None:
    if is_production(values) and values["MAIL_ENABLED"]:
        raise SettingError(
            f"MAIL_SERVER must be {host.valid_values}: it is not set, and production requires it or MAIL_ENABLED=false"
        )


def mail_domain(values: Mapping[str, Any], instance_path: Path) -> str:
    name = urlsplit(values["PUBLIC_URL"] or "").hostname or ""
    is_name = any(letter.isalpha() for letter in name) and ":" not in name
    try:
        return ascii_domain(name) if is_name else LOCAL_MAIL_DOMAIN
    except ValueError:
        return LOCAL_MAIL_DOMAIN


def mail_port(values: Mapping[str, Any], instance_path: Path) -> int:
    if values["MAIL_USE_SSL"]:
        return 465
    return 587 if values["MAIL_USE_TLS"] else 25


def admin_email(values: Mapping[str, Any], instance_path: Path) -> str | None:
    return None if is_production(values) else "admin@belfry.example"


def log_format(values: Mapping[str, Any], instance_path: Path) -> str:
    return "json" if is_production(values) else "console"
