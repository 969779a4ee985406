"""Reading what a request brings. What is wrong with it is said in the API's shape; nothing unknown is passed over."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import marshmallow as ma
from flask import Request
from webargs import core
from webargs.flaskparser import FlaskParser, abort

from flask_belfry.core.text import is_encodable

# Keys of objects and entries of lists, all together: schemas take as long, and say as much, for each of them.
MAX_VALUES = 2_000


class ApiParser(FlaskParser):
    """Refuses what it does not know: unknown query parameters, and bodies that are not JSON."""

    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "query": ma.RAISE,
    }

    def _raw_load_json(self, req: Request) -> Any:
        """The JSON body; webargs takes a body of another type for an absent one."""
        if not core.is_json(req.mimetype):
            if req.get_data(cache=True):
                abort(415, message="The body must be JSON, with Content-Type: application/json.")
            return core.missing
        try:
            body = core.parse_json(req.get_data(cache=True))
            is_text_whole = is_encodable(body)
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise  # webargs answers these
        # Nested 100,000 deep, or a number of 5,000 digits: Python gives up with errors of its own.
        except (RecursionError, ValueError):
            abort(400, message="The JSON is nested too deep, or a number in it has too many digits.")
        if _number_of_values(body) > MAX_VALUES:
            abort(400, message=f"The JSON has more than {MAX_VALUES:,} values.")
        if not is_text_whole:
            abort(400, message="The JSON has half a pair of surrogates in a text, which is no character.")
        return body

    def _handle_invalid_json_error(self, *args: object, **kwargs: object) -> NoReturn:
        abort(400, message="The body is not valid JSON.")
        raise AssertionError("abort always raises")


def _number_of_values(body: object) -> int:
    number, unseen = 0, [body]
    while unseen:
        value = unseen.pop()
        if isinstance(value, dict | list):
            number += len(value)
            unseen += value.values() if isinstance(value, dict) else value
    return number
