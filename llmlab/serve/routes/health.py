"""`GET /health`."""

from __future__ import annotations

from llmlab.serve.answers import Health
from llmlab.serve.route import Lookup

HEALTH = Lookup(
    path="/health",
    name="health",
    summary="Tell whether the server takes requests",
    answer=Health,
    is_open=True,
    look=lambda query: {"status": "ok", "model": query.backend.name, "requests": query.running},
)
