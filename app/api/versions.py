"""ETags: what a client last saw of a row, so that two editors do not overwrite each other (RFC 9110, section 13)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import marshmallow as ma
from flask import Response, jsonify, request

from app.api.errors import StaleError

View = Callable[..., Any]
# Those whose answer is a representation of the row.
OK_STATUSES = (200, 201)


def versioned(view: View) -> View:
    """For endpoints of one row: their answers carry its ETag, and a GET with `If-None-Match` is a 304 if it stayed.

    Goes right below the blueprint's `route`. An endpoint that writes calls `check_stale` for `If-Match`.
    """

    @wraps(view)
    def answer(*args: Any, **kwargs: Any) -> Any:
        response: Response = view(*args, **kwargs)
        if response.status_code in OK_STATUSES:
            response.set_etag(_tag(response))
        return response.make_conditional(request.environ) if request.method == "GET" else response

    answer.__dict__["is_versioned"] = True
    return answer


def check_stale(schema: type[ma.Schema], load: Callable[[], object]) -> None:
    """Keeps a client with `If-Match` from writing over what it has not seen; without that header does nothing.

    Args:
        schema: what the row's endpoints answer with.
        load: reads the row and holds it until the commit, so that of two writers with the same ETag one comes second.

    Raises:
        StaleError: the row's present ETag is not among those of the header.
    """
    if "If-Match" in request.headers and not request.if_match.contains(_tag(jsonify(_dumper(schema).dump(load())))):
        raise StaleError("It has changed since you read it: read it again, and send the new ETag.")


@cache
def _dumper(schema: type[ma.Schema]) -> ma.Schema:
    # Instantiating a schema copies all of its fields, which takes longer than dumping a row.
    return schema()


def _tag(response: Response) -> str:
    # Of the representation itself: no column has to be kept, and no writer can forget it.
    return hashlib.sha256(response.get_data()).hexdigest()[:32]
