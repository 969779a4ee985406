"""Conditions on many ids, and texts by ids, have one parameter, so one statement serves any number of them."""

from __future__ import annotations

import sqlalchemy as sa

from flask_belfry.db import table_of
from flask_belfry.db.columns import storable
from flask_belfry.db.lists import among, among_numbered, text_by_id
from flask_belfry.outbox import JobRecord, enqueue

_jobs = table_of(JobRecord)
_LISTED = sa.select(_jobs.c.id).where(among(_jobs.c.id, "ids"))
_TEXTS = sa.select(_jobs.c.id, text_by_id(_jobs.c.id, "texts")).where(among(_jobs.c.id, "ids"))
_NUMBERED = sa.select(_jobs.c.id).where(among_numbered(_jobs.c.id, _jobs.c.claims, "pairs"))


def test_a_parameter_holds_any_number_of_ids(session):
    ids = sorted(enqueue("test.nap", seconds=0) for _ in range(3))
    found = [sorted(session.scalars(_LISTED, {"ids": wanted})) for wanted in ([], ids[:1], ids)]
    assert found == [[], ids[:1], ids]


def test_an_id_is_found_with_its_number_only(session):
    first, second = (enqueue("test.nap", seconds=0) for _ in range(2))
    session.execute(sa.update(JobRecord).where(JobRecord.id == second).values(claims=12))
    assert session.scalars(_NUMBERED, {"pairs": []}).all() == []
    assert session.scalars(_NUMBERED, {"pairs": [(first, 0), (second, 11)]}).all() == [first]
    assert sorted(session.scalars(_NUMBERED, {"pairs": [(first, 0), (second, 12)]})) == sorted([first, second])


def test_a_row_gets_the_text_of_its_id(session):
    first, second, third = (enqueue("test.nap", seconds=0) for _ in range(3))
    texts = {first: 'it\'s "quoted"', second: "a\x00b \ud800 ü"}
    found = session.execute(_TEXTS, {"ids": [first, second, third], "texts": texts})
    assert dict(found.all()) == {first: texts[first], second: storable(texts[second]), third: None}


def test_nothing_of_an_id_is_sql(session):
    enqueue("test.nap", seconds=0)
    values = ["') OR 1=1 --", '"]', "'"]
    if session.get_bind().dialect.name == "sqlite":  # PostgreSQL refuses what is not a UUID
        assert session.scalars(_LISTED, {"ids": values}).all() == []
