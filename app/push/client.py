"""The client of this process, made when the first message is sent."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from flask import Flask, current_app

from app.push.errors import PushCredentialsError, PushError
from flask_belfry.changes.host import CheckError

if TYPE_CHECKING:
    from app.push.fcm import FcmClient

NOT_CONFIGURED = "push is not configured"
_lock = threading.Lock()


def is_configured() -> bool:
    """Return whether messages can be sent at all."""
    return current_app.config["FCM_CREDENTIALS"] is not None


def check(app: Flask) -> str:
    """Exchange the credentials for an access token, as `flask doctor` does. Raises CheckError."""
    from app.push.fcm import CHECK_TIMEOUT, FcmClient

    settings = app.config
    try:
        client = FcmClient(settings["FCM_CREDENTIALS"], settings["FCM_ENDPOINT"], connections=1, timeout=CHECK_TIMEOUT)
        project = client.check()
    except PushCredentialsError as error:
        raise CheckError(f"{error}: check FCM_CREDENTIALS, and the key at Firebase") from None
    except PushError as error:
        raise CheckError(f"{error}: check the network; push messages are retried") from None
    return f"project {project}: the credentials are accepted"


def push_client() -> FcmClient:
    """Return the client of the current application.

    Raises:
        PushCredentialsError: the service account file cannot be used.
    """
    from app.push.fcm import FcmClient  # not before it is needed: most processes send nothing

    app = current_app
    with _lock:
        if "push_client" not in app.extensions:
            connections = app.config["WORKER_THREADS"]
            app.extensions["push_client"] = FcmClient(
                app.config["FCM_CREDENTIALS"], app.config["FCM_ENDPOINT"], connections=connections
            )
        return app.extensions["push_client"]
