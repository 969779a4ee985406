"""The JSON API's common ground: bearer tokens, the shape of errors, paging, ETags, idempotency keys, and the document
that describes all of it. No endpoint of a slice is here.

This package is what every process knows of it; what endpoints are made of is in `app.api.web`. A slice makes an
`ApiBlueprint` and registers it with `register_api`. Its endpoints are closed to all but the bearers of an access token,
whom `app.accounts` recognises; `flask_belfry.core.access.public` opens one.
"""

from app.api.errors import UnauthenticatedError, error_response
from app.api.idempotency import IdempotencyRecord, prune_idempotency_records, secret_response
from app.api.paths import MAX_ID, is_api_request
from app.api.scopes import AREAS, READ, SCOPES, WRITE

__all__ = [
    "AREAS",
    "MAX_ID",
    "READ",
    "SCOPES",
    "WRITE",
    "IdempotencyRecord",
    "UnauthenticatedError",
    "error_response",
    "is_api_request",
    "prune_idempotency_records",
    "secret_response",
]
