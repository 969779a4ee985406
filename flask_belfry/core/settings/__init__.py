"""What tables of settings are made of: settings, groups of them, and the kinds of values."""

from flask_belfry.core.settings.setting import Derived, Group, Setting, SettingError, group

__all__ = ["Derived", "Group", "Setting", "SettingError", "group"]
