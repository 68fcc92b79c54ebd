"""Progress of what takes long: a bar that comes late, and leaves nothing behind."""

from __future__ import annotations

import sys
from typing import Any

#: Seconds of work before a bar appears: what is quicker needs none.
DELAY = 1.5


def progress_bar(*, total: int | None, unit: str, description: str | None = None, scaled: bool = False) -> Any:
    """A tqdm bar for a `with`; `scaled`: 12.3M for 12300000. None appears where nobody watches: a pipe, a log."""
    from tqdm.auto import tqdm

    # None: off unless stderr is a terminal. A notebook's is none, but there the bar is a widget.
    off = False if in_notebook() else None
    unit = unit if scaled else f" {unit}s"
    return tqdm(total=total, unit=unit, unit_scale=scaled, desc=description, delay=DELAY, leave=False, disable=off)


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel, where rich output is shown."""
    # Whoever runs in IPython has imported it: no reason to do it here.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ in ("ZMQInteractiveShell", "Shell")  # the latter is Colab's
