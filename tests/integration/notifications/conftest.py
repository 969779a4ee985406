"""The mail server of tests of notifications."""

from __future__ import annotations

from typing import Any

import pytest

from tests.smtp import SmtpServer


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings | {"MAIL_TIMEOUT_SECONDS": "1", "MAIL_MESSAGE_ID_DOMAIN": "belfry.example"}
