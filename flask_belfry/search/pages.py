"""Pages of a list with a search and a tab for each state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import render_template, request
from flask.typing import ResponseReturnValue

from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.search.completion import complete
from flask_belfry.search.language import Language, Query
from flask_belfry.search.running import SearchPage
from flask_belfry.search.terms import PARAMETER


def list_context(
    language: Language,
    read: Callable[[], Query],
    find: Callable[..., SearchPage[Any]],
    states: Sequence[str],
    counts: Callable[[], Mapping[str, int]],
) -> tuple[Query, SearchPage[Any], dict[str, Any]]:
    """Return the search of the request, the page of rows, and what the search field and the tabs show.

    An invalid search finds nothing, and the context has its `problem`.

    Args:
        language: of the list.
        read: returns the search; raises InvalidInputError.
        find: returns the page for a query and a `cursor`.
        states: of the tabs, in their order.
        counts: returns the number of rows in each state. The tabs show it without a search only, as it counts all rows.
    """
    text = request.args.get(PARAMETER, "")
    try:
        query, problem = read(), None
        page = find(query, cursor=request.args.get("cursor"))
    except InvalidInputError as error:
        if PARAMETER not in error.fields:
            raise
        query, problem, page = language.parse("", now=utc_now()), error.message, SearchPage([], None)
    is_typed = bool(problem) or not any(request.args.get(name) for name in language.aliases)
    chosen = query.values_of("state")
    return (
        query,
        page,
        {
            "next_cursor": page.next_cursor,
            "searched_to": page.searched_to,
            "counts": {} if problem or query.without("state") else counts(),
            # As it was typed: the field must not change under the user's hands.
            "query": text if is_typed else str(query),
            "completions": complete(language, text),
            "search_keys": language.hints(),
            "problem": problem,
            "state": chosen[0] if len(chosen) == 1 else None,
            "is_any_state": "state" not in query.values,
            "tabs": [(state, str(query.having("state", state))) for state in states],
            "without_state": str(query.having("state")),
        },
    )


def list_response(template: str, context: Mapping[str, Any]) -> ResponseReturnValue:
    """Return the page of a list; with status 422 for an invalid search, unless it is requested by htmx, which shows no
    response with an error."""
    is_refused = context["problem"] and "HX-Request" not in request.headers
    return render_template(template, **context), 422 if is_refused else 200
