"""No page of the admin panel shows a secret."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa

from app.accounts import User, issue_personal_token
from app.admin.secrets import SECRET_COLUMNS
from app.admin.view import PanelView
from app.reservations import ReservationStatus
from app.work_items import WorkItemComment, WorkStatus
from flask_belfry.db import db
from tests.admin_panel import pages, views
from tests.reservation_factories import make_reservation, make_resource, make_user
from tests.work_item_factories import make_task

sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SMELL = re.compile(r"hash|secret|token|nonce|uniquifier|password|key|recovery|counter")
# Columns that smell and may be seen.
EXCUSED = {
    ("users", "username_key"): "the username in small letters",
    ("job_records", "unique_key"): "what makes a job the only one of its kind: names and ids",
    ("job_records", "limit_key"): "what jobs share a limit: names and ids",
    ("job_limits", "key"): "the same",
    ("unique_periods", "key"): "what makes a job the only one of its kind: names and ids",
    ("email_messages", "unique_key"): "what makes a mail the only one of its kind: names and ids",
}
INLINE = re.compile(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", re.IGNORECASE)


@sqlite
def test_every_column_that_smells_of_a_secret_is_hidden_or_excused(app):
    shown = {(view.mapper.local_table.name, name) for view in views(app) for name in view.shown}
    assert len(shown) > 150
    assert {column for column in shown if SMELL.search(column[1])} == EXCUSED.keys()
    for model, names in SECRET_COLUMNS.items():
        assert names <= set(sa.inspect(model).columns.keys()), "a secret's name is wrong"


@sqlite
def test_a_view_that_names_a_secret_is_refused(app):
    for named in ("columns", "searches", "filters", "sorts", "creates", "changes"):
        with pytest.raises(ValueError, match="password_hash is never shown"):
            PanelView(User, "People", "Users", **{named: ["password_hash"]})


def fill() -> dict[str, Any]:
    """A row of many kinds, and the values that are never shown."""
    user = make_user(tf_totp_secret="zz-totp", mf_recovery_codes=["zz-recovery"], fs_uniquifier="zz-uniquifier")
    _, token = issue_personal_token(user, "script", ["read"])
    make_reservation(user, resource=make_resource()).status = ReservationStatus.CONFIRMED
    task = make_task(responsible=user)
    db.session.add(WorkItemComment(item=task, author=user, text="Done.", school_id=task.school_id))
    task.status = WorkStatus.DONE
    db.session.commit()
    secrets = [user.password_hash, user.fs_uniquifier, "zz-totp", "zz-recovery", token.hash]
    return {"secrets": secrets, "user": user.id}


def test_every_page_shows_no_secret_and_runs_no_script_of_its_own(app, session, panel):
    secrets = fill()["secrets"]
    seen = {}
    for url, answer in pages(app, panel):
        assert answer.status_code == 200, (url, answer.text)
        assert not INLINE.search(answer.text), (url, INLINE.search(answer.text))
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert [secret for secret in secrets if secret in answer.text] == [], url
        seen[url] = answer.text
    assert len(seen) > 50
    assert not [url for url, text in seen.items() if "static/admin" in text or "bootstrap" in text]


@sqlite
def test_secrets_cannot_be_searched_for(session, panel):
    user = make_user(fs_uniquifier="zz-uniquifier")
    for query in ("text=zz-uniquifier", "fs_uniquifier=other", "order=fs_uniquifier"):
        text = panel.get(f"/admin/users/?{query}").text
        assert (user.username in text) is (not query.startswith("text="))
