"""Progress of what takes long: a bar that comes late, and leaves nothing behind."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

#: Seconds of work before a bar appears: what is quicker needs none.
DELAY = 1.5


def progress_bar(*, total: int | None, unit: str, description: str | None = None, scaled: bool = False) -> Any:
    """A tqdm bar for a `with`; `scaled`: 12.3M for 12300000. None appears where nobody watches: a pipe, a log."""
    from tqdm.auto import tqdm

    # None: off unless stderr is a terminal. A notebook's is none, but there the bar is a widget.
    watched = in_notebook()
    kind = _vanishing() if watched else tqdm
    unit = unit if scaled else f" {unit}s"
    return kind(
        total=total, unit=unit, unit_scale=scaled, desc=description, delay=DELAY, leave=False,
        disable=False if watched else None,
    )  # fmt: skip


class Wait:
    """A progress line for who reads an answer as it is made: there while something else than the answer is waited for.

    `tell` says what for, as often as one likes; `over` takes the line away, for something has come.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def tell(self, what: str) -> None:
        """What is waited for; "waiting", for the model's own words, is worth no line, nor is what nobody watches."""
        if what == "waiting" or not (in_notebook() or sys.stderr.isatty()):
            return
        if self._bar is None:
            self._bar = progress_bar(total=None, unit="token")
        self._bar.set_description_str(what)

    def over(self) -> None:
        """Nothing any more."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel, where rich output is shown."""
    # Whoever runs in IPython has imported it: no reason to do it here.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ in ("ZMQInteractiveShell", "Shell")  # the latter is Colab's


@cache
def _vanishing() -> type:
    """A notebook's bar that goes when its work ends, however that ends, also from a saved page.

    tqdm's own stays, in red, where an answer ends before its limit or is interrupted; and one that is hidden is still
    an output of the cell, which a page without widgets shows as a line of text.
    """
    from IPython.display import display
    from tqdm.notebook import tqdm as notebook_bar

    class Bar(notebook_bar):
        displayed: bool
        shown: Any = None

        def display(self, *args: Any, check_delay: bool = True, **options: Any) -> None:
            # tqdm's own comes at once where its description is set.
            if check_delay and not self.displayed and self._time() - self.start_t >= self.delay:
                self.shown = display(self.container, display_id=True)
                self.displayed = True
            super().display(*args, check_delay=False, **options)

        def close(self) -> None:
            if not self.disable:
                super().close()
                self.container.close()
                if self.shown is not None:
                    self.shown.update({"text/plain": ""}, raw=True)

    return Bar
