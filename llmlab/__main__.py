"""`python -m llmlab` is the command `llmlab`."""

from llmlab.cli import app

app(prog_name="llmlab")
