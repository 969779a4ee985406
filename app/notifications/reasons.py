"""Why deliveries are not sent, as people read it: the reasons that several channels have."""

from __future__ import annotations

CANCELLED = "the notification was cancelled"
EXPIRED = "it had expired before it was sent"
SCHOOL_DISABLED = "the school is disabled"
