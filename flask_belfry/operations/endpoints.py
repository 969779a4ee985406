"""How the modules of the API declare their endpoints, which `api.add_endpoints` adds to the application's blueprint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import marshmallow as ma

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Endpoint:
    """An endpoint: its action is what the host must allow to the requester, before the request is read."""

    method: str
    path: str
    action: str
    view: Callable[..., Any]
    response: type[ma.Schema] | None
    query: type[ma.Schema] | None
    body: type[ma.Schema] | None
    errors: Mapping[int, str]


class Endpoints(list[Endpoint]):
    """The endpoints of one module."""

    def declare(
        self,
        method: str,
        path: str,
        action: str,
        response: type[ma.Schema] | None,
        *,
        query: type[ma.Schema] | None = None,
        body: type[ma.Schema] | None = None,
        errors: Mapping[int, str] | None = None,
    ) -> Callable[[View], View]:
        """Return a decorator for the function of an endpoint. The arguments are those of `Endpoint`."""

        def declare(view: View) -> View:
            self.append(Endpoint(method, path, action, view, response, query, body, errors or {}))
            return view

        return declare
