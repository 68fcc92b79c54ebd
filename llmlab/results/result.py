"""A result: what a chat answered, and what more can be asked about it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from llmlab.errors import RequestError, short
from llmlab.frames.parquet import save
from llmlab.protocol.arguments import check_lab
from llmlab.protocol.backend import Backend
from llmlab.protocol.backend import Stream as Source
from llmlab.protocol.completion import Completion
from llmlab.protocol.signatures import STREAMING, shows_fields
from llmlab.results.answer import Answer

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.counterfactuals.diff import Diff
    from llmlab.counterfactuals.divergences import Divergences
    from llmlab.counterfactuals.tree import Tree
    from llmlab.lab.lab import Lab
    from llmlab.protocol.backend import Stream
    from llmlab.results.next_token import NextToken
    from llmlab.text.token_names import Token


@runtime_checkable
class Asker(Protocol):
    """Who can be asked again; a `Lab` is one. A result knows no more of it than this."""

    backend: Backend

    def read(self, source: Source, *, parent: Result | None = None) -> Result:
        """Waits for a backend's stream and returns the result of it."""

    def keep(self, completion: Completion, *, parent: Result | None = None) -> Result:
        """Returns the result of a completion that is there already."""


class Result(Answer):
    """The answer to one request, with what a lab can make of it: immutable, and picklable (a copy has no `lab`).

    A notebook shows it as tokens coloured by probability, a terminal as text. `len(result)` is the number of choices.

    Args:
        completion: what the backend answered; every figure is read from it.
        lab: where it was asked.
        parent: the result that this one was made from, by `rerun` or `branch`.
    """

    __slots__ = ("_lab", "_parent")

    _lab: Lab | None
    _parent: Result | None

    def __init__(self, completion: Completion, lab: Asker | None = None, parent: Result | None = None) -> None:
        super().__init__(completion)
        object.__setattr__(self, "_lab", lab)
        object.__setattr__(self, "_parent", parent)

    def __reduce__(self) -> tuple[Any, ...]:
        return Result, (self._completion, None, self._parent)

    @property
    def lab(self) -> Lab | None:
        """Where it was asked; None where it was loaded without one."""
        return self._lab

    @property
    def parent(self) -> Result | None:
        """The result that this one was made from, by `rerun` or `branch`; None for a first answer."""
        return self._parent

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything of it to a .parquet file, a row a choice; `Result.load` reads it. Its path.

        What it was made from (`parent`, and that one's, to the first answer) is in there too: the column `completion`
        is 0 for the rows of this result, 1 for its parent's, and so on.
        """

        return save_result(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, lab: Lab | None = None) -> Result:
        """The result that `save` wrote, its `parent` with it; tied to a lab if one is given.

        Raises:
            FileNotFoundError: there is no such file.
            RequestError: it holds something else.
        """
        from llmlab.frames.parquet import load

        check_lab(lab)
        result: Result | None = None
        for completion in reversed(load(path, kind="result").completions):
            result = cls(completion, lab, result)
        assert result is not None
        return result

    def ledger(self, position: int, *, choice: int = 0) -> NextToken:
        """The exact law of the step that drew the token at a position (negative: from the end), stage by stage.

        The object that `lab.next_token` gives, with what came before counted in: `.stages()`, `.flip_points(token)`,
        `.under(...)`, `.draws(...)`; `.drawn` is the token that was drawn. The model goes the same way again, token by
        token, so that the law is the one of then.

        Raises:
            IndexError: there is no such position or choice.
            RequestError: the result has no lab any more, its endpoint gives no logits, or other weights made it.
        """
        from llmlab.results.next_token_at import next_token_at

        if self._lab is None:
            raise RequestError("this result came from a file and has no lab: llmlab.load the model that made it")
        return next_token_at(self._completion, self._lab.backend, position=position, choice=self._choice(choice).index)

    def prompt_logprobs_frame(self) -> pd.DataFrame:
        """How likely each token of the prompt was after those before it: one row a token, the first without figures.

        Columns: position, token, token_id, bytes, logprob (raw), rank, entropy, margin.

        Raises:
            RequestError: the result was loaded without a lab, or the backend takes no tokens as they are.
        """
        from llmlab.counterfactuals.score import prompt_frame

        return prompt_frame(self)

    @shows_fields(without=STREAMING, unchanged=True)
    def rerun(self, *, order: str | None = None, **changes: Any) -> Result:
        """The same request and the same noise under other parameters: a coupled counterfactual, whose `parent` this is.

            r.rerun(temperature=0.3).diff()

        The noise of a token depends on the seed, the choice and the position alone (Gumbel-max), so that what comes out
        otherwise is the changed parameters' doing. Without a change it is this result again; to the bit where the
        batch's width is pinned (`load(slots=...)`). Tokens that were given stay given.

        Args:
            order: of the sampler's stages; by default this result's.
            changes: fields of the request; None sets one back to its default.

        Raises:
            RequestError: a field is unknown or out of range; the result was loaded without a lab.
        """
        from llmlab.counterfactuals.rerun import rerun

        return rerun(self, order=order, changes=changes)

    def diff(self, other: Result | None = None) -> Diff:
        """Where this result parts from the one it was made from (or from any other), and which parameter parted them.

        Args:
            other: the run before; by default `parent`.

        Raises:
            RequestError: there is no other to compare with.
        """
        from llmlab.counterfactuals.diff import Diff

        before = self.parent if other is None else other
        if before is None:
            raise RequestError("this result was made from no other: give the one to compare it with, r.diff(other)")
        if not isinstance(before, Result):
            raise RequestError(f"other must be a Result, got {short(before)}", param="other")
        return Diff(before, self)

    @shows_fields(without=STREAMING, unchanged=True)
    def branch(
        self,
        position: int,
        token: Token | None = None,
        *,
        choice: int = 0,
        order: str | None = None,
        **changes: Any,
    ) -> Result:
        """Continue a choice from any position, with another token there: what would have come of it.

            r.branch(5, " but")

        The tokens before the position are kept, and later ones meet the noise of their own places, as they would have.
        All of them are in the new result, whose `parent` this is; `choices[0].given` counts those that were not drawn.
        Their figures are those under its own parameters. A stop that the kept tokens hold does not end it, one that
        `token` completes does.

        Args:
            position: from 0; one past the last token goes on behind it; negative: from the end.
            token: a token id, a text or bytes (of one token, or of several in a row), or a control token's name; None
                draws one.
            choice: which of this result's choices.
            order: as in `rerun`.
            changes: as in `rerun`; `max_tokens` counts the kept tokens too, and `n` gives so many ways on, each with
                the noise of its own.

        Raises:
            IndexError: there is no such position or choice.
            RequestError: no token is spelled so; the request's grammar forbids it there; the position lies behind an
                end token; also as in `rerun`.
        """
        from llmlab.counterfactuals.branch import branch

        return branch(self, self._choice(choice), position, token, order=order, changes=changes)

    @shows_fields(without=STREAMING, unchanged=True)
    def tree(
        self,
        depth: int = 3,
        width: int = 3,
        *,
        choice: int = 0,
        position: int = 0,
        order: str | None = None,
        **changes: Any,
    ) -> Tree:
        """What is likely to come from a position on: the `width` best tokens, the best behind each, to a depth.

        Each level is one batch. Tokens are the best by raw probability, as `top_logprobs` has them (under a grammar the
        best that it allows); their probability in the law drawn from is beside it.

        Args:
            depth: how many tokens deep.
            width: how many behind each, at most 20.
            choice: which of this result's choices the tokens before the position are of.
            position: of the first level; 0 is the beginning of the answer, negative: from the end.
            order: as in `rerun`.
            changes: as in `rerun`; they change the law drawn from.

        Raises:
            IndexError: there is no such position or choice.
            RequestError: the tree would be too large; also as in `branch`.
        """
        from llmlab.counterfactuals.tree import tree

        return tree(
            self, self._choice(choice), depth=depth, width=width, position=position, order=order, changes=changes
        )

    def divergences(self, **moved: Any) -> Divergences:
        """Where each choice first differs as one parameter moves, under the same noise.

            r.divergences(temperature=np.linspace(0, 2, 21)).plot()

        Args:
            moved: one parameter, or `order`, with the list of its values.

        Raises:
            RequestError: as in `rerun`.
        """
        from llmlab.counterfactuals.divergences import divergences

        return divergences(self, moved)

    def plot_certainty(self, *, choice: int = 0, ax: Axes | None = None) -> Axes:
        """Entropy and kept-count along a choice; see `llmlab.plots.completion.plot_certainty`."""
        from llmlab.plots import completion

        return completion.plot_certainty(self.logprobs_frame(), choice=self._choice(choice).index, ax=ax)

    def plot_surprisal(self, *, choice: int = 0, ax: Axes | None = None) -> Axes:
        """How surprising each token of a choice was; see `llmlab.plots.completion.plot_surprisal`."""
        from llmlab.plots import completion

        return completion.plot_surprisal(self.surprisal_frame(), choice=self._choice(choice).index, ax=ax)

    def plot_logprobs(self, *, choice: int = 0, ax: Axes | None = None) -> Axes:
        """How likely each token of a choice was; see `llmlab.plots.completion.plot_logprobs`."""
        from llmlab.plots import completion

        return completion.plot_logprobs(self.logprobs_frame(), choice=self._choice(choice).index, ax=ax)

    def plot_alternatives(self, position: int, *, choice: int = 0, top: int = 10, ax: Axes | None = None) -> Axes:
        """What else could have come at a position (negative: from the end), the `top` best of it."""
        from llmlab.plots import completion

        data = completion.alternatives(self._choice(choice), position, top=top, names=self._completion.names)
        return completion.plot_alternatives(data, ax=ax)


def save_result(result: Result, path: str | os.PathLike[str]) -> Path:
    """Write a result, and behind it what it was made from, one after the other."""
    line: list[Result] = []
    ancestor: Result | None = result
    while ancestor is not None:
        line.append(ancestor)
        ancestor = ancestor.parent
    return save(path, [one._completion for one in line], kind="result")


def read_all(lab: Lab, sources: Sequence[Stream], *, parent: Result) -> list[Result]:
    """Streams that are open side by side, each to its end; an interrupt or an error closes them all."""
    try:
        return [lab.read(source, parent=parent) for source in sources]
    except BaseException:
        for source in sources:
            source.close()
        raise


def lab_of(result: Result) -> Lab:
    """Where a result was asked.

    Raises:
        RequestError: it came from a file or a pickle, and knows no lab.
    """
    if result.lab is None:
        raise RequestError("this result was loaded without a lab to ask: Result.load(path, lab=lab) gives it one")
    return result.lab
