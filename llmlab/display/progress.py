"""Progress bars that appear only where work takes long, and disappear when it ends."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

#: Seconds of work before a bar appears; quicker work needs none.
DELAY = 1.5


def progress_bar(*, total: int | None, unit: str, description: str | None = None, scaled: bool = False) -> Any:
    """A tqdm bar, to be used in a `with`. It does not appear where nobody watches, such as in a pipe or a log.

    Args:
        total: the number of steps; None where it is not known.
        unit: what a step is, in the singular.
        description: the text before the bar.
        scaled: whether to write 12300000 as 12.3M.
    """
    from tqdm.auto import tqdm

    # None: off unless stderr is a terminal. In a notebook it is not one, and the bar is a widget.
    watched = in_notebook()
    kind = _vanishing() if watched else tqdm
    unit = unit if scaled else f" {unit}s"
    return kind(
        total=total, unit=unit, unit_scale=scaled, desc=description, delay=DELAY, leave=False,
        disable=False if watched else None,
    )  # fmt: skip


class Wait:
    """A progress line for the reader of a stream, shown while no token has arrived.

    `tell` shows or changes the line; `over` removes it.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def tell(self, what: str) -> None:
        """Say what is waited for. "waiting" (for the model's own tokens) shows no line."""
        if what == "waiting" or not (in_notebook() or sys.stderr.isatty()):
            return
        if self._bar is None:
            self._bar = progress_bar(total=None, unit="token")
        self._bar.set_description_str(what)

    def over(self) -> None:
        """Remove the line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel, where rich output is shown."""
    # A process that runs in IPython has imported it already, so there is no need to import it here.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ in ("ZMQInteractiveShell", "Shell")  # the latter is Colab's


@cache
def _vanishing() -> type:
    """A class of notebook bars that disappear when their work ends or fails, from saved notebooks too.

    tqdm's own bar stays, in red, where an answer ends before its limit or is interrupted. A hidden bar is still an
    output of the cell, which a page without widgets shows as a line of text.
    """
    from IPython.display import display
    from tqdm.notebook import tqdm as notebook_bar

    class Bar(notebook_bar):
        displayed: bool
        shown: Any = None

        def display(self, *args: Any, check_delay: bool = True, **options: Any) -> None:
            # tqdm's own bar would appear at once when its description is set.
            if check_delay and not self.displayed and self._time() - self.start_t >= self.delay:
                self.shown = display(self.container, display_id=True)
                self.displayed = True
            super().display(*args, check_delay=False, **options)

        def close(self) -> None:
            if not self.disable:
                # First the output goes that refers to the bar: a page may draw it at any time.
                if self.shown is not None:
                    self.shown.update({"text/plain": ""}, raw=True)
                super().close()
                self.container.close()

    return Bar
