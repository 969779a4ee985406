"""The client of FCM HTTP v1. Imported when a message is sent: few processes need google-auth and urllib3."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.urllib3 import Request
from google.oauth2 import service_account

from app.push.answers import error_of, is_token_refused
from app.push.errors import PushCredentialsError, PushUnavailableError, ThrottledError
from app.push.messages import PushMessage, message_json
from app.push.models import DeviceKind
from flask_belfry.core.clock import utc_now

SCOPES = ("https://www.googleapis.com/auth/firebase.messaging",)
TIMEOUT = urllib3.Timeout(connect=5.0, read=10.0)
CHECK_TIMEOUT = urllib3.Timeout(total=1.5)


class FcmClient:
    """Sends messages to devices, over connections that stay open and are shared by the threads of a process.

    Args:
        credentials: the service account file.
        endpoint: the URL of the server.
        connections: the most that are kept open.
        timeout: of each request.

    Raises:
        PushCredentialsError: the file cannot be used.
    """

    def __init__(
        self, credentials: Path, endpoint: str, *, connections: int, timeout: urllib3.Timeout = TIMEOUT
    ) -> None:
        try:
            info = json.loads(credentials.read_text())
            self._project = str(info["project_id"])
            self._credentials: Any = service_account.Credentials.from_service_account_info(info, scopes=SCOPES)
        except (OSError, ValueError, KeyError, TypeError, GoogleAuthError) as error:
            # Not the text of the error, which may quote the file.
            raise PushCredentialsError(
                f"FCM_CREDENTIALS is not a service account file of a Firebase project ({type(error).__name__})"
            ) from None
        self._url = f"{endpoint}/v1/projects/{self._project}/messages:send"
        self._pool = urllib3.PoolManager(maxsize=connections, timeout=timeout, retries=False)
        self._lock = threading.Lock()
        # Until when nothing may be sent, and what FCM said.
        self._throttled = 0.0, ""

    def send(self, message: PushMessage, kind: DeviceKind, token: str) -> None:
        """Send a message to a device. Returns when FCM has accepted it.

        Raises:
            PushError: it was not accepted; the class says whom that concerns.
        """
        until, reason = self._throttled
        if (wait := until - time.monotonic()) > 0:
            raise ThrottledError(reason, wait)
        body = json.dumps(message_json(message, kind, token, utc_now())).encode()
        access_token = self._access_token()
        response = self._post(body, access_token)
        if is_token_refused(response.status, response.data):
            response = self._post(body, self._access_token(refused=access_token))
        if response.status == 200:
            return
        error = error_of(response.status, response.headers, response.data, utc_now(), token)
        if isinstance(error, ThrottledError):
            self._throttled = time.monotonic() + error.retry_after_seconds, str(error)
        raise error

    def check(self) -> str:
        """Exchange the credentials for an access token; return the id of the project."""
        self._access_token()
        return self._project

    def _post(self, body: bytes, access_token: str) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {access_token}", "Content-Type": "application/json"}
        try:
            return self._pool.request("POST", self._url, body=body, headers=headers, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise PushUnavailableError(f"FCM does not respond ({type(error).__name__})") from None

    def _access_token(self, refused: str | None = None) -> str:
        """Return an access token that is valid for some minutes, and is not the refused one."""
        with self._lock:
            if not self._credentials.valid or self._credentials.token == refused:
                self._renew()
            return str(self._credentials.token)

    def _renew(self) -> None:
        try:
            self._credentials.refresh(_TokenRequest(self._pool))
        except TransportError as error:
            cause = type(error.__cause__ or error).__name__
            raise PushUnavailableError(f"the token server of FCM does not respond ({cause})") from None
        except GoogleAuthError as error:
            refusal: Any = error.args[0] if error.args else ""
            raise PushCredentialsError(f"the token server refuses FCM_CREDENTIALS: {refusal}") from None


class _TokenRequest(Request):
    """Raises for a failure of the token server: google-auth would sleep and repeat, and the job is retried anyway."""

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        response = super().__call__(url, method, body, headers, timeout, **options)
        if response.status == 429 or response.status >= 500:
            raise PushUnavailableError(f"the token server of FCM answered {response.status}")
        return response
