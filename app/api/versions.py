"""ETags of rows, so that concurrent editors do not overwrite each other (RFC 9110, section 13)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import marshmallow as ma
from flask import Response, jsonify, request

from flask_belfry.core.errors import StaleError

View = Callable[..., Any]
# Statuses whose response is a representation of the row.
OK_STATUSES = (200, 201)


def versioned(view: View) -> View:
    """Add the row's ETag to the responses of an endpoint, and respond with 304 to a matching `If-None-Match`.

    Goes directly below the blueprint's `route`. An endpoint that writes calls `check_stale` for `If-Match`.
    """

    @wraps(view)
    def respond(*args: Any, **kwargs: Any) -> Any:
        response: Response = view(*args, **kwargs)
        if response.status_code in OK_STATUSES:
            response.set_etag(_tag(response))
        return response.make_conditional(request.environ) if request.method == "GET" else response

    respond.__dict__["is_versioned"] = True
    return respond


def check_stale(schema: type[ma.Schema], row: object) -> None:
    """Refuse to overwrite what the client has not seen; without `If-Match` do nothing.

    Args:
        schema: the schema with which the row's endpoints answer.
        row: the row, locked until the commit, so that the second of two writers with the same ETag sees the first.

    Raises:
        StaleError: the row's current ETag is not in the header.
    """
    if "If-Match" in request.headers and not request.if_match.contains(_tag(jsonify(_dumper(schema).dump(row)))):
        raise StaleError("This has changed since you read it: read it again and send the new ETag.")


@cache
def _dumper(schema: type[ma.Schema]) -> ma.Schema:
    # Instantiating a schema copies all of its fields, which takes longer than dumping a row.
    return schema()


def _tag(response: Response) -> str:
    # A hash of the representation needs no column, and no writer can forget to update it.
    return hashlib.sha256(response.get_data()).hexdigest()[:32]
