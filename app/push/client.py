"""The client of this process, made when the first message is sent."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from flask import current_app

if TYPE_CHECKING:
    from app.push.fcm import FcmClient

NOT_CONFIGURED = "push is not configured"
_lock = threading.Lock()


def is_configured() -> bool:
    """Return whether messages can be sent at all."""
    return current_app.config["FCM_CREDENTIALS"] is not None


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
