"""An empty figure to draw several plots on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(*, width: float, height: float) -> Figure:
    """An empty figure, in inches, for a file: it needs no display, and pyplot does not keep it in memory."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
