"""What the server has done so far, as Prometheus reads it (https://prometheus.io/docs/instrumenting)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.serve.admission import Admission
from llmlab.serve.routes import ROUTES

#: Upper bounds of the histograms, in seconds.
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

#: The path of requests to paths that do not exist: a client must not be able to add names without end.
_OTHER = "other"


class Metrics:
    """Counts, histograms and gauges of one application.

    Args:
        admission: the requests in the server.
        slots: how many answers are generated at once.
    """

    def __init__(self, admission: Admission, *, slots: int) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = registry = CollectorRegistry()

        def gauge(name: str, text: str, value: Any) -> None:
            Gauge(f"llmlab_{name}", text, registry=registry).set_function(value)

        gauge("slots", "Answers that are generated at once.", lambda: slots)
        gauge("places", "Answers that are generated at once or may wait.", lambda: admission.places)
        gauge("requests_inside", "Requests that are being answered or wait.", lambda: admission.inside)
        gauge("answers_running", "Answers in a slot.", lambda: min(admission.answers, slots))
        gauge("answers_waiting", "Answers that wait for a slot.", lambda: max(admission.answers - slots, 0))
        self._requests = Counter(
            "llmlab_requests", "Requests that were answered, by path and status.", ("path", "status"), registry=registry
        )
        self._prompt = Counter("llmlab_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._generated = Counter("llmlab_completion_tokens", "Generated tokens.", registry=registry)
        self._finished = Counter("llmlab_answers", "Finished answers.", ("finish_reason",), registry=registry)
        self._left = Counter("llmlab_clients_left", "Requests whose client left before the end.", registry=registry)
        self._seconds = Histogram(
            "llmlab_request_seconds",
            "From a request's arrival to its end.",
            ("path",),
            registry=registry,
            buckets=_SECONDS,
        )
        self._first = Histogram(
            "llmlab_first_token_seconds",
            "From a request's arrival to its first token, the wait for a slot included.",
            registry=registry,
            buckets=_SECONDS,
        )

    def count(self, path: str, *, status: int, seconds: float, facts: Mapping[str, Any]) -> None:
        """Count a request that is over; `facts` are those of its log line."""
        known = next((route.path for route in ROUTES if route.match(path) is not None), _OTHER)
        self._requests.labels(known, str(status)).inc()
        self._seconds.labels(known).observe(seconds)
        self._prompt.inc(facts.get("prompt_tokens", 0))
        self._generated.inc(facts.get("completion_tokens", 0))
        for reason in facts.get("finish_reasons", ()):
            self._finished.labels(reason).inc()
        if facts.get("left"):
            self._left.inc()
        if "first_token_ms" in facts:
            self._first.observe(facts["first_token_ms"] / 1e3)

    def text(self) -> str:
        """Returns all of it in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry).decode()
