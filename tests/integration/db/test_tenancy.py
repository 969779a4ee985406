"""The scope is part of every statement: nothing of another school is read, changed or written in it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import aliased, joinedload, selectinload

from app.accounts import Role, User
from app.reservations import Reservation, ReservationStatus, Resource
from flask_belfry.changes import Actor, StatusChange, use_actor
from flask_belfry.db import table_of
from flask_belfry.db.tenancy import ALL_TENANTS, NOTHING, Scope, TenancyError, use_scope
from flask_belfry.mail import EmailMessage
from flask_belfry.outbox import JobRecord, enqueue
from tests.reservation_factories import make_reservation, make_resource, make_school, make_user

# How SQLAlchemy puts the scope into a statement does not hang on the database.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def theirs(app):
    """A reservation of another school, its room and its customer."""
    school = make_school()
    room = make_resource(school_id=school.id)
    return make_reservation(make_user(school_id=school.id), resource=room)


@pytest.fixture
def ours(app):
    """One of ours."""
    return make_reservation(make_user(), resource=make_resource())


@pytest.fixture
def our_school(ours):
    return Scope(ours.school_id)


@pytest.fixture
def forgotten(session, ours, theirs):
    """Both, none of them loaded any more: the ids of ours and of theirs."""
    ids = ours.id, theirs.id
    session.expunge_all()
    return ids


Other = aliased(Reservation)
QUERIES = {
    "rows": lambda: sa.select(Reservation.id),
    "entities": lambda: sa.select(Reservation).with_only_columns(Reservation.id),
    "an alias": lambda: sa.select(Other.id),
    "the other table's column over a join": lambda: sa.select(Reservation.id).join(Reservation.customer),
    "joined from the other side": lambda: (
        sa.select(Reservation.id).select_from(User).join(Reservation, Reservation.customer_id == User.id)
    ),
    "a join without a relationship": lambda: sa.select(Reservation.id).join(
        Other, sa.and_(Other.id == Reservation.id, sa.true())
    ),
    "a cross join": lambda: sa.select(Reservation.id).where(Reservation.id == Other.id),
    "a subquery": lambda: sa.select(sa.select(Reservation.id).subquery().c.id),
    "a CTE": lambda: sa.select(sa.select(Reservation.id).cte().c.id),
    "a union": lambda: sa.union(sa.select(Reservation.id), sa.select(Other.id)),
    "in a subquery": lambda: sa.select(Reservation.id).where(Reservation.id.in_(sa.select(Other.id))),
    "an exists": lambda: sa.select(Reservation.id).where(sa.exists().where(Other.id == Reservation.id)),
    "by key": lambda: sa.select(Reservation.id).where(Reservation.id.in_(sa.bindparam("ids", expanding=True))),
}


@on_sqlite
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_finds_only_the_scopes_rows(session, forgotten, our_school, name):
    our_id, their_id = forgotten
    parameters = {"ids": [our_id, their_id]} if name == "by key" else {}
    for scope, found in ((our_school, {our_id}), (NOTHING, set()), (ALL_TENANTS, {our_id, their_id})):
        with use_scope(scope):
            assert set(session.execute(QUERIES[name](), parameters).scalars()) == found


@on_sqlite
@pytest.mark.parametrize(
    "query",
    [
        lambda: sa.select(sa.func.count()).select_from(Reservation),
        lambda: sa.select(sa.func.count(Reservation.id)),
        lambda: sa.select(sa.func.count()).where(Reservation.status == ReservationStatus.PENDING),
        lambda: sa.select(sa.func.count()).select_from(sa.select(Reservation.id).limit(5).subquery()),
        lambda: sa.select(sa.select(sa.func.count(Reservation.id)).scalar_subquery()),
        lambda: sa.select(sa.func.count(User.id)).where(User.id.in_(sa.select(Reservation.customer_id))),
    ],
    ids=["from", "column", "where", "subquery", "scalar", "in"],
)
def test_a_count_counts_only_the_scopes_rows(session, forgotten, our_school, query):
    counts = []
    for scope in (ALL_TENANTS, our_school, NOTHING):
        with use_scope(scope):
            counts.append(session.scalar(query()))
    assert counts == [2, 1, 0]


@on_sqlite
def test_get_finds_nothing_of_another_school_also_when_it_is_loaded(session, theirs, our_school):
    id = theirs.id
    with use_scope(our_school):
        assert session.get(Reservation, id) is None
        session.expire(theirs)
        assert session.get(Reservation, id) is None
        assert session.get(Reservation, id, populate_existing=True) is None
    with use_scope(NOTHING):
        assert session.get(Reservation, id) is None
    assert session.get(Reservation, id) is theirs


@on_sqlite
@pytest.mark.parametrize("is_loaded", [True, False])
@pytest.mark.parametrize("options", [(), (selectinload(Reservation.resource),), (joinedload(Reservation.resource),)])
def test_a_relationship_leads_to_no_other_school(session, ours, theirs, our_school, options, is_loaded):
    # Past all that refuses it: what a fault, or a hand, may have written.
    crossed = sa.update(table_of(Reservation)).where(table_of(Reservation).c.id == ours.id)
    session.connection().execute(crossed.values(resource_id=theirs.resource_id, status=ReservationStatus.CANCELLED))
    session.commit()
    keep = session.get(Resource, theirs.resource_id) if is_loaded else None
    session.expire(ours)
    with use_scope(our_school):
        found = session.scalar(sa.select(Reservation).options(*options).execution_options(populate_existing=True))
        assert found is ours
        assert found.resource is None
    assert keep is None or keep.name


@on_sqlite
def test_a_row_that_was_loaded_is_refreshed_in_any_scope(session, ours):
    session.expire(ours)
    with use_scope(NOTHING):
        assert ours.status == "pending"
        session.refresh(ours)


@pytest.mark.parametrize("fetch", [False, "fetch", "auto"])
def test_bulk_updates_change_and_record_only_the_scopes_rows(session, ours, theirs, our_school, fetch):
    changed = sa.update(Reservation).values(status=ReservationStatus.CONFIRMED)
    others = changed.where(Reservation.customer_id.in_(sa.select(User.id)))
    with use_scope(our_school):
        result = session.execute(others, execution_options={"synchronize_session": fetch})
        session.commit()
    assert result.rowcount == 1
    session.expire_all()
    told = sa.select(EmailMessage.recipient).where(EmailMessage.kind == "reservation-status")
    assert (ours.status, theirs.status) == ("confirmed", "pending")
    assert session.scalars(sa.select(StatusChange.subject_id)).all() == [str(ours.id)]
    assert session.scalars(told).all() == [ours.customer.email]


def test_a_bulk_update_that_no_hook_hears_is_recorded_for_the_scopes_rows_only(session, ours, theirs, our_school):
    session.execute(sa.update(Reservation).values(status=ReservationStatus.CONFIRMED))
    session.commit()
    with use_scope(our_school):
        session.execute(
            sa.update(Reservation)
            .where(Reservation.customer_id.in_(sa.select(User.id)))
            .values(status=ReservationStatus.COMPLETED)
        )
        session.commit()
    done = sa.select(StatusChange.subject_id).where(StatusChange.new == "completed")
    assert session.scalars(done).all() == [str(ours.id)]


def test_bulk_deletes_delete_only_the_scopes_rows(session, forgotten, our_school):
    with use_scope(our_school):
        assert session.execute(sa.delete(Reservation)).rowcount == 1
        session.commit()
    assert session.scalars(sa.select(Reservation.id)).all() == [forgotten[1]]


@on_sqlite
@pytest.mark.parametrize("scope", ["ours", "nothing"])
def test_a_row_of_another_school_is_not_written(session, theirs, our_school, scope):
    resources = set(session.scalars(sa.select(Resource.id)))
    with use_scope(our_school if scope == "ours" else NOTHING):
        session.add(Resource(name="Annex", capacity=1, school_id=theirs.school_id))
        with pytest.raises(TenancyError):
            session.flush()
        session.rollback()
        for rows in ([{"name": "Annex", "capacity": 1, "school_id": theirs.school_id}], [{"name": "A", "capacity": 1}]):
            with pytest.raises(TenancyError):
                session.execute(sa.insert(Resource), rows)
        with pytest.raises(TenancyError):
            session.execute(sa.insert(Resource).values(name="Annex", capacity=1, school_id=theirs.school_id))
        with pytest.raises(TenancyError):
            session.execute(sa.update(Resource), [{"id": theirs.resource_id, "name": "Ours now"}])
    assert set(session.scalars(sa.select(Resource.id))) == resources


@on_sqlite
def test_a_row_is_not_handed_to_another_school(session, ours, theirs, our_school):
    with use_scope(our_school):
        ours.resource.school_id = theirs.school_id
        with pytest.raises(TenancyError):
            session.commit()
    session.rollback()


@on_sqlite
def test_a_row_without_a_school_becomes_the_scopes(session, theirs):
    with use_scope(Scope(theirs.school_id)):
        session.add(Resource(name="Annex", capacity=1))
        session.commit()
        session.execute(sa.insert(Resource), [{"name": "Barn", "capacity": 1, "school_id": theirs.school_id}])
        session.commit()
    query = sa.select(Resource.school_id).where(Resource.name.in_(["Annex", "Barn"]))
    assert set(session.scalars(query)) == {theirs.school_id}


def test_what_one_statement_changes_in_many_schools_is_recorded_in_each(session, ours, theirs):
    with use_actor(Actor(user_id=ours.customer_id, school_id=ours.school_id)):
        session.execute(sa.update(Reservation).values(status=ReservationStatus.CONFIRMED))
        session.execute(sa.update(Reservation).values(status=ReservationStatus.COMPLETED))
        session.commit()
        theirs.note = "one by one too"
        session.commit()
    schools = {str(ours.id): ours.school_id, str(theirs.id): theirs.school_id}
    for model, count in ((StatusChange, 5), (EmailMessage, 2 * 2), (JobRecord, 2 * 2)):
        rows = session.execute(sa.select(model.subject_id, model.school_id)).all()
        assert len(rows) == count
        assert {(row.subject_id, row.school_id) for row in rows} == set(schools.items())


@on_sqlite
def test_what_is_asked_for_belongs_to_who_asks(session, ours):
    with use_actor(Actor(school_id=ours.school_id)):
        asked = enqueue("test.greet", ticket_id=1)
    system = enqueue("test.greet", ticket_id=2)
    session.commit()
    assert session.get(JobRecord, asked).school_id == ours.school_id
    assert session.get(JobRecord, system).school_id is None


def test_a_resource_has_its_name_once_in_a_school(session, ours, theirs):
    make_resource(name="Hall")
    make_resource(name="Hall", school_id=theirs.school_id)
    with pytest.raises(sa.exc.IntegrityError):
        make_resource(name="Hall")
    session.rollback()


@on_sqlite
def test_users_of_different_schools_do_not_share_a_login(theirs):
    user = make_user(Role.STAFF)
    with pytest.raises(sa.exc.IntegrityError):
        make_user(email=user.email, username="other", school_id=theirs.school_id)
