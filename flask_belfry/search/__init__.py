"""The search language of lists: `state:failed name:reservations.* since:2h "text"`.

A package with a list declares a `Language`: its terms and the indexes of its table. `parse` turns a text into a
`Query`, and `find`, `count` and `next_ids` run it at a bounded cost, however many rows the table has.
"""

from flask_belfry.search.completion import MAX_COMPLETIONS, complete
from flask_belfry.search.language import Field, Index, Language, Query
from flask_belfry.search.pages import list_context, list_response
from flask_belfry.search.running import WINDOW, SearchPage, conditions, count, find, next_ids, recorded_values
from flask_belfry.search.terms import PARAMETER, Term, written

__all__ = [
    "MAX_COMPLETIONS",
    "PARAMETER",
    "WINDOW",
    "Field",
    "Index",
    "Language",
    "Query",
    "SearchPage",
    "Term",
    "complete",
    "conditions",
    "count",
    "find",
    "list_context",
    "list_response",
    "next_ids",
    "recorded_values",
    "written",
]
