"""What every part stands on: errors, settings, logging, commands, how values look on a page."""
