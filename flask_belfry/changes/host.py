"""The interface between the job system and its application, which subclasses `Host` and sets it with `set_host`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import structlog
from flask import Flask, current_app
from flask.typing import ResponseReturnValue

from flask_belfry.changes import Subject
from flask_belfry.core.errors import ForbiddenError

log = structlog.get_logger(__name__)

P = ParamSpec("P")


class CheckError(Exception):
    """A part of the application does not work. The message names the cause and the remedy.

    Args:
        cause: what is wrong, and the remedy unless `remedy` names it.
        remedy: how to fix it.
        url: the path of the page that shows it.
        since: when it began.
        is_warning: whether the part still works.
    """

    def __init__(
        self, cause: str, remedy: str = "", *, url: str = "", since: datetime | None = None, is_warning: bool = False
    ) -> None:
        super().__init__(cause)
        self.cause, self.remedy, self.url, self.since, self.is_warning = cause, remedy, url, since, is_warning


@dataclass(frozen=True)
class Figure:
    """A figure of the application with its target, as the overview of operations shows it.

    Args:
        name: what is measured: `Delivery rate`.
        value: formatted: `98.2 %`; None while there is nothing to measure.
        target: in words: `over 95 %`.
        is_met: whether the value meets the target; None while there is none.
        hint: what exactly is measured.
    """

    name: str
    value: str | None
    target: str
    is_met: bool | None
    hint: str


class Host:
    """What the application decides. The defaults deny all pages, know no user and write actions to the log."""

    def authorize(self, action: str) -> ResponseReturnValue | None:
        """Check that the requester may do `action`, such as `jobs.view` or `jobs.change`.

        Returns:
            None when the requester may; a redirect to the login page when the requester is not logged in.

        Raises:
            ForbiddenError: the requester may not.
        """
        raise ForbiddenError("The application has no rule for this page.")

    def allows(self, action: str) -> bool:
        """Return whether the requester may do `action`, which decides whether pages show it."""
        return False

    def user_may(self, user_id: int, action: str) -> bool:
        """Return whether a user, who is not the requester, may do `action`; not when there is no such user."""
        return False

    def schools(self) -> Mapping[int, str]:
        """Return the names of the schools, by id, for which the requester may make schedules."""
        return {}

    def is_disabled(self, school_id: int) -> bool:
        """Return whether a school is disabled: its schedules enqueue nothing."""
        return False

    def user_name(self, user_id: int | None) -> str | None:
        """Return the name of a user; None when there is no such user."""
        return None

    def record_action(
        self, action: str, schools: Mapping[Subject, int | None], details: Mapping[str, Any] | None = None
    ) -> None:
        """Record that the current actor did `action` to these subjects, in the current transaction.

        Args:
            action: `<subject>.<verb>`, such as `job.retry`.
            schools: the subjects, each with the school that it belongs to.
            details: small JSON values about the action.
        """
        log.info(action, subjects=len(schools))

    def operators(self, school_id: int | None) -> Sequence[str]:
        """Return the email addresses of the users who may change the jobs of a school; None: of those who see all."""
        return ()

    def app_name(self) -> str:
        """Return the name of the application, which mails show."""
        return current_app.name

    def checks(self) -> Mapping[str, Callable[[Flask], str]]:
        """Return what `flask doctor` checks of the application itself, by the name of the part.

        Each returns what to print if the part works, and raises CheckError otherwise.
        """
        return {}

    def figures(self, since: datetime) -> Sequence[Figure]:
        """Return the application's own figures since then, in the current scope."""
        return ()

    def mail_stylesheet(self) -> Path | None:
        """Return the style sheet whose colours the layout of mails uses; None when it uses only its own."""
        return None


def set_host(app: Flask, host: Host) -> None:
    """Set the host of `app`. Templates call `allows(action)` of the host."""
    app.extensions["belfry_host"] = host
    app.jinja_env.globals["allows"] = host.allows


def current_host() -> Host:
    """Return the host of the current application."""
    return current_app.extensions["belfry_host"]


def authorized(action: str) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Return a decorator for views that only requesters may see to whom the host allows `action`."""

    def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            refusal = current_host().authorize(action)
            return view(*args, **kwargs) if refusal is None else refusal

        return guarded

    return decorate
