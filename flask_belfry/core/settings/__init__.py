"""The classes from which tables of settings are built."""

from flask_belfry.core.settings.setting import Derived, Group, Setting, SettingError, group

__all__ = ["Derived", "Group", "Setting", "SettingError", "group"]
