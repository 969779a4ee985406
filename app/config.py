"""Every setting in one place: its environment name, what it takes, its default and why it exists.

Reading checks them once, at the start; code that uses one reads `app.config[NAME]`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from app import defaults
from flask_belfry.core.settings import Derived, Group, Setting, SettingError, group
from flask_belfry.core.settings.casts import (
    boolean,
    broker_url,
    choice,
    database_url,
    delays_in_seconds,
    domain_name,
    email_address,
    existing_file,
    host,
    long_text,
    mailbox,
    seconds,
    text,
    web_url,
    whole_number,
    whole_seconds,
    zone_name,
)
from flask_belfry.core.settings.database_urls import sqlalchemy_url

GROUPS: tuple[Group, ...] = (
    group(
        "Application",
        Setting(
            "APP_ENV",
            choice("development", "production", "testing"),
            "development",
            "Production refuses to start on defaults that are only good enough for one machine.",
        ),
        Setting(
            "SECRET_KEY",
            long_text(defaults.SECRET_KEY_CHARACTERS),
            Derived(defaults.secret_key, "made once in `instance/secret-key`; must be set in production"),
            "Signs sessions and tokens: whoever knows it can log in as anybody.",
            secret=True,
        ),
        Setting(
            "TIMEZONE",
            zone_name,
            "UTC",
            "The zone of cron lines, and of the times shown to people who chose none.",
        ),
        Setting(
            "ADMIN_EMAIL",
            email_address,
            Derived(defaults.admin_email, "`admin@belfry.example`; nobody in production"),
            "Who is told of what needs a person, such as a new reservation.",
        ),
        Setting(
            "LOG_LEVEL",
            choice("DEBUG", "INFO", "WARNING", "ERROR", either_case=True),
            "INFO",
            "The least severe line that is written.",
        ),
        Setting(
            "LOG_FORMAT",
            choice("console", "json"),
            Derived(defaults.log_format, "`console`; `json` in production"),
            "Lines for a person at a terminal, or one JSON object per line for a log collector.",
        ),
    ),
    group(
        "Web",
        Setting("PORT", whole_number(1, 65535), 5000, "The port on which the web process listens."),
        Setting(
            "PUBLIC_URL",
            web_url,
            Derived(defaults.public_url, "`http://127.0.0.1:PORT`; must be set in production"),
            "The address people use: links in mails start with it, and https makes the cookies secure.",
        ),
        Setting(
            "WEB_CONCURRENCY",
            whole_number(1),
            1,
            "Web processes, read by gunicorn itself; one per core is a good start.",
        ),
        Setting(
            "WEB_THREADS",
            whole_number(1),
            8,
            "Threads per web process, read by the Procfile: the requests that it runs at the same time.",
        ),
        Setting(
            "TRUSTED_PROXIES",
            whole_number(0),
            0,
            "Proxies in front, each adding to X-Forwarded-For: with a number too high, clients forge their address.",
        ),
        Setting(
            "MAX_REQUEST_BYTES",
            whole_number(1),
            16 * 1024 * 1024,
            "The most that an endpoint may accept that is marked for large bodies; others accept 64 KiB.",
        ),
    ),
    group(
        "Accounts",
        Setting(
            "REGISTRATION_MAIL_DELAY_SECONDS",
            seconds(least=0),
            2.0,
            "How long the confirmation mail of a registration waits before its first attempt.",
        ),
        Setting(
            "REGISTRATION_DIRECT_MAIL_SECONDS",
            seconds(),
            0.5,
            "How long a registration waits for its mail when the broker is away and the web process sends it itself.",
        ),
        Setting(
            "CONFIRMATION_CODE_MINUTES",
            whole_number(1),
            60,
            "How long the code and the link of a confirmation mail work, from when the mail leaves.",
        ),
        Setting(
            "PASSWORD_RESET_MINUTES",
            whole_number(1),
            30,
            "How long the link of a password reset works, from when the mail leaves.",
        ),
        Setting(
            "LOGIN_SESSION_DAYS",
            whole_number(1),
            30,
            "How long after a login a session of pages ends, also where the browser was told to stay logged in.",
        ),
        Setting(
            "LOGIN_ADDRESS_DAYS",
            whole_number(1),
            7,
            "How long the links of the mail about a login from a new address work, from when the mail leaves.",
        ),
        Setting(
            "RATE_LIMITS_ENABLED",
            boolean,
            True,
            "Whether logins, registrations, codes, writes and mails to a reader are limited; off for load tests only.",
        ),
        Setting(
            "ACCESS_TOKEN_SECONDS",
            whole_seconds,
            900,
            "How long the access token of a login opens the API; what was stolen is of use as long.",
        ),
        Setting(
            "REFRESH_TOKEN_DAYS",
            whole_number(1),
            30,
            "How long a client may be away and still renew its login without the password.",
        ),
    ),
    group(
        "Database",
        Setting(
            "DATABASE_URL",
            database_url,
            Derived(
                lambda _, instance_path: f"sqlite:///{instance_path / 'belfry.sqlite3'}",
                "SQLite in `instance/belfry.sqlite3`",
            ),
            "Where everything is kept: `postgresql://…` (or `postgres://…`) or `sqlite:///…`.",
            secret=True,
        ),
        Setting(
            "SQLITE_BUSY_TIMEOUT_SECONDS",
            seconds(),
            10.0,
            "How long one SQLite writer waits for another before it gives up.",
        ),
        Setting(
            "REQUEST_LOCK_TIMEOUT_SECONDS",
            seconds(),
            5.0,
            "How long a web request waits on PostgreSQL for rows that another transaction has locked: 503 after it.",
        ),
        Setting(
            "REQUEST_STATEMENT_TIMEOUT_SECONDS",
            seconds(),
            5.0,
            "How long one statement of a web request may take on PostgreSQL: 503 after it.",
        ),
    ),
    group(
        "Broker",
        Setting(
            "REDIS_URL",
            broker_url,
            Derived(
                defaults.embedded_broker_url,
                "the embedded Valkey in `instance/valkey`; must be set in production",
            ),
            "Redis or Valkey, which carries jobs to the workers; "
            "`redis+sentinel://host:port,host:port/service/0` finds a primary through Sentinel.",
            secret=True,
        ),
        Setting(
            "BROKER_CONNECT_TIMEOUT_SECONDS",
            seconds(),
            0.02,
            "How long a web request waits for a connection to the broker, which it can do without.",
        ),
        Setting("BROKER_TIMEOUT_SECONDS", seconds(), 0.025, "How long a web request waits for the broker's answer."),
        Setting(
            "BROKER_RETRY_SECONDS",
            seconds(),
            5.0,
            "How long the broker is left alone after it failed, so that not every request waits for it.",
        ),
    ),
    group(
        "Jobs",
        Setting(
            "JOBS_EAGER",
            boolean,
            False,
            "Runs jobs in the process that asked for them, after its commit: no broker, no worker.",
        ),
        Setting(
            "JOB_TIMEOUT_SECONDS",
            whole_seconds,
            1800,
            "A job without a limit of its own is stopped after this.",
        ),
        Setting(
            "RESULT_TTL_SECONDS",
            whole_seconds,
            3600,
            "How long Redis keeps a finished job; SQL keeps its history.",
        ),
        Setting(
            "JOBS_KEEP_DAYS",
            whole_number(1),
            14,
            "How long the record of a completed or cancelled job is kept.",
        ),
        Setting("AUDIT_KEEP_DAYS", whole_number(1), 365, "How long the audit log remembers who did what."),
        Setting("JOBS_KEEP_FAILED_DAYS", whole_number(1), 90, "How long the record of a failed job is kept."),
        Setting(
            "RELAY_SECONDS",
            seconds(),
            3.0,
            "How often jobs that never reached the broker are published again.",
        ),
        Setting(
            "RELAY_GRACE_SECONDS",
            seconds(),
            2.0,
            "How old a pending job must be for the relay to take it: the publisher has the first try.",
        ),
        Setting("HEARTBEAT_SECONDS", seconds(), 3.0, "How often a worker says that it is alive."),
        Setting(
            "RESCUE_AFTER_SECONDS",
            seconds(),
            10.0,
            "How long a worker may be silent before its jobs are given to another; several heartbeats.",
        ),
        Setting(
            "MAX_INTERRUPTIONS",
            whole_number(1),
            3,
            "A job whose worker died this many times in a row is failed, for it may be what kills them.",
        ),
        Setting(
            "SHUTDOWN_GRACE_SECONDS",
            whole_seconds,
            25,
            "How long a stopping process may finish its work; less than what the process manager allows.",
        ),
        Setting(
            "SCHEDULE_CATCH_UP_SECONDS",
            whole_seconds,
            3600,
            "A tick missed by less than this runs once, late; an older one is recorded as missed.",
        ),
    ),
    group(
        "Workers",
        Setting("WORKER_PROCESSES", whole_number(1), 1, "Processes that one `flask jobs worker` keeps running."),
        Setting("WORKER_THREADS", whole_number(1), 16, "Light jobs that one process runs at the same time."),
        Setting("WORKER_BATCH", whole_number(1), 200, "Jobs that a light worker holds at most, while they are short."),
        Setting(
            "WORKER_FROZEN_SECONDS",
            seconds(least=2),
            30.0,
            "How long a job may hold the interpreter of its worker before the worker is killed and replaced.",
        ),
    ),
    group(
        "Mail",
        Setting("MAIL_ENABLED", boolean, True, "When false, mails are recorded as suppressed and not sent."),
        Setting(
            "MAIL_SERVER",
            host,
            Derived(defaults.mail_server, "unset; must be set in production, or MAIL_ENABLED=false"),
            "The SMTP server; unset in development, mails are caught and read at `/dev/inbox`.",
        ),
        Setting(
            "MAIL_USE_TLS",
            boolean,
            False,
            "Turns to TLS after connecting (STARTTLS); the certificate is verified.",
        ),
        Setting("MAIL_USE_SSL", boolean, False, "Speaks TLS from the first byte; the certificate is verified."),
        Setting(
            "MAIL_PORT",
            whole_number(1, 65535),
            Derived(defaults.mail_port, "`25`; `587` with MAIL_USE_TLS; `465` with MAIL_USE_SSL"),
            "The SMTP server's port.",
        ),
        Setting(
            "MAIL_CA_FILE",
            existing_file,
            None,
            "A certificate authority to trust beside the system's: a private relay's.",
        ),
        Setting("MAIL_USERNAME", text(), None, "The account at the SMTP server, when it wants one."),
        Setting("MAIL_PASSWORD", text(), None, "The password of that account.", secret=True),
        Setting("MAIL_TIMEOUT_SECONDS", seconds(), 10.0, "A server that says nothing for this long has failed."),
        Setting(
            "MAIL_DEFAULT_SENDER",
            mailbox,
            Derived(
                lambda values, path: f"Belfry <no-reply@{defaults.mail_domain(values, path)}>",
                "`Belfry <no-reply@…>` at the host of PUBLIC_URL",
            ),
            "Who the mails are from.",
        ),
        Setting(
            "MAIL_MESSAGE_ID_DOMAIN",
            domain_name,
            Derived(defaults.mail_domain, "the host of PUBLIC_URL"),
            "The right side of each Message-ID; one that is not yours looks like spam.",
        ),
        Setting(
            "MAIL_EHLO_NAME",
            domain_name,
            Derived(
                lambda values, path: None,
                "the host's own full name; where it has none, the host of PUBLIC_URL or MAIL_MESSAGE_ID_DOMAIN",
            ),
            "How this host introduces itself to the SMTP server (EHLO); many servers refuse what is not a public name.",
        ),
        Setting(
            "MAIL_RETRY_DELAYS_SECONDS",
            delays_in_seconds,
            (60, 120, 240, 480, 900),
            "The waits between the attempts to send one mail; as many retries as there are waits.",
        ),
        Setting(
            "MAIL_UNCERTAIN",
            choice("resend", "hold"),
            "resend",
            "What happens to a mail that may or may not have left when a worker died: "
            "sent again with the same Message-ID, or held for a person.",
        ),
        Setting("MAILS_KEEP_DAYS", whole_number(1), 365, "How long the ledger remembers a mail."),
    ),
    group(
        "Reservations and work items",
        Setting(
            "RESERVATION_OVERDUE_MINUTES",
            whole_number(0),
            35,
            "A confirmed reservation is completed this long after its start.",
        ),
        Setting(
            "WORK_ITEM_GATHER_SECONDS",
            seconds(least=0),
            30.0,
            "After a mail about the status of a work item, further changes wait this long and go into one mail.",
        ),
        Setting("OVERDUE_SWEEP_SECONDS", whole_seconds, 300, "How often overdue reservations are looked for."),
    ),
)

# A heartbeat may be late, or lost once, without its worker being dead.
HEARTBEATS_PER_RESCUE = 2
# What Docker and Kubernetes set for a service of that name.
OF_CONTAINERS = re.compile(r"_SERVICE_(HOST|PORT)|_PORT($|_)|_NAME$|_ENV_")

SETTINGS: tuple[Setting, ...] = tuple(setting for group in GROUPS for setting in group.settings)


def load_environment(root: Path) -> dict[str, str]:
    """The environment over the values of `root/.env`: what is set by hand wins."""
    # Without interpolation a `$` in a password means itself, as it does for every process manager.
    from_file = dotenv_values(root / ".env", interpolate=False)
    return {name: value for name, value in from_file.items() if value is not None} | dict(os.environ)


def read_settings(
    environ: Mapping[str, str], instance_path: Path, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Reads and checks every setting, once, for `app.config`.

    Args:
        environ: the environment's text values; those of other programs are ignored.
        instance_path: the folder for what this machine keeps.
        overrides: typed values that tests put in place of settings or of keys derived from them.

    Raises:
        SettingError: names every value that is wrong or missing, or else those that contradict each other.
    """
    overrides = dict(overrides or {})
    values: dict[str, Any] = {}
    problems: list[str] = []
    for setting in SETTINGS:
        if setting.name in overrides:
            values[setting.name] = overrides[setting.name]
            continue
        try:
            values[setting.name] = setting.read(environ.get(setting.name, ""), values, instance_path)
        except SettingError as error:
            problems.append(error.message)
            # What follows from it is checked with the default.
            values[setting.name] = None if isinstance(setting.default, Derived) else setting.default
    if problems := problems or list(_contradictions(values)):
        raise SettingError("; ".join(problems))
    config = values | _flask_keys(values)
    _check_overrides(values, overrides, known=config)
    return config | overrides


def unknown_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return names that look like a setting and are not one, each with the nearest setting."""
    known = {setting.name for setting in SETTINGS}
    prefixes = tuple({name.partition("_")[0] + "_" for name in known if "_" in name})
    names = [name for name in environ if name.startswith(prefixes) and not OF_CONTAINERS.search(name)]
    nearest = {name: get_close_matches(name, known, n=1) for name in sorted(set(names) - known)}
    return {name: found[0] for name, found in nearest.items() if found}


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    if values["MAIL_USE_TLS"] and values["MAIL_USE_SSL"]:
        yield "MAIL_USE_TLS takes false when MAIL_USE_SSL is true: a connection is secured in one way"
    if values["MAIL_USERNAME"] and not values["MAIL_PASSWORD"]:
        yield "MAIL_PASSWORD takes the password of MAIL_USERNAME: it is not set"
    if values["MAIL_PASSWORD"] and not values["MAIL_USERNAME"]:
        yield "MAIL_USERNAME takes the account of MAIL_PASSWORD: it is not set"
    heartbeat, rescue = values["HEARTBEAT_SECONDS"], values["RESCUE_AFTER_SECONDS"]
    if rescue < HEARTBEATS_PER_RESCUE * heartbeat:
        yield (
            f"RESCUE_AFTER_SECONDS takes at least {HEARTBEATS_PER_RESCUE} times HEARTBEAT_SECONDS ({heartbeat:g}): "
            f"{rescue:g} is less, and jobs of working processes would be rescued"
        )


def _check_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    if overrides and values["APP_ENV"] != "testing":
        raise SettingError(f"APP_ENV takes testing where values are overridden: it is {values['APP_ENV']!r}")
    for name in overrides:
        if name not in known:
            raise SettingError(f"{name} is no setting and cannot be overridden")


def _flask_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """What Flask and its extensions read under names of their own."""
    is_secure = values["PUBLIC_URL"].startswith("https:")
    return {
        "TESTING": values["APP_ENV"] == "testing",
        "SQLALCHEMY_DATABASE_URI": sqlalchemy_url(values["DATABASE_URL"]),
        "MAX_CONTENT_LENGTH": values["MAX_REQUEST_BYTES"],
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": "Lax",
        "SESSION_COOKIE_SECURE": is_secure,
        "REMEMBER_COOKIE_DURATION": timedelta(days=values["LOGIN_SESSION_DAYS"]),
        "REMEMBER_COOKIE_HTTPONLY": True,
        "REMEMBER_COOKIE_SAMESITE": "Lax",
        "REMEMBER_COOKIE_SECURE": is_secure,
        "WTF_CSRF_ENABLED": True,
    }
