"""All that a database holds."""

from __future__ import annotations

import sqlalchemy as sa

from flask_belfry.db import db


def everything_kept() -> str:
    """All rows of all tables, as text; models of other tests have none here."""
    db.session.rollback()
    present = sa.inspect(db.engine).get_table_names()
    tables = [table for table in db.metadata.sorted_tables if table.name in present]
    return "\n".join(str(tuple(row)) for table in tables for row in db.session.execute(table.select()))
