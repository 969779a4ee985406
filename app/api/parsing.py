"""Parsing of API requests. Unknown parameters and fields are rejected, and errors have the form of the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import marshmallow as ma
from flask import Request, current_app
from webargs import core
from webargs.flaskparser import FlaskParser, abort

from flask_belfry.core.text import is_encodable

# Keys of objects and entries of lists in total: schemas spend time and produce errors for each of them.
MAX_VALUES = 2_000

View = TypeVar("View", bound=Callable[..., Any])


def accept_values(number: int) -> Callable[[View], View]:
    """Mark an endpoint that accepts JSON with more values than MAX_VALUES. Goes directly above the function."""

    def mark(view: View) -> View:
        view.__dict__["max_values"] = number
        return view

    return mark


class ApiParser(FlaskParser):
    """Rejects unknown query parameters, and bodies that are not JSON."""

    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "query": ma.RAISE,
    }

    def _raw_load_json(self, req: Request) -> Any:
        """Return the JSON body. webargs would ignore a body of another type."""
        if not core.is_json(req.mimetype):
            if req.get_data(cache=True):
                abort(415, message="The body must be JSON, with Content-Type: application/json.")
            return core.missing
        try:
            body = core.parse_json(req.get_data(cache=True))
            is_valid_text = is_encodable(body)
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise  # webargs handles these
        # Python raises these for 100,000 nested levels, and for a number of 5,000 digits.
        except (RecursionError, ValueError):
            abort(400, message="The JSON is nested too deep, or a number in it has too many digits.")
        most = getattr(current_app.view_functions[req.endpoint or ""], "max_values", MAX_VALUES)
        if _number_of_values(body) > most:
            abort(400, message=f"The JSON has more than {most:,} values.")
        if not is_valid_text:
            abort(400, message="A text in the JSON contains an unpaired surrogate.")
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
