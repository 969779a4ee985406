"""The base of all packages: errors, settings, logging, commands, and the presentation of values on pages."""
