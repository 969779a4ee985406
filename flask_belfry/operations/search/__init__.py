"""The search of jobs: `parse` turns a text into a query, `parse_with` a text and the parameters of a request."""

from flask_belfry.operations.search.jobs import JOBS, parse
from flask_belfry.search import Query

__all__ = ["JOBS", "Query", "parse"]
