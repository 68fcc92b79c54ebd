"""The distribution of whole answers: the answers that were found, and certain bounds for what was not explored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from llmlab.counterfactuals.answered import logits_backend
from llmlab.display.html import Markup, fragment
from llmlab.errors import RequestError, cut, short
from llmlab.protocol.arguments import listed
from llmlab.protocol.backend import Backend, LogitsBackend
from llmlab.results.answer_frames import AnswerFrames, Classes, Event, bounds
from llmlab.search.asked_answers import Found, settings_of
from llmlab.search.divergence import Bounds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.protocol.request import Request
    from llmlab.search.explored import Weighed

__all__ = ["Answers", "found_answers"]

#: How many answers, and how many characters of each, a terminal shows.
_SHOWN, _CHARACTERS = 12, 70
#: Why a search ended, in words.
_WHY = {
    "mass": "the mass was reached",
    "complete": "nothing is left to explore",
    "passes": "stopped at max_passes",
    "rows": "stopped at max_rows",
    "interrupted": "interrupted",
}


@runtime_checkable
class AnswersAsker(Protocol):
    """Where a search is made; a `Lab` is one."""

    backend: Backend
    last_answers: Answers | None  #: what the last search found, also one that was interrupted


class Answers:
    """The answers to a prompt with their exact probabilities; `lab.answers` returns one.

    The answers that were found have exact probabilities. What is left is known as well, so that the probability of any
    event has certain bounds. It can be pickled; a copy that was loaded has no lab, which `at`
    and `begins` need.

    Attributes:
        data: what was found, and what was asked.
    """

    def __init__(self, data: Found, lab: AnswersAsker | None) -> None:
        self.data = data
        self._lab = lab

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "_lab": None}

    @property
    def request(self) -> Request:
        """The request; of several settings, that of the first."""
        return self.data.settings.requests[0]

    @property
    def passes(self) -> int:
        """The passes of the model that the search took, besides reading the prompt. Settings cost none of their own."""
        return self.data.explored.passes

    @property
    def rows(self) -> int:
        """How many next-token distributions were computed in these passes."""
        return len(self.data.explored.nodes)

    @property
    def stopped(self) -> str:
        """Why the search ended: "mass", "complete", "passes", "rows" or "interrupted"."""
        return self.data.explored.why

    @property
    def explored(self) -> float:
        """The probability of the answers that were found, under the only setting."""
        return float(self._only.probability.sum())

    @property
    def unexplored(self) -> float:
        """The probability of all other answers, under the only setting."""
        return self._only.left

    def at(self, **fields: Any) -> Answers:
        """The same answers under other settings of the sampler. The model is not run again.

            found.at(temperature=0.5).probability("yes")
            found.at(temperature=[0.5, 1.0], top_p=[0.9, 1.0]).frame()

        The probabilities are exact again. What another setting makes more likely may not have been found, so that more
        is unexplored than at the settings of the search.

        Args:
            fields: temperature, top_p, top_k, penalties, logit_bias and all others of the sampler; a list of values
                makes one setting of each.

        Raises:
            RequestError: a field is none of the sampler's, or wrong; there is no lab.
        """
        return Answers(self.data.at(self._model, settings_of(self.request, fields)), self._lab)

    # --- frames ------------------------------------------------------------------------------------------------------

    def frame(self) -> pd.DataFrame:
        """One row per setting and answer, the most likely one at the top.

        An answer is a text with its finish reason: "length" where it was cut off at max_tokens. Columns: the varied
        fields, rank (from 1), text, finish_reason, probability (of the token sequences that were found with this text),
        high (that plus all that is unexplored, which other spellings of it could have), logprob, spellings (how many
        sequences), tokens (of the most likely one). Natural logs.
        """
        return self._frames.answers()

    def summary_frame(self) -> pd.DataFrame:
        """One row per setting.

        Columns: the varied fields, answers (how many different ones were found), explored (their probability),
        unexplored, cut_off (the probability of those found that reached max_tokens).
        """
        return self._frames.summary()

    def probability(self, event: Event | None = None, *, finish_reason: str | None = None) -> Bounds:
        """Returns certain bounds of the probability that an answer is in an event, (low, high), under the only setting.

            found.probability(r"(?i)^yes\\b")
            found.probability({"Yes", "Yes."})
            found.probability(lambda text: len(text) > 20)

        Args:
            event: a regular expression that is searched for in the text, or a function of the text, or a collection of
                whole texts. By default all answers.
            finish_reason: only answers that end so: "stop", "length" or "tool_calls".

        Raises:
            RequestError: it is none of these, or there are several settings.
        """
        return bounds(self._only, self._frames.inside(event, finish_reason=finish_reason))

    def probability_frame(self, classes: Classes) -> pd.DataFrame:
        """One row per setting and class of answers: certain bounds of its probability.

        Columns: the varied fields, class, low, high.

        Args:
            classes: an event as in `probability`, or several by their names.

        Raises:
            RequestError: it is something else.
        """
        return self._frames.probability(classes)

    def begins(self, texts: str | Collection[str]) -> Bounds:
        """Returns certain bounds of the probability that an answer begins with a text, under the only setting.

            found.begins(["Yes", "yes"])

        They are closer than those of a regular expression: what is unexplored counts where its beginning is known, so
        that long answers need not be explored to their ends.

        Args:
            texts: a text, or several.

        Raises:
            RequestError: it is no text, or an empty one; there are several settings; there is no lab.
        """
        _ = self._only
        return self._begins(texts)[0]

    def begins_frame(self, classes: Mapping[str, str | Collection[str]]) -> pd.DataFrame:
        """One row per setting and class of beginnings: certain bounds of its probability, as in `begins`.

        Columns: the varied fields, class, low, high.

        Args:
            classes: texts by the name of their class.

        Raises:
            RequestError: as in `begins`.
        """
        if not isinstance(classes, Mapping) or not classes:
            raise RequestError(
                f"classes must map names to texts, such as {{'yes': ['Yes', 'yes']}}, got {short(classes)}",
                param="classes",
            )
        return self._frames.begins({str(name): self._begins(texts) for name, texts in classes.items()})

    def bounds_frame(self, classes: Classes) -> pd.DataFrame:
        """One row per setting, class and pass of the model: how the bounds close in.

        Columns: the varied fields, class, passes, low, high.

        Args:
            classes: as in `probability_frame`.

        Raises:
            RequestError: it is something else.
        """
        return self._frames.bounds(classes)

    # --- beside a grammar: the model's own distribution ---------------------------------------------------------------

    def conditional_frame(self) -> pd.DataFrame:
        """One row per setting and answer that fits the grammar: its probability with it, and what the model would say.

        Masks at every step make another distribution than the model's own given that the answer fits. Columns: the
        varied fields, rank, text, finish_reason, probability (with masks), free_probability (without a grammar),
        conditional_low, conditional_high (the model's own given that the answer fits, with certain bounds), weight_low
        and weight_high (that over `probability`: the importance weight of an answer drawn with masks).

        Raises:
            RequestError: the request has no grammar.
        """
        return self._frames.conditional()

    def distance_frame(self) -> pd.DataFrame:
        """One row per setting: how far what the grammar makes the model say is from the model's own fitting answers.

        Columns: the varied fields, fits_low and fits_high (the probability that the model's answer fits without a
        grammar), total_variation_low and _high (between the distribution with masks and the model's own given that the
        answer fits), kl_low and kl_high (from the model's own to that with masks, in nats; without an upper bound where
        a truncation depends on the masks). All bounds are certain.

        Raises:
            RequestError: the request has no grammar.

        Source: Park et al. 2024, "Grammar-Aligned Decoding", arXiv:2405.21047.
        """
        return self._frames.distance()

    # --- plots -------------------------------------------------------------------------------------------------------

    def plot(self, *, answers: int = 12, ax: Axes | None = None) -> Axes:
        """Plots the most likely answers as bars, with the rest and what is unexplored, under the only setting.

        Args:
            answers: how many.
            ax: where to draw; by default a new figure.
        """
        from llmlab.plots.answers import plot_answers

        _ = self._only
        return plot_answers(self.frame(), unexplored=self.unexplored, answers=answers, heading=self.summary, ax=ax)

    def plot_bounds(self, classes: Classes, *, ax: Axes | None = None) -> Axes:
        """Plots how the bounds of classes close in with the passes of the model, under the only setting.

        Args:
            classes: as in `probability_frame`.
            ax: where to draw; by default a new figure.
        """
        from llmlab.plots.answers import plot_bounds

        _ = self._only
        return plot_bounds(self.bounds_frame(classes), x="passes", ax=ax)

    def plot_probability(self, classes: Classes, *, x: str | None = None, ax: Axes | None = None) -> Axes:
        """Plots the bounds of classes along a field that varies.

        Args:
            classes: as in `probability_frame`.
            x: the field; by default the only one that varies.
            ax: where to draw; by default a new figure.

        Raises:
            RequestError: no field varies, or several, or not this one.
        """
        from llmlab.plots.answers import plot_bounds

        axes = list(self.data.settings.axes)
        if len(axes) != 1 or (x is not None and x not in axes):
            raise RequestError(
                f"x = {short(x)}: one field is to vary, and here {', '.join(axes) or 'none'} does; at(temperature=[…]) "
                "makes settings of one field",
                param="x",
            )
        return plot_bounds(self.probability_frame(classes), x=axes[0], ax=ax)

    # --- display -----------------------------------------------------------------------------------------------------

    @property
    def summary(self) -> str:
        """What was found, and what it took."""
        count = len(self.data.settings.requests)
        left = max(weighed.left for weighed in self.data.weighed[:count])
        some = f"{len(self):,} answer{'s' if len(self) != 1 else ''}" + (
            f" under {count} settings" if count > 1 else ""
        )
        rest = f"{'at most ' if count > 1 else ''}{left:.2g} unexplored"
        passes = f"{self.passes:,} pass{'es' if self.passes != 1 else ''}"
        return f"{some}, {rest}, {passes} of the model ({_WHY[self.stopped]})"

    def __len__(self) -> int:
        """How many different answers were found."""
        return len(self._frames.classes)

    def __repr__(self) -> str:
        if self._several:
            return f"{self.summary}\n{self.summary_frame()}"
        frame = self.frame()
        lines = [
            f"{row.rank:3d}  {row.probability:8.5f}  {cut(repr(row.text), most=_CHARACTERS)}"
            + ("" if row.finish_reason == "stop" else f"  ({row.finish_reason})")
            for row in frame.head(_SHOWN).itertuples()
        ]
        more = [f"… and {len(frame) - _SHOWN:,} more: frame() has them"] if len(frame) > _SHOWN else []
        return "\n".join([self.summary, *lines, *more])

    def _repr_html_(self) -> str:
        shown = self.summary_frame() if self._several else self.frame().head(_SHOWN)
        return str(fragment("<div>{}</div>{}", self.summary, Markup(shown.to_html(index=False))))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _begins(self, texts: str | Collection[str]) -> list[Bounds]:
        """Under each setting."""
        given = [texts] if isinstance(texts, str) else listed("texts", texts, of="texts")
        if not given or not all(isinstance(text, str) and text for text in given):
            raise RequestError(f"texts must be texts that are not empty, got {short(texts)}", param="texts")
        return self.data.begins(self._model, given)

    @property
    def _model(self) -> LogitsBackend:
        if self._lab is None:
            raise RequestError("these answers were loaded and have no lab: ask lab.answers again")
        return logits_backend(self._lab.backend)

    @cached_property
    def _frames(self) -> AnswerFrames:
        return AnswerFrames(self.data)

    @property
    def _several(self) -> bool:
        return len(self.data.settings.requests) > 1

    @property
    def _only(self) -> Weighed:
        if self._several:
            raise RequestError(
                f"there are {len(self.data.settings.requests)} settings: take one with at(…), or a frame of all, such "
                "as probability_frame() and summary_frame()"
            )
        return self.data.weighed[0]


def found_answers(lab: AnswersAsker, search: Callable[[Callable[[Found], None]], None]) -> Answers:
    """Runs a search; what it finds becomes the lab's `last_answers`, also where it is interrupted.

    Args:
        lab: where the search is made.
        search: the search, which calls what it is given with what it found.
    """

    def keep(found: Found) -> None:
        lab.last_answers = Answers(found, lab)

    before = lab.last_answers
    try:
        search(keep)
    except BaseException as error:
        if lab.last_answers is not before:
            error.add_note("What was found until then is in `lab.last_answers`, with its bounds.")
        raise
    assert lab.last_answers is not None
    return lab.last_answers
