"""The search of jobs: `parse` makes a query of a text, or of the parameters of a request."""

from flask_belfry.operations.search.jobs import JOBS, parse
from flask_belfry.search import Query

__all__ = ["JOBS", "Query", "parse"]
