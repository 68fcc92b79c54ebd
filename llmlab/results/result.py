"""A result: the answer to one request, and the questions that can be asked about it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from llmlab.errors import RequestError, short
from llmlab.protocol.arguments import OrderLike, check_lab, order_name
from llmlab.protocol.backend import Backend, Stream
from llmlab.protocol.completion import Completion
from llmlab.protocol.signatures import STREAMING, shows_fields
from llmlab.results.answer import Answer
from llmlab.results.position import Position, position_of
from llmlab.results.reading import read

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.counterfactuals.diff import Diff
    from llmlab.counterfactuals.sensitivity import Sensitivity
    from llmlab.counterfactuals.tree import Tree
    from llmlab.results.next_token import NextToken
    from llmlab.results.next_tokens import NextTokens
    from llmlab.text.token_names import Token


@runtime_checkable
class Asker(Protocol):
    """Where a result was asked, and can be asked again; a `Lab` is one. A result knows no more of it than this."""

    backend: Backend  #: the model
    last: Result | None  #: the latest result; results that this one makes are put here


class Result(Answer):
    """The answer to one request: its text, its tokens with their probabilities, and what can be asked about it.

    A notebook shows the tokens coloured by probability, a terminal the text. `result[0]` is the first choice,
    `len(result)` the number of choices, and iterating yields them.

    A result is immutable: `rerun` and `branch` return new ones, whose `parent` this is. It can be pickled and saved; a
    copy that was loaded has no `lab`, and methods that ask the model need one.

    Attributes:
        data: the completion that the backend returned; everything else is read from it.

    Args:
        completion: the completion.
        lab: where it was asked.
        parent: the result that this one was made from, by `rerun` or `branch`.
    """

    __slots__ = ("_lab", "_parent")

    _lab: Asker | None
    _parent: Result | None

    def __init__(self, completion: Completion, lab: Asker | None = None, parent: Result | None = None) -> None:
        super().__init__(completion)
        object.__setattr__(self, "_lab", lab)
        object.__setattr__(self, "_parent", parent)

    def __reduce__(self) -> tuple[Any, ...]:
        return Result, (self.data, None, self._parent)

    @property
    def lab(self) -> Asker | None:
        """The lab where this was asked; None for a result that was loaded without one."""
        return self._lab

    @property
    def parent(self) -> Result | None:
        """The result that this one was made from, by `rerun` or `branch`; None for a first answer."""
        return self._parent

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the result to a .parquet file, one row per choice; returns its path. `Result.load` reads it.

        The results that it was made from (`parent`, that one's parent, and so on) are written too. The column
        `completion` is 0 in the rows of this result, 1 in its parent's, and so on.
        """
        from llmlab.frames.parquet import save

        line: list[Result] = []
        ancestor: Result | None = self
        while ancestor is not None:
            line.append(ancestor)
            ancestor = ancestor.parent
        return save(path, [one.data for one in line], kind="result")

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, lab: Asker | None = None) -> Result:
        """Returns the result that `save` wrote, with its parents.

        Args:
            path: the file.
            lab: a lab with the same model, so that the result can be rerun, branched and so on.

        Raises:
            FileNotFoundError: there is no such file.
            RequestError: it does not hold a result.
        """
        from llmlab.frames.parquet import load

        check_lab(lab)
        result: Result | None = None
        for completion in reversed(load(path, kind="result").completions):
            result = cls(completion, lab, result)
        assert result is not None
        return result

    # --- questions to the model ---

    def next_token(self, position: Position, *, choice: int = 0) -> NextToken:
        """The exact next-token distribution from which the token at a position was drawn.

        It is the object that `lab.next_token` returns, for this step: penalties count the tokens before it, and
        `.drawn` is the token that was drawn. The model computes the step again in the same way, so that the
        distribution is the one that was drawn from.

        Args:
            position: the position, where a negative one counts from the end; or the text of the token there, such as
                " but", if the choice has it once.
            choice: which choice.

        Raises:
            IndexError: there is no such position or choice.
            RequestError: the result has no lab, the backend gives no logits, or other weights made the result.
        """
        from llmlab.results.next_token_at import next_token_at

        at, one = self._at(position, choice), self._choice(choice).index
        return next_token_at(self.data, self._asker().backend, position=at, choice=one)

    def next_tokens(self, *, choice: int = 0) -> NextTokens:
        """The exact next-token distributions at all positions of a choice, from one pass of the model.

            r.next_tokens().entropies           # one number per token
            r.next_tokens()[3].plot()           # the distribution at position 3

        The pass reads all tokens at once (teacher forcing), where `next_token` repeats the decoding steps. So the
        logits agree with those that the tokens were drawn from to 1e-4 in float32, not to the bit. All of them are held
        in memory, float32 [T, V].

        Args:
            choice: which choice.

        Raises:
            IndexError: there is no such choice.
            RequestError: as in `next_token`.
        """
        from llmlab.results.next_tokens import next_tokens

        return next_tokens(self.data, self._asker().backend, choice=self._choice(choice).index)

    def kept_frame(self, *, choice: int = 0) -> pd.DataFrame:
        """The tokens that could be drawn at each position of a choice, by id; see `NextTokens.kept_frame`.

        An endpoint is to be asked for them, with `kept_logprobs`. Raises what `next_tokens` does.
        """
        from llmlab.results.next_tokens import kept_frame_of

        return kept_frame_of(self.data, self._asker().backend, choice=self._choice(choice))

    def prompt_logprobs_frame(self) -> pd.DataFrame:
        """How likely each token of the prompt was after those before it: one row per token.

        Columns: position, token, token_id, bytes, logprob (raw), rank, entropy, margin; NaN for the first token.

        Raises:
            RequestError: the result has no lab, or the backend does not take token ids.
        """
        from llmlab.counterfactuals.score import prompt_frame

        return prompt_frame(self, self._asker().backend)

    @shows_fields(without=STREAMING, unchanged=True)
    def rerun(self, *, order: OrderLike | None = None, **changes: Any) -> Result:
        """Runs the same request with the same noise under other parameters; returns a result whose `parent` this is.

            r.rerun(temperature=0.3).diff()

        The noise of a token depends on the seed, the choice and the position alone (Gumbel-max), so every difference is
        an effect of the changed parameters. Without a change the answer is the same (bit for bit where the batch width
        is pinned by `load(slots=...)`). Tokens that were given are given again.

        Args:
            order: the order of the sampler's stages; by default this result's.
            changes: fields of the request; None sets one back to its default.

        Raises:
            RequestError: a field is unknown or out of range; the result has no lab.
        """
        from llmlab.counterfactuals.rerun import rerun

        key = None if order is None else order_name(order)
        return self._result(rerun(self, self._asker().backend, order=key, changes=changes))

    @shows_fields(without=STREAMING, unchanged=True)
    def branch(
        self,
        position: Position,
        token: Token | None = None,
        *,
        choice: int = 0,
        order: OrderLike | None = None,
        **changes: Any,
    ) -> Result:
        """Continues a choice from any position, with another token there; returns a result whose `parent` this is.

            r.branch(5, " but")
            r.branch(" and", " but")            # where the answer has " and"

        The tokens before the position are kept, and later positions meet the noise they would have met. The new result
        has all of them; `branched[0].given` is the number of tokens that were kept or forced, and their logprobs are
        those under its own parameters. A stop sequence inside the kept tokens does not end the answer; one that `token`
        completes does.

        Args:
            position: from 0; one past the last token continues after it; a negative one counts from the end; or a text,
                as in `next_token`.
            token: a token id, a text or bytes (of one or several tokens), or a control token's name; by default a token
                is drawn.
            choice: which choice of this result.
            order: as in `rerun`.
            changes: as in `rerun`. `max_tokens` counts the kept tokens too; `n` returns that many continuations, each
                with its own noise.

        Raises:
            IndexError: there is no such position or choice.
            RequestError: no token has this text; the request's grammar forbids it there; the position is after the end
                token; also as in `rerun`.
        """
        from llmlab.counterfactuals.branch import branch

        backend, one, at = self._asker().backend, self._choice(choice), self._at(position, choice)
        key = None if order is None else order_name(order)
        return self._result(branch(self, backend, one, at, token, order=key, changes=changes))

    @shows_fields(without=STREAMING, unchanged=True)
    def tree(
        self,
        depth: int = 3,
        width: int = 3,
        *,
        choice: int = 0,
        position: Position = 0,
        order: OrderLike | None = None,
        **changes: Any,
    ) -> Tree:
        """Likely continuations from a position on: the `width` best tokens, the best after each of them, and so on.

        Each level is one batch. The best tokens are those of highest raw probability, as in `top_logprobs_frame` (under
        a grammar: among those that it allows). Their sampling probability is listed beside it.

        Args:
            depth: the number of levels.
            width: the number of tokens after each token, at most 20.
            choice: the choice whose tokens come before the tree.
            position: the position of the first level, as in `next_token`; 0 is the beginning of the answer.
            order: as in `rerun`.
            changes: as in `rerun`; they change the sampling probabilities.

        Raises:
            IndexError: there is no such position or choice.
            RequestError: the tree would be too large; also as in `branch`.
        """
        from llmlab.counterfactuals.tree import tree

        backend, one, at = self._asker().backend, self._choice(choice), self._at(position, choice)
        key = None if order is None else order_name(order)
        return tree(self, backend, one, depth=depth, width=width, position=at, order=key, changes=changes)

    def sensitivity(self, **moved: Any) -> Sensitivity:
        """Reruns the request with several values of one parameter, and finds where each choice first differs.

            r.sensitivity(temperature=np.linspace(0, 2, 21)).plot()

        Args:
            moved: one parameter, or `order`, with a list of values.

        Raises:
            RequestError: not exactly one parameter with a list of values; also as in `rerun`.
        """
        from llmlab.counterfactuals.sensitivity import Sensitivity, start_each

        asker = self._asker()
        parameter, values, streams = start_each(self, asker.backend, moved)
        results = read_all(asker, streams, parent=self)
        return Sensitivity(self, parameter=parameter, values=values, results=results)

    # --- comparison and plots ---

    def diff(self, other: Result | None = None) -> Diff:
        """Compares this result with the one it was made from: where they first differ, and which parameter caused it.

        Args:
            other: another result to compare with; by default `parent`.

        Raises:
            RequestError: there is no result to compare with.
        """
        from llmlab.counterfactuals.diff import Diff

        before = self.parent if other is None else other
        if before is None:
            raise RequestError("this result was made from no other: give the one to compare it with, r.diff(other)")
        if not isinstance(before, Result):
            raise RequestError(f"other must be a Result, got {short(before)}", param="other")
        return Diff(before, self, backend=None if self._lab is None else self._lab.backend)

    def plot_logprobs(self, *, choice: int = 0, ax: Axes | None = None) -> Axes:
        """Plots how likely each token of a choice was; see `llmlab.plots.completion.plot_logprobs`."""
        from llmlab.plots.completion import plot_logprobs

        return plot_logprobs(self.logprobs_frame(), choice=self._choice(choice).index, ax=ax)

    def plot_entropy(self, *, choice: int = 0, ax: Axes | None = None) -> Axes:
        """Plots how uncertain the model was along a choice; see `llmlab.plots.completion.plot_entropy`."""
        from llmlab.plots.completion import plot_entropy

        return plot_entropy(self.logprobs_frame(), choice=self._choice(choice).index, ax=ax)

    def plot_surprisal(self, *, choice: int = 0, ax: Axes | None = None) -> Axes:
        """Plots how surprising each token of a choice was; see `llmlab.plots.completion.plot_surprisal`."""
        from llmlab.plots.completion import plot_surprisal

        return plot_surprisal(self.surprisal_frame(), choice=self._choice(choice).index, ax=ax)

    def plot_draft(self, *, ax: Axes | None = None) -> Axes:
        """Plots the tokens of each choice against the passes of the model; see `llmlab.plots.drafts.plot_draft`."""
        from llmlab.plots.drafts import plot_draft

        return plot_draft(self.draft_frame(), ax=ax)

    def plot_top_logprobs(self, position: Position, *, choice: int = 0, top: int = 10, ax: Axes | None = None) -> Axes:
        """Plots the most likely tokens at a position; see `llmlab.plots.completion.plot_top_logprobs`.

        Args:
            position: as in `next_token`.
            choice: which choice.
            top: the number of tokens; at most the `top_logprobs` that were recorded.
            ax: where to draw; by default a new figure.

        Raises:
            IndexError: there is no such position or choice.
        """
        from llmlab.plots.completion import alternatives, plot_top_logprobs

        one, at, names = self._choice(choice), self._at(position, choice), self.control_tokens
        return plot_top_logprobs(alternatives(one, at, top=top, names=names), ax=ax)

    def _at(self, position: Position, choice: int) -> int:
        """A position of a choice as a number; a text is looked up."""
        return position_of(position, self._choice(choice), names=self.control_tokens)

    # --- asking again ---

    def _asker(self) -> Asker:
        return asker_of(self)

    def _result(self, found: Completion | Stream) -> Result:
        """The result of what was asked, whose parent this is; a stream is read to its end."""
        made = partial(keep, self._asker(), parent=self)
        return made(found) if isinstance(found, Completion) else read(found, made)


def asker_of(result: Result) -> Asker:
    """Where a result was asked.

    Raises:
        RequestError: the result came from a file or a pickle, and has no lab.
    """
    if result.lab is None:
        raise RequestError(
            "this result was loaded without a lab and has no lab to ask: Result.load(path, lab=lab) gives it one"
        )
    return result.lab


def keep(lab: Asker, completion: Completion, *, parent: Result | None = None) -> Result:
    """The result of a completion; it becomes the lab's `last`."""
    lab.last = Result(completion, lab, parent)
    return lab.last


def read_all(lab: Asker, sources: Sequence[Stream], *, parent: Result) -> list[Result]:
    """Reads streams that run at the same time, each to its end; an interrupt or an error closes them all."""
    try:
        return [read(source, partial(keep, lab, parent=parent)) for source in sources]
    except BaseException:
        for source in sources:
            source.close()
        raise
