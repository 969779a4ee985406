"""What the endpoints of all slices share: scopes, errors, pagination, ETags, idempotency keys and documentation.

Every process imports this package; the parts of endpoints are in `app.api.web`. A slice creates an `ApiBlueprint` and
registers it with `register_api`. Its endpoints require an access token, which `app.accounts` verifies, unless they are
marked with `flask_belfry.core.access.public`.
"""

from app.api.errors import UnauthenticatedError, error_response
from app.api.idempotency import IdempotencyRecord, prune_idempotency_records, secret_response
from app.api.paths import MAX_ID, is_api_request
from app.api.scopes import AREAS, READ, READING_METHODS, SCOPES, WRITE

__all__ = [
    "AREAS",
    "MAX_ID",
    "READ",
    "READING_METHODS",
    "SCOPES",
    "WRITE",
    "IdempotencyRecord",
    "UnauthenticatedError",
    "error_response",
    "is_api_request",
    "prune_idempotency_records",
    "secret_response",
]
