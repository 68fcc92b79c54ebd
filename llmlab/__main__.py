"""`python -m llmlab` is the command `llmlab`."""

from llmlab.cli.app import app

app(prog_name="llmlab")
