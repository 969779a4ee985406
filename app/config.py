"""All settings: the environment variable, the valid values, the default and the purpose of each.

They are read and checked once, at start; code reads `app.config[NAME]`.
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
    bounce_address,
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
    numbers_by_name,
    seconds,
    sentry_dsn,
    short_name,
    some_of,
    text,
    web_url,
    web_urls,
    webhook_secret,
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
            "In production, the application refuses to start with defaults that suit only one machine.",
        ),
        Setting(
            "SECRET_KEY",
            long_text(defaults.SECRET_KEY_CHARACTERS),
            Derived(defaults.secret_key, "generated once in `instance/secret-key`; required in production"),
            "Signs sessions and tokens: it allows a login as any user.",
            secret=True,
        ),
        Setting(
            "TIMEZONE",
            zone_name,
            "UTC",
            "The time zone of cron expressions, and of times shown to users who have not chosen one.",
        ),
        Setting(
            "ADMIN_EMAIL",
            email_address,
            Derived(defaults.admin_email, "`admin@belfry.example`; none in production"),
            "The email address notified of what needs a person, such as a new reservation.",
        ),
        Setting(
            "LOG_LEVEL",
            choice("DEBUG", "INFO", "WARNING", "ERROR", either_case=True),
            "INFO",
            "The minimum level of log lines.",
        ),
        Setting(
            "LOG_FORMAT",
            choice("console", "json"),
            Derived(defaults.log_format, "`console`; `json` in production"),
            "Text for a terminal, or one JSON object per line for a log collector.",
        ),
        Setting(
            "RELEASE",
            short_name,
            defaults.VERSION,
            "The name of this release, such as its commit: workers and failures are shown with it.",
        ),
    ),
    group(
        "Web",
        Setting("PORT", whole_number(1, 65535), 5000, "The port on which the web process listens."),
        Setting(
            "PUBLIC_URL",
            web_url,
            Derived(defaults.public_url, "`http://127.0.0.1:PORT`; required in production"),
            "The URL that users open: links in mails start with it, and https makes cookies secure.",
        ),
        Setting(
            "WEB_CONCURRENCY",
            whole_number(1),
            1,
            "The number of web processes, read by gunicorn; start with one per core.",
        ),
        Setting(
            "WEB_THREADS",
            whole_number(1),
            8,
            "Threads per web process, read by the Procfile: the number of requests that it handles concurrently.",
        ),
        Setting(
            "TRUSTED_PROXIES",
            whole_number(0),
            0,
            "Proxies in front that append to X-Forwarded-For; if set too high, clients can forge their IP address.",
        ),
        Setting(
            "MAX_REQUEST_BYTES",
            whole_number(1),
            16 * 1024 * 1024,
            "The maximum body size of endpoints marked for large bodies; others accept 64 KiB.",
        ),
    ),
    group(
        "Accounts",
        Setting(
            "REGISTRATION_MAIL_DELAY_SECONDS",
            seconds(least=0),
            2.0,
            "The delay before the first attempt to send the confirmation mail of a registration.",
        ),
        Setting(
            "REGISTRATION_DIRECT_MAIL_SECONDS",
            seconds(),
            0.5,
            "The time limit of a registration to send its mail from the web process while the broker is unavailable.",
        ),
        Setting(
            "CONFIRMATION_CODE_MINUTES",
            whole_number(1),
            60,
            "The lifetime of the code and the link in a confirmation mail, from when the mail is sent.",
        ),
        Setting(
            "PASSWORD_RESET_MINUTES",
            whole_number(1),
            30,
            "The lifetime of a password reset link, from when the mail is sent.",
        ),
        Setting(
            "LOGIN_SESSION_DAYS",
            whole_number(1),
            30,
            'The lifetime of a login session in a browser, also with "Stay logged in".',
        ),
        Setting(
            "LOGIN_ADDRESS_DAYS",
            whole_number(1),
            7,
            "The lifetime of the links in the mail about a login from a new IP address, from when the mail is sent.",
        ),
        Setting(
            "RATE_LIMITS_ENABLED",
            boolean,
            True,
            "Limits the rate of logins, registrations, codes, writes and mails per recipient; off for load tests only.",
        ),
        Setting(
            "ACCESS_TOKEN_SECONDS",
            whole_seconds,
            900,
            "The lifetime of a login's access token, and so of a stolen one.",
        ),
        Setting(
            "REFRESH_TOKEN_DAYS",
            whole_number(1),
            30,
            "The lifetime of a refresh token: how long a client can be inactive without logging in again.",
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
            "The database: `postgresql://…` (or `postgres://…`) or `sqlite:///…`.",
            secret=True,
        ),
        Setting(
            "SQLITE_BUSY_TIMEOUT_SECONDS",
            seconds(),
            10.0,
            "How long a SQLite writer waits for another one before it fails.",
        ),
        Setting(
            "REQUEST_LOCK_TIMEOUT_SECONDS",
            seconds(),
            5.0,
            "How long a web request waits on PostgreSQL for locked rows before it fails with 503.",
        ),
        Setting(
            "REQUEST_STATEMENT_TIMEOUT_SECONDS",
            seconds(),
            5.0,
            "The time limit of one statement of a web request on PostgreSQL, before it fails with 503.",
        ),
    ),
    group(
        "Broker",
        Setting(
            "REDIS_URL",
            broker_url,
            Derived(
                defaults.embedded_broker_url,
                "the embedded Valkey in `instance/valkey`; required in production",
            ),
            "Redis or Valkey, which transports jobs to the workers; "
            "`redis+sentinel://host:port,host:port/service/0` finds the primary through Sentinel.",
            secret=True,
        ),
        Setting(
            "BROKER_CONNECT_TIMEOUT_SECONDS",
            seconds(),
            0.02,
            "How long a web request waits for a connection to the broker before it continues without it.",
        ),
        Setting("BROKER_TIMEOUT_SECONDS", seconds(), 0.025, "How long a web request waits for the broker's response."),
        Setting(
            "BROKER_RETRY_SECONDS",
            seconds(),
            5.0,
            "How long requests skip the broker after it failed, so that not every request waits for it.",
        ),
    ),
    group(
        "Jobs",
        Setting(
            "JOBS_EAGER",
            boolean,
            False,
            "Runs jobs inline, in the process that enqueued them, after its commit: no broker, no worker.",
        ),
        Setting(
            "JOB_TIMEOUT_SECONDS",
            whole_seconds,
            1800,
            "The time limit of jobs that define none.",
        ),
        Setting(
            "RESULT_TTL_SECONDS",
            whole_seconds,
            3600,
            "How long Redis keeps a finished job; the database keeps its history.",
        ),
        Setting(
            "JOBS_KEEP_DAYS",
            whole_number(1),
            14,
            "How long the record of a completed or cancelled job is kept.",
        ),
        Setting("AUDIT_KEEP_DAYS", whole_number(1), 365, "How long audit events are kept."),
        Setting("JOBS_KEEP_FAILED_DAYS", whole_number(1), 90, "How long the record of a failed job is kept."),
        Setting(
            "RELAY_SECONDS",
            seconds(),
            3.0,
            "How often the relay publishes jobs that have not reached the broker.",
        ),
        Setting(
            "RELAY_GRACE_SECONDS",
            seconds(),
            2.0,
            "The minimum age at which the relay publishes a pending job: the process that enqueued it tries first.",
        ),
        Setting("HEARTBEAT_SECONDS", seconds(), 3.0, "The interval between heartbeats of a worker."),
        Setting(
            "RESCUE_AFTER_SECONDS",
            seconds(),
            10.0,
            "How long a worker can miss heartbeats before its jobs are rescued; several heartbeats.",
        ),
        Setting(
            "MAX_INTERRUPTIONS",
            whole_number(1),
            3,
            "After this many interrupted attempts in a row, a job fails: it may be what crashes the workers.",
        ),
        Setting(
            "MAX_SNOOZES",
            whole_number(1),
            100,
            "After this many snoozes, a job fails: what it waits for may never come.",
        ),
        Setting(
            "SHUTDOWN_GRACE_SECONDS",
            whole_seconds,
            25,
            "How long a stopping process can finish its work; less than the grace period of the process manager.",
        ),
        Setting(
            "SCHEDULE_CATCH_UP_SECONDS",
            whole_seconds,
            3600,
            "A run time missed by less than this runs once, late; an older one is recorded as missed.",
        ),
    ),
    group(
        "Workers",
        Setting(
            "WORKER_PROCESSES",
            whole_number(1),
            1,
            "Processes that one `flask jobs worker` keeps running.",
        ),
        Setting("WORKER_THREADS", whole_number(1), 16, "Jobs that one threaded worker runs concurrently."),
        Setting(
            "WORKER_BATCH",
            whole_number(1),
            200,
            "Jobs that a threaded worker prefetches at most, while they are short; and about the most ids that a queue"
            " in Redis holds.",
        ),
        Setting(
            "WORKER_FROZEN_SECONDS",
            seconds(least=2),
            30.0,
            "How long a job can block its worker's interpreter before the worker is killed and replaced.",
        ),
    ),
    group(
        "Mail",
        Setting("MAIL_ENABLED", boolean, True, "If false, mails are recorded as suppressed and not sent."),
        Setting(
            "MAIL_SERVER",
            host,
            Derived(defaults.mail_server, "unset; required in production, unless MAIL_ENABLED=false"),
            "The SMTP server; if unset in development, mails are stored and shown at `/dev/inbox`.",
        ),
        Setting(
            "MAIL_USE_TLS",
            boolean,
            False,
            "Switches to TLS after connecting (STARTTLS); the certificate is verified.",
        ),
        Setting("MAIL_USE_SSL", boolean, False, "Uses TLS from the first byte; the certificate is verified."),
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
            "An additional certificate authority to trust, such as that of a private relay.",
        ),
        Setting("MAIL_USERNAME", text(), None, "The username at the SMTP server, if it requires one."),
        Setting("MAIL_PASSWORD", text(), None, "The password of MAIL_USERNAME.", secret=True),
        Setting(
            "MAIL_TIMEOUT_SECONDS", seconds(), 10.0, "How long the SMTP server may be silent before the attempt fails."
        ),
        Setting(
            "MAIL_DEFAULT_SENDER",
            mailbox,
            Derived(
                lambda values, path: f"Belfry <no-reply@{defaults.mail_domain(values, path)}>",
                "`Belfry <no-reply@…>` at the host of PUBLIC_URL",
            ),
            "The sender of mails.",
        ),
        Setting(
            "MAIL_MESSAGE_ID_DOMAIN",
            domain_name,
            Derived(defaults.mail_domain, "the host of PUBLIC_URL"),
            "The domain of each Message-ID; a domain that is not yours looks like spam.",
        ),
        Setting(
            "MAIL_EHLO_NAME",
            domain_name,
            Derived(
                lambda values, path: None,
                "the host's fully qualified name; without one, the host of PUBLIC_URL or MAIL_MESSAGE_ID_DOMAIN",
            ),
            "The name that this host sends to the SMTP server (EHLO); many servers require a public name.",
        ),
        Setting(
            "MAIL_RETRY_DELAYS_SECONDS",
            delays_in_seconds,
            (60, 120, 240, 480, 900),
            "The delays between the attempts to send one mail; the number of delays is the number of retries.",
        ),
        Setting(
            "MAIL_UNCERTAIN",
            choice("resend", "hold"),
            "resend",
            "What happens to a mail whose delivery is uncertain because its worker crashed: "
            "resent with the same Message-ID, or held for a person.",
        ),
        Setting(
            "MAIL_BOUNCE_ADDRESS",
            bounce_address,
            None,
            "The email address that receives bounces, as `bounces+TOKEN@…` for each mail; unset, the sender receives"
            " them.",
        ),
        Setting(
            "MAIL_BOUNCE_TOKEN",
            long_text(defaults.BOUNCE_TOKEN_CHARACTERS),
            None,
            "The token with which a mail server sends bounces to `POST /mail/bounces`; unset, the endpoint is off.",
            secret=True,
        ),
        Setting(
            "MAIL_DKIM_SELECTOR",
            domain_name,
            None,
            "The selector of the DKIM key of the sender's domain, which `flask doctor` checks.",
        ),
        Setting("MAILS_KEEP_DAYS", whole_number(1), 365, "How long a mail is kept in the ledger."),
    ),
    group(
        "Monitoring",
        Setting(
            "METRICS_TOKEN",
            long_text(defaults.METRICS_TOKEN_CHARACTERS),
            None,
            "The bearer token with which Prometheus reads `/metrics`; unset, only this machine may read them.",
            secret=True,
        ),
        Setting(
            "WEBHOOK_URLS",
            web_urls,
            None,
            "The URLs that get the events of WEBHOOK_EVENTS, signed with WEBHOOK_SECRET.",
            secret=True,
        ),
        Setting(
            "WEBHOOK_SECRET",
            webhook_secret,
            None,
            "The key with which webhooks are signed, so that their receivers can verify them.",
            secret=True,
        ),
        Setting(
            "WEBHOOK_EVENTS",
            some_of("job.failed", "failures.new", "failures.regressed"),
            ("failures.new", "failures.regressed"),
            "The events that are sent: each job that failed finally, and groups of failures that are new or regressed.",
        ),
        Setting(
            "WEBHOOK_ALLOW_PRIVATE",
            boolean,
            False,
            "Sends webhooks also to this machine and to private networks, whose services may trust it.",
        ),
        Setting(
            "SENTRY_DSN",
            sentry_dsn,
            None,
            "The project of Sentry that gets internal errors and final failures of jobs; needs the package sentry-sdk.",
            secret=True,
        ),
    ),
    group(
        "Push",
        Setting(
            "FCM_CREDENTIALS",
            existing_file,
            None,
            "The service account file of the Firebase project, as JSON; if unset, no push messages are sent.",
        ),
        Setting(
            "FCM_ENDPOINT",
            web_url,
            "https://fcm.googleapis.com",
            "The server that speaks FCM HTTP v1; access tokens come from the `token_uri` of FCM_CREDENTIALS.",
        ),
        Setting(
            "PUSH_DEVICE_DAYS",
            whole_number(1),
            270,
            "A device is dropped this long after its application last reported itself.",
        ),
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
            "After a mail about the status of a work item, further changes are collected for this long into one mail.",
        ),
        Setting("OVERDUE_SWEEP_SECONDS", whole_seconds, 300, "The interval between sweeps for overdue reservations."),
    ),
    group(
        "Notifications",
        Setting(
            "NOTIFICATIONS_PER_MINUTE",
            whole_number(0),
            0,
            "The most mails and push messages of one school in a minute, without critical ones; 0 is any number.",
        ),
        Setting(
            "NOTIFICATION_FALLBACK_MINUTES",
            numbers_by_name("academic", "behavior", "payment", "general", what="minutes"),
            None,
            "For a type: who was not reached by push after so many minutes gets a mail instead.",
        ),
        Setting(
            "NOTIFICATION_DIGEST_HOUR",
            whole_number(0, 23),
            7,
            "The hour, in the time zone of each user, of the daily digest of notifications.",
        ),
        Setting(
            "SCHEDULED_NOTIFICATIONS_SWEEP_SECONDS",
            whole_seconds,
            300,
            "The interval between sweeps for scheduled notifications that were not sent at their time.",
        ),
    ),
)

# One heartbeat can be late or lost while the worker is alive.
HEARTBEATS_PER_RESCUE = 2
# Variables that Docker and Kubernetes set for a service of that name.
OF_CONTAINERS = re.compile(r"_SERVICE_(HOST|PORT)|_PORT($|_)|_NAME$|_ENV_")

SETTINGS: tuple[Setting, ...] = tuple(setting for group in GROUPS for setting in group.settings)


def load_environment(root: Path) -> dict[str, str]:
    """Return the environment merged over the values of `root/.env`."""
    # Without interpolation, `$` in a password is literal, as in every process manager.
    from_file = dotenv_values(root / ".env", interpolate=False)
    return {name: value for name, value in from_file.items() if value is not None} | dict(os.environ)


def read_settings(
    environ: Mapping[str, str], instance_path: Path, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read and check all settings for `app.config`.

    Args:
        environ: the environment; variables of other programs are ignored.
        instance_path: the folder for the files of this installation.
        overrides: typed values with which tests replace settings or keys derived from them.

    Raises:
        SettingError: names all values that are invalid or missing, or else those that contradict each other.
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
            # Settings derived from it are checked with the default.
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
        yield "MAIL_USE_TLS must be false if MAIL_USE_SSL is true: a connection is secured in one way"
    if values["MAIL_USERNAME"] and not values["MAIL_PASSWORD"]:
        yield "MAIL_PASSWORD must be set if MAIL_USERNAME is set"
    if values["MAIL_PASSWORD"] and not values["MAIL_USERNAME"]:
        yield "MAIL_USERNAME must be set if MAIL_PASSWORD is set"
    if values["WEBHOOK_URLS"] and not values["WEBHOOK_SECRET"]:
        yield "WEBHOOK_SECRET must be set if WEBHOOK_URLS is set: receivers verify the signature"
    heartbeat, rescue = values["HEARTBEAT_SECONDS"], values["RESCUE_AFTER_SECONDS"]
    if rescue < HEARTBEATS_PER_RESCUE * heartbeat:
        yield (
            f"RESCUE_AFTER_SECONDS must be at least {HEARTBEATS_PER_RESCUE} times HEARTBEAT_SECONDS ({heartbeat:g}): "
            f"with {rescue:g}, jobs of live workers would be rescued"
        )


def _check_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    if overrides and values["APP_ENV"] != "testing":
        raise SettingError(f"APP_ENV must be testing if settings are overridden: it is {values['APP_ENV']!r}")
    for name in overrides:
        if name not in known:
            raise SettingError(f"{name} is not a setting and cannot be overridden")


def _flask_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that Flask and its extensions read under their own names."""
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
