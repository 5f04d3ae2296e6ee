"""`python -m missviz` is the command line."""

from missviz.cli import app

app()
