"""The web core of the desk, which all pages and endpoints share."""
