"""Plots of completions, distributions, sweeps and checks: each takes a frame or arrays, and draws on given axes.

A result's own methods (`result.plot_logprobs()`, `sweep.plot()`) call these functions; call them directly to plot a
frame that you have filtered, changed or loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmlab.plots.answers import plot_answers, plot_bounds
    from llmlab.plots.certainty import plot_rejection, plot_reliability
    from llmlab.plots.check import plot_calibration, plot_check
    from llmlab.plots.comparison import plot_comparison, plot_comparison_tokens
    from llmlab.plots.completion import (
        Alternatives,
        alternatives,
        plot_entropy,
        plot_logprobs,
        plot_surprisal,
        plot_top_logprobs,
    )
    from llmlab.plots.counterfactual import plot_diff, plot_orders, plot_sensitivity, plot_tree
    from llmlab.plots.distribution import plot_penalties, plot_stages, plot_temperatures, plot_truncation
    from llmlab.plots.diversity import plot_diversity
    from llmlab.plots.drafts import plot_draft
    from llmlab.plots.search import plot_search
    from llmlab.plots.sweep import plot_heatmap, plot_lines

#: The file that each public name comes from; it is imported when the name is first used.
_PLACES = {
    "Alternatives": "completion",
    "alternatives": "completion",
    "plot_top_logprobs": "completion",
    "plot_answers": "answers",
    "plot_bounds": "answers",
    "plot_calibration": "check",
    "plot_entropy": "completion",
    "plot_check": "check",
    "plot_comparison": "comparison",
    "plot_comparison_tokens": "comparison",
    "plot_diff": "counterfactual",
    "plot_sensitivity": "counterfactual",
    "plot_diversity": "diversity",
    "plot_draft": "drafts",
    "plot_heatmap": "sweep",
    "plot_lines": "sweep",
    "plot_logprobs": "completion",
    "plot_orders": "counterfactual",
    "plot_penalties": "distribution",
    "plot_rejection": "certainty",
    "plot_reliability": "certainty",
    "plot_search": "search",
    "plot_stages": "distribution",
    "plot_surprisal": "completion",
    "plot_temperatures": "distribution",
    "plot_tree": "counterfactual",
    "plot_truncation": "distribution",
}
__all__ = [
    "Alternatives",
    "alternatives",
    "plot_top_logprobs",
    "plot_answers",
    "plot_bounds",
    "plot_calibration",
    "plot_entropy",
    "plot_check",
    "plot_comparison",
    "plot_comparison_tokens",
    "plot_diff",
    "plot_sensitivity",
    "plot_diversity",
    "plot_draft",
    "plot_heatmap",
    "plot_lines",
    "plot_logprobs",
    "plot_orders",
    "plot_penalties",
    "plot_rejection",
    "plot_reliability",
    "plot_search",
    "plot_stages",
    "plot_surprisal",
    "plot_temperatures",
    "plot_tree",
    "plot_truncation",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
