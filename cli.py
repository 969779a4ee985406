"""`python cli.py …` is `flask --app wsgi …`."""

from __future__ import annotations

import os
import sys

from flask.cli import main

if __name__ == "__main__":
    os.environ.setdefault("FLASK_APP", "wsgi")
    sys.argv[0] = "cli.py"
    main()
