"""Reading the settings: what is taken, what is refused, and what follows from what."""

from __future__ import annotations

import stat
import tomllib
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.config import SETTINGS, load_environment, read_settings, unknown_settings
from app.defaults import VERSION, embedded_broker_socket
from flask_belfry.core.settings import SettingError

PRODUCTION = {
    "APP_ENV": "production",
    "SECRET_KEY": "k" * 32,
    "REDIS_URL": "redis://broker:6379/0",
    "PUBLIC_URL": "https://desk.example.org",
    "MAIL_SERVER": "smtp.example.org",
}


def read(tmp_path: Path, overrides: dict[str, Any] | None = None, **environ: str) -> dict[str, Any]:
    return read_settings(environ, tmp_path, overrides)


def refusal(tmp_path: Path, **environ: str) -> str:
    with pytest.raises(SettingError) as caught:
        read(tmp_path, **environ)
    return str(caught.value)


def test_every_setting_is_a_key_of_the_configuration_under_its_own_name(tmp_path: Path) -> None:
    config = read(tmp_path)

    assert {setting.name for setting in SETTINGS} <= config.keys()


def test_names_of_settings_are_unique() -> None:
    names = [setting.name for setting in SETTINGS]

    assert len(names) == len(set(names))


def test_an_empty_environment_is_a_working_development_machine(tmp_path: Path) -> None:
    config = read(tmp_path)

    assert config["APP_ENV"] == "development"
    assert config["SQLALCHEMY_DATABASE_URI"] == f"sqlite:///{tmp_path}/belfry.sqlite3"
    assert config["REDIS_URL"] == f"unix://{embedded_broker_socket(tmp_path)}"
    assert config["PUBLIC_URL"] == "http://127.0.0.1:5000"
    assert config["MAIL_RETRY_DELAYS_SECONDS"] == (60, 120, 240, 480, 900)


def test_an_empty_value_means_the_default(tmp_path: Path) -> None:
    assert read(tmp_path, PORT=" ")["PORT"] == 5000


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("PORT", "8080", 8080),
        ("JOBS_EAGER", "yes", True),
        ("JOBS_EAGER", "OFF", False),
        ("JOBS_EAGER", "1", True),
        ("MAIL_TIMEOUT_SECONDS", "2.5", 2.5),
        ("MAIL_RETRY_DELAYS_SECONDS", "1, 2,3", (1, 2, 3)),
        ("MAIL_UNCERTAIN", "hold", "hold"),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("TIMEZONE", "Europe/Berlin", "Europe/Berlin"),
        ("ADMIN_EMAIL", "root@localhost", "root@localhost"),
        ("ADMIN_EMAIL", "office@[::1]", "office@[IPv6:::1]"),
        ("ADMIN_EMAIL", "office@bücher.example", "office@xn--bcher-kva.example"),
        ("MAIL_DEFAULT_SENDER", "The desk <desk@example.org>", "The desk <desk@example.org>"),
        ("MAIL_DEFAULT_SENDER", "Büro <desk@BÜCHER。example>", "Büro <desk@xn--bcher-kva.example>"),
        ("MAIL_MESSAGE_ID_DOMAIN", "faß.example", "xn--fa-hia.example"),
        ("MAIL_EHLO_NAME", "bücher.example", "xn--bcher-kva.example"),
        ("MAIL_SERVER", "mail.bücher.example.", "mail.xn--bcher-kva.example"),
        ("MAIL_SERVER", "mail_server", "mail_server"),
        ("MAIL_SERVER", "[2001:db8::1]", "2001:db8::1"),
        ("PUBLIC_URL", "https://desk.example.org/", "https://desk.example.org"),
        ("WEBHOOK_EVENTS", "job.failed, failures.new", ("job.failed", "failures.new")),
        ("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),
        ("REDIS_URL", "rediss://:secret@broker:6380/1", "rediss://:secret@broker:6380/1"),
        ("REDIS_URL", "unix:///run/valkey.sock", "unix:///run/valkey.sock"),
        ("REDIS_URL", "redis+sentinel://a:26379,b:26379/main/0", "redis+sentinel://a:26379,b:26379/main/0"),
        ("REDIS_URL", "redis+sentinel://:pw@a:26379/main", "redis+sentinel://:pw@a:26379/main"),
        (
            "REDIS_URL",
            "rediss://a?ssl_cert_reqs=none&max_connections=9",
            "rediss://a?ssl_cert_reqs=none&max_connections=9",
        ),
        ("REDIS_URL", "rediss+sentinel://a:1/main?ssl_cert_reqs=none", "rediss+sentinel://a:1/main?ssl_cert_reqs=none"),
        ("DATABASE_URL", "postgres://host/x?sslmode=require&port=3", "postgres://host/x?sslmode=require&port=3"),
        ("DATABASE_URL", "sqlite:///belfry.sqlite3?timeout=3", "sqlite:///belfry.sqlite3?timeout=3"),
    ],
)
def test_text_becomes_a_value(tmp_path: Path, name: str, text: str, value: object) -> None:
    assert read(tmp_path, **{name: text})[name] == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("APP_ENV", "staging"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("JOBS_EAGER", "maybe"),
        ("MAIL_TIMEOUT_SECONDS", "0"),
        ("MAIL_TIMEOUT_SECONDS", "nan"),
        ("MAIL_TIMEOUT_SECONDS", "inf"),
        ("MAIL_RETRY_DELAYS_SECONDS", "60,soon"),
        ("MAIL_RETRY_DELAYS_SECONDS", "60,-1"),
        ("MAIL_RETRY_DELAYS_SECONDS", "60,"),
        ("MAIL_UNCERTAIN", "drop"),
        ("WEBHOOK_EVENTS", "job.failed,job.completed"),
        ("LOG_LEVEL", "LOUD"),
        ("TIMEZONE", "Mars/Olympus"),
        ("TIMEZONE", "../etc/passwd"),
        ("ADMIN_EMAIL", "office"),
        ("ADMIN_EMAIL", "a@b.org, c@d.org"),
        ("ADMIN_EMAIL", "büro@example.org"),
        ("ADMIN_EMAIL", "office@a..b"),
        ("MAIL_DEFAULT_SENDER", "Belfry"),
        ("MAIL_DEFAULT_SENDER", "Büro <büro@example.org>"),
        ("MAIL_DEFAULT_SENDER", "Belfry, Inc. <desk@example.org>"),
        ("MAIL_DEFAULT_SENDER", "Belfry\x7f <desk@example.org>"),
        ("MAIL_DEFAULT_SENDER", "desk@" + "x" * 64 + ".example"),
        ("MAIL_MESSAGE_ID_DOMAIN", "mail@example.org"),
        ("MAIL_EHLO_NAME", "not a name"),
        ("MAIL_SERVER", "smtp..example.org"),
        ("MAIL_SERVER", "smtp.example.org:587"),
        ("PUBLIC_URL", "desk.example.org"),
        ("PUBLIC_URL", "https://"),
        ("MAIL_CA_FILE", "/nowhere/at/all.pem"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_name_and_value(tmp_path: Path, name: str, text: str) -> None:
    message = refusal(tmp_path, **{name: text})

    assert message.startswith(f"{name} must be ")
    assert repr(text) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SECRET_KEY", "too-short-a-secret"),
        ("DATABASE_URL", "mysql://root:hunter2@host/belfry"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("REDIS_URL", "amqp://guest:hunter2@host"),
        ("REDIS_URL", "redis://:hunter2@host:port"),
        ("REDIS_URL", "redis+sentinel://:hunter2@a:26379,b/main"),
        ("REDIS_URL", "redis+sentinel://:hunter2@a:26379"),
        ("REDIS_URL", "redis+sentinel://:hunter2@a:26379/main/zero"),
        ("REDIS_URL", "redis+sentinel://:hunter2@[::1:26379/main"),
        ("REDIS_URL", "redis+sentinel://:hunter2@::1:26379/main"),
        ("REDIS_URL", "unix+sentinel://:hunter2@a:26379/main"),
        ("REDIS_URL", "redis://:hunter2@host/word"),
        ("REDIS_URL", "unix:///run/valkey.sock?db=hunter2"),
        # Options that the connection does not have, and one with which RQ cannot work.
        ("REDIS_URL", "redis://:hunter2@host?socket_timeuot=2"),
        ("REDIS_URL", "rediss+sentinel://:hunter2@a:26379/main?sentinel_name=ada"),
        ("REDIS_URL", "redis://:hunter2@host?decode_responses=true"),
        ("WEBHOOK_URLS", "https://hooks.example.org/hunter2,ftp://hooks.example.org/"),
        ("WEBHOOK_URLS", "https://user:hunter2@hooks.example.org/"),
        ("WEBHOOK_URLS", "https://hooks.example.org:port/hunter2"),
        ("WEBHOOK_URLS", "https:///hunter2"),
        ("WEBHOOK_SECRET", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("WEBHOOK_SECRET", "whsec_hunter2"),
        ("METRICS_TOKEN", "hunter2"),
        ("SENTRY_DSN", "https://sentry.example.org/hunter2"),
        ("SENTRY_DSN", "https://hunter2@sentry.example.org/project"),
        ("DATABASE_URL", "postgresql://:hunter2@host:port/belfry"),
        ("DATABASE_URL", "postgresql://:hunter2@host/belfry?sslmod=require"),
        ("DATABASE_URL", "sqlite:///hunter2.sqlite3?timeout=long"),
        ("DATABASE_URL", "sqlite:///hunter2.sqlite3?tiemout=5"),
    ],
)
def test_a_refused_secret_is_not_shown(tmp_path: Path, name: str, text: str) -> None:
    message = refusal(tmp_path, **{name: text})

    assert message.startswith(f"{name} must be ")
    assert text not in message
    assert "hunter2" not in message


@pytest.mark.parametrize("name", ["SECRET_KEY", "REDIS_URL", "PUBLIC_URL", "MAIL_SERVER"])
def test_production_refuses_to_start_without(tmp_path: Path, name: str) -> None:
    environ = {key: value for key, value in PRODUCTION.items() if key != name}

    assert refusal(tmp_path, **environ).startswith(f"{name} must be ")


def test_all_that_is_missing_or_wrong_is_reported_together(tmp_path: Path) -> None:
    message = refusal(tmp_path, APP_ENV="production", PORT="http", MAIL_TIMEOUT_SECONDS="0")

    assert "\n" not in message
    problems = message.split("; ")
    assert [problem.split()[0] for problem in problems] == [
        "SECRET_KEY", "PORT", "PUBLIC_URL", "REDIS_URL", "MAIL_SERVER", "MAIL_TIMEOUT_SECONDS",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"HEARTBEAT_SECONDS": "20"}, "RESCUE_AFTER_SECONDS"),
        ({"RESCUE_AFTER_SECONDS": "5"}, "RESCUE_AFTER_SECONDS"),
        ({"MAIL_USERNAME": "belfry"}, "MAIL_PASSWORD"),
        ({"MAIL_PASSWORD": "secret"}, "MAIL_USERNAME"),
        ({"MAIL_USE_TLS": "true", "MAIL_USE_SSL": "true"}, "MAIL_USE_TLS"),
        ({"WEBHOOK_URLS": "https://hooks.example.org/"}, "WEBHOOK_SECRET"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, environ: dict[str, str], named: str) -> None:
    assert refusal(tmp_path, **environ).startswith(f"{named} must be ")


def test_names_that_look_like_settings_are_reported_with_the_nearest() -> None:
    environ = {
        "MAIL_SEVER": "smtp.example.org",
        "JOBS_KEP_DAYS": "3",
        "WORKER_THREAD": "4",
        # Settings, and names of other programs.
        "MAIL_SERVER": "smtp.example.org",
        "REDIS_PORT": "tcp://10.0.0.1:6379",
        "REDIS_SERVICE_HOST": "10.0.0.1",
        "MAIL": "/var/mail/root",
        "PATH": "/bin",
        "WEB_BROWSER": "lynx",
    }
    expected = {"MAIL_SEVER": "MAIL_SERVER", "JOBS_KEP_DAYS": "JOBS_KEEP_DAYS", "WORKER_THREAD": "WORKER_THREADS"}
    assert unknown_settings(environ) == expected


def test_production_needs_no_mail_server_when_mail_is_off(tmp_path: Path) -> None:
    environ = PRODUCTION | {"MAIL_SERVER": "", "MAIL_ENABLED": "false"}

    assert read(tmp_path, **environ)["MAIL_ENABLED"] is False


def test_production_writes_json_logs_and_makes_no_secret(tmp_path: Path) -> None:
    config = read(tmp_path, **PRODUCTION)

    assert config["LOG_FORMAT"] == "json"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "port"), [("MAIL_USE_SSL", 465), ("MAIL_USE_TLS", 587)])
def test_the_mail_port_follows_the_kind_of_tls(tmp_path: Path, name: str, port: int) -> None:
    assert read(tmp_path, **{name: "true"})["MAIL_PORT"] == port
    assert read(tmp_path, **{name: "true", "MAIL_PORT": "2525"})["MAIL_PORT"] == 2525


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_reaches_the_installed_driver(tmp_path: Path, scheme: str) -> None:
    config = read(tmp_path, DATABASE_URL=f"{scheme}://user:pw@host/belfry?sslmode=require")

    assert config["SQLALCHEMY_DATABASE_URI"] == "postgresql+psycopg://user:pw@host/belfry?sslmode=require"


def test_the_secret_key_is_made_once_for_the_owner_only(tmp_path: Path) -> None:
    first, second = read(tmp_path)["SECRET_KEY"], read(tmp_path)["SECRET_KEY"]

    assert first == second
    assert len(first) >= 32
    assert stat.S_IMODE((tmp_path / "secret-key").stat().st_mode) == 0o600


def test_processes_that_start_together_agree_on_one_secret_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        keys = set(threads.map(lambda _: read(tmp_path)["SECRET_KEY"], range(64)))

    assert len(keys) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret-key"]


def test_a_socket_path_too_long_for_the_system_moves_to_a_short_one_of_its_own(tmp_path: Path) -> None:
    deep, other = tmp_path / ("d" * 120), tmp_path / ("e" * 120)

    assert len(bytes(embedded_broker_socket(deep))) <= 100
    assert embedded_broker_socket(deep) == embedded_broker_socket(deep)
    assert embedded_broker_socket(deep) != embedded_broker_socket(other)


def test_cookies_are_secure_exactly_when_people_come_by_https(tmp_path: Path) -> None:
    assert read(tmp_path)["SESSION_COOKIE_SECURE"] is False
    assert read(tmp_path, PUBLIC_URL="https://desk.example.org")["SESSION_COOKIE_SECURE"] is True


def test_mail_takes_its_domain_from_the_public_address(tmp_path: Path) -> None:
    config = read(tmp_path, PUBLIC_URL="https://desk.example.org:8443")

    assert config["MAIL_MESSAGE_ID_DOMAIN"] == "desk.example.org"
    assert config["MAIL_DEFAULT_SENDER"] == "Belfry <no-reply@desk.example.org>"
    assert read(tmp_path)["MAIL_MESSAGE_ID_DOMAIN"] == "belfry.localhost"
    assert read(tmp_path, PUBLIC_URL="https://bücher.example")["MAIL_MESSAGE_ID_DOMAIN"] == "xn--bcher-kva.example"


def test_tests_override_settings_and_what_follows_from_them_follows(tmp_path: Path) -> None:
    config = read(tmp_path, {"APP_ENV": "testing", "DATABASE_URL": "postgres://host/tests", "WTF_CSRF_ENABLED": False})

    assert config["TESTING"] is True
    assert config["SQLALCHEMY_DATABASE_URI"] == "postgresql+psycopg://host/tests"
    assert config["WTF_CSRF_ENABLED"] is False


def test_overrides_are_for_tests_only(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="APP_ENV must be testing"):
        read(tmp_path, {"PORT": 1})


def test_an_override_of_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="JOBS_EGAR"):
        read(tmp_path, {"APP_ENV": "testing", "JOBS_EGAR": True})


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PORT=1000\nMAIL_PASSWORD='pa${PORT}ss'\nMAIL_SERVER=from-file\n")
    monkeypatch.setenv("PORT", "2000")

    environ = load_environment(tmp_path)

    assert environ["PORT"] == "2000"
    assert environ["MAIL_SERVER"] == "from-file"
    assert environ["MAIL_PASSWORD"] == "pa${PORT}ss"


def test_a_folder_without_an_env_file_is_fine(tmp_path: Path) -> None:
    assert "PATH" in load_environment(tmp_path)


def test_the_release_is_the_version_of_the_project_by_default(tmp_path):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert read_settings({"APP_ENV": "testing"}, tmp_path)["RELEASE"] == VERSION == project["version"]


@pytest.mark.parametrize("value", ["x" * 61, "two\nlines"])
def test_a_release_that_no_column_can_hold_is_refused(tmp_path, value):
    with pytest.raises(SettingError, match="RELEASE must be a text of 1 to 60 printable characters"):
        read_settings({"APP_ENV": "testing", "RELEASE": value}, tmp_path)
