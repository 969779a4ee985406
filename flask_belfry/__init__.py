"""Belfry: a transactional job system for Flask. Imports nothing of the application that uses it."""

import sys

if not {"rich", "structlog"} & sys.modules.keys():
    # structlog imports rich wherever it is installed, for tracebacks that Belfry does not print: 5 MB in each process.
    sys.modules["rich"] = None  # pyright: ignore[reportArgumentType]
    import structlog.dev  # noqa: F401

    del sys.modules["rich"]
