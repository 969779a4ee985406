"""The core of the desk's web code: what all pages and endpoints have in common."""
