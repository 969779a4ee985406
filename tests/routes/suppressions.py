"""The routes of mails over the API, and of suppressed emails and held domains; what another school has of them."""

from __future__ import annotations

from app.accounts import User
from flask_belfry.db import db
from flask_belfry.mail import SuppressionSource, suppress
from flask_belfry.mail.models import EmailSuppression
from tests.tenancy import ADMIN, OPERATOR, STAFF, Route, many, one

PAGE, API = "/mails/suppressions", "/api/v1/mails/suppressions"
NEW = {"email": "eve@example.org"}

ROUTES: dict[tuple[str, str], Route] = {
    ("suppressions.list_", "GET"): many(STAFF, PAGE, f"{PAGE}?text={{address}}"),
    ("suppressions.add", "POST"): Route(ADMIN, (PAGE,), NEW),
    ("suppressions.lift", "POST"): Route(ADMIN, (f"{PAGE}/{{suppression}}/lift",)),
    ("suppressions.lift_hold", "POST"): Route(ADMIN, (f"{PAGE}/holds/lift",), {"domain": "example.org"}),
    ("api_mails.list_mails", "GET"): many(
        STAFF, "/api/v1/mails?limit=100", "/api/v1/mails?to={address}", "/api/v1/mails?q=id:{mail}"
    ),
    ("api_mails.get_mail", "GET"): one(STAFF, "/api/v1/mails/{mail}"),
    ("api_mails.resend", "POST"): one(OPERATOR, "/api/v1/mails/{mail}/resend"),
    ("api_mails.resend_matching", "POST"): Route(
        OPERATOR, ("/api/v1/mails/resend",), {"q": "to:{address} state:failed,skipped"}, 200
    ),
    ("api_mails.confirm_sent", "POST"): one(OPERATOR, "/api/v1/mails/{mail}/confirm-sent"),
    ("api_mails.list_suppressions", "GET"): many(STAFF, f"{API}?limit=100", f"{API}?text={{address}}"),
    ("api_mails.add_suppression", "POST"): Route(ADMIN, (API,), NEW),
    ("api_mails.lift_suppression", "DELETE"): Route(ADMIN, (f"{API}/{{suppression}}",)),
}

UNSCOPED = (r"WITH RECURSIVE different\(value\) AS \(SELECT min\(email_messages\.kind\) ",)


def make_rows(user: User) -> dict[str, str]:
    """The suppressed email address of a user."""
    suppress(user.email, "5.1.1", SuppressionSource.BOUNCE, reason="Zarathustra is unknown")
    db.session.commit()
    row = db.session.query(EmailSuppression).filter_by(email=user.email).one()
    return {"suppression": row.id}
