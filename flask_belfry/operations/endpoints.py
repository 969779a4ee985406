"""Endpoints of the API, declared without an application.

The application makes the blueprint, with its own authentication, errors and documentation, and has each module add its
endpoints to it. Each endpoint asks the host whether the requester may do its action, before it reads the request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import marshmallow as ma
from flask_smorest import Blueprint

from flask_belfry.changes.host import authorized

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Endpoint:
    method: str
    path: str
    action: str
    view: Callable[..., Any]
    response: type[ma.Schema] | None
    query: type[ma.Schema] | None
    body: type[ma.Schema] | None
    headers: type[ma.Schema] | None
    errors: Mapping[int, str]
    status: int
    accepted: str


class Endpoints:
    """The endpoints of one module."""

    def __init__(self) -> None:
        self._endpoints: list[_Endpoint] = []

    def declare(
        self,
        method: str,
        path: str,
        action: str,
        response: type[ma.Schema] | None,
        *,
        query: type[ma.Schema] | None = None,
        body: type[ma.Schema] | None = None,
        headers: type[ma.Schema] | None = None,
        errors: Mapping[int, str] | None = None,
        status: int | None = None,
        accepted: str = "",
    ) -> Callable[[View], View]:
        """Declare the decorated function as an endpoint, which the host authorizes by `action`.

        Args:
            method: the method.
            path: the path within the API.
            action: what the host authorizes.
            response: the schema of what the function returns; None: it returns nothing.
            query: the schema of the parameters.
            body: the schema of the body.
            headers: the schema of the headers.
            errors: the errors of this endpoint, by status.
            status: of the response; None: 200, or 204 without a response.
            accepted: when the function returns its response with 202 instead.
        """

        def declare(view: View) -> View:
            usual = status or (200 if response else 204)
            made = _Endpoint(method, path, action, view, response, query, body, headers, errors or {}, usual, accepted)
            self._endpoints.append(made)
            return view

        return declare

    def add_to(self, blueprint: Blueprint) -> None:
        """Add the endpoints to a blueprint of the application."""
        for each in self._endpoints:
            view = blueprint.response(each.status, each.response)(each.view)
            if each.accepted:
                view = blueprint.alt_response(202, schema=each.response, description=each.accepted)(view)
            for schema, location in ((each.headers, "headers"), (each.query, "query"), (each.body, "json")):
                if schema is not None:
                    view = blueprint.arguments(schema, location=location)(view)
            for status, description in each.errors.items():
                view = blueprint.alt_response(status, description=description)(view)
            blueprint.route(each.path, methods=[each.method])(authorized(each.action)(view))
