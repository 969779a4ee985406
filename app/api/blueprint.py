"""The blueprint of a slice's endpoints: scopes, idempotency and documentation."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from flask import current_app, g, request
from flask_smorest import Blueprint

from app.api.document import Endpoint, describe, title_of
from app.api.errors import ScopeError
from app.api.idempotency import idempotent
from app.api.parsing import ApiParser
from app.api.paths import API_PREFIX
from app.api.scopes import AREAS, is_in_scope, verb_of
from flask_belfry.core.access import is_public


class ApiBlueprint(Blueprint):
    """The endpoints of a slice. They authenticate by bearer token, not by cookie, so they need no CSRF token.

    Args:
        name: the name of the slice.
        import_name: the module's `__name__`.
        description: one line for the documentation.
        area: one of `scopes.AREAS` for personal tokens; None accepts access tokens of logins only.
        url_prefix: below /api/v1.
    """

    ARGUMENTS_PARSER = ApiParser()

    def __init__(
        self, name: str, import_name: str, *, description: str, area: str | None = None, url_prefix: str = ""
    ) -> None:
        if area not in (None, *AREAS):
            line = f'"{area}": ("See …", "See and change …"),'
            raise ValueError(f"The area {area!r} has no scopes: add {line} to AREAS in app/api/scopes.py")
        super().__init__(f"api_{name}", import_name, url_prefix=f"{API_PREFIX}{url_prefix}", description=description)
        self.area = area
        self._prepare_doc_cbks.append(describe)
        self.before_request(self._guard)

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: Any = None,
        provide_automatic_options: bool | None = None,
        **options: Any,
    ) -> None:
        """Add what all endpoints have. Called by `route`."""
        view = idempotent(view_func) if "POST" in options.get("methods", ()) else view_func
        endpoint_info = Endpoint(
            has_id="<" in rule,
            is_public=is_public(view),
            is_versioned=hasattr(view, "is_versioned"),
            area=self.area,
        )
        view.__dict__["_apidoc"] = {**view.__dict__.get("_apidoc", {}), "endpoint": endpoint_info}
        super().add_url_rule(rule, endpoint, view, provide_automatic_options, **{**options, "tags": [title_of(self)]})

    def arguments(self, schema: type[ma.Schema], **options: Any) -> Any:
        """Declare the schema of the arguments. webargs would instantiate the class for each request."""
        return super().arguments(schema(), **options)

    def _guard(self) -> None:
        # That the request has a login is checked earlier, as for pages.
        if not is_public(current_app.view_functions[request.endpoint or ""]):
            _require_scope(self.area)


def _require_scope(area: str | None) -> None:
    # Set with the user. None: an access token of a login.
    scopes = g.token_scopes
    if scopes is None or is_in_scope(scopes, area, request.method):
        return
    if area is None:
        raise ScopeError("Personal tokens are not accepted here: log in.")
    needed = f"{area}:{verb_of(request.method)}"
    raise ScopeError(f"This token lacks the scope {needed}.", needed)
