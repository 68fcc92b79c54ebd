"""`GET /metrics`: what the server has done so far, for Prometheus."""

from __future__ import annotations

from llmlab.serve.errors import PathError
from llmlab.serve.route import Lookup, Query


def _look(query: Query) -> str:
    if query.metrics is None:
        raise PathError("GET /metrics: only a server counts its requests, and with prometheus-client installed")
    return query.metrics()


METRICS = Lookup(
    path="/metrics",
    name="metrics",
    summary="Tell what the server has done",
    description="Counts, histograms and gauges in Prometheus' text format: requests, tokens, latency, time to the "
    "first token, slots and the queue. Where the server has a key, Prometheus sends it as `authorization.credentials`.",
    answer=None,
    media_type="text/plain; version=0.0.4; charset=utf-8",
    look=_look,
)
