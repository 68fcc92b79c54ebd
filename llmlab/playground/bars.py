"""The bars of one decoding step: its distribution under some sampling fields, worked out without asking the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.display.bars import DistributionBars

if TYPE_CHECKING:
    from llmlab.results.next_token import NextToken


def distribution_bars(
    step: NextToken, *, place: str, order: str, seed: int | None, top: int = 12, **fields: Any
) -> DistributionBars:
    """The most likely tokens of a step under some sampling fields; the model is not asked again.

    Args:
        step: the decoding step: its logits, and the tokens before it.
        place: where the token stands, in words.
        order: the order of the sampler's stages.
        seed: the seed of the noise; None where there is none yet.
        top: the number of tokens.
        fields: sampling fields of a request.

    Raises:
        RequestError: a field is unknown or out of range.
    """
    temperature = fields.pop("temperature", 1.0)
    found = step.temperatures([temperature], top=top, order=order, **fields)
    ids = found.token_ids
    would = None
    if seed is not None:
        would = int(step.sample([seed], order=order, temperature=temperature, **fields)[0])
    return DistributionBars(
        labels=tuple(step.token_names.label(i) for i in ids),
        token_ids=ids,
        raw=np.exp(step.logprobs[list(ids)]),
        prob=found.prob[0],
        final=found.final[0],
        removed_by=found.removed_by[0],
        kept=int(found.kept[0]),
        vocab_size=len(step.logits),
        settings=found.settings,
        removed={cut: (int(found.removed[cut][0]), float(found.removed_mass[cut][0])) for cut in found.settings},
        place=place,
        seed=seed,
        would=None if would is None else (would, step.token_names.label(would)),
        drawn=None if step.drawn is None else (step.drawn, step.token_names.label(step.drawn)),
    )
