"""The composition root of commands and workers: `python cli.py …` has the commands of `flask --app wsgi …`.

It imports no pages, and of the commands only the one that runs. The program `flask` imports all commands that installed
packages add to it, with Alembic and Flask-Security, before it looks for the application.
"""

from __future__ import annotations

import gc

from flask import Flask
from flask.cli import ScriptInfo, shell_command


def create() -> Flask:
    """Make the application without its pages."""
    # A collection finds no garbage among modules, and all of them took a sixth of the start.
    gc.disable()
    import jobs
    from app import create_app

    app = create_app(with_web=False)
    jobs.init_app(app)
    # Without it the first collection of each forked worker would copy what it shares with its parent: 10 MB.
    gc.freeze()
    gc.enable()
    return app


def main(app: Flask) -> None:
    """Run the command that the command line names, and end the process."""
    app.cli.add_command(shell_command)
    app.cli.main(prog_name="cli.py", obj=ScriptInfo(create_app=lambda: app))


if __name__ == "__main__":
    main(create())
