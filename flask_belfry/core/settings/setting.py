"""Settings, and how they are read from environment variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask_belfry.core.errors import AppError
from flask_belfry.core.settings.casts import Cast


class SettingError(AppError):
    """A setting is invalid: the message is one line with its name, its value and the valid values."""

    status = 500


@dataclass(frozen=True)
class Derived:
    """A default that depends on the environment, the instance folder or settings that are defined before it.

    Args:
        compute: called with the settings read so far and the instance folder.
        words: the default as the documentation says it.
    """

    compute: Callable[[Mapping[str, Any], Path], Any]
    words: str


@dataclass(frozen=True)
class Setting:
    """One setting. `why` describes its purpose in one sentence; `secret` values are never shown."""

    name: str
    parse: Cast
    default: Any
    why: str
    secret: bool = False

    def read(self, text_value: str, source: Mapping[str, Any], instance_path: Path) -> Any:
        """The value of the environment's text; an empty text means the default.

        Raises:
            SettingError: the text is invalid.
        """
        if not text_value.strip():
            return self._default(source, instance_path)
        try:
            return self.parse(text_value.strip())
        except ValueError:
            raise self._refusal(text_value) from None

    def _default(self, source: Mapping[str, Any], instance_path: Path) -> Any:
        if isinstance(self.default, Derived):
            return self.default.compute(source, instance_path)
        return self.default

    def _refusal(self, text_value: str) -> SettingError:
        shown = "the given value (not shown)" if self.secret else repr(text_value)
        return SettingError(f"{self.name} must be {self.parse.valid_values}: {shown} is not")


@dataclass(frozen=True)
class Group:
    """Settings that belong together, under one heading of the documentation."""

    heading: str
    settings: tuple[Setting, ...]


def group(heading: str, *settings: Setting) -> Group:
    """A group, written flat."""
    return Group(heading, settings)
