"""What the table in app/config.py is made of: kinds of values, and defaults that are computed."""

from app.settings.defaults import embedded_broker_socket
from app.settings.setting import Derived, Group, Setting, SettingError, group

__all__ = ["Derived", "Group", "Setting", "SettingError", "embedded_broker_socket", "group"]
