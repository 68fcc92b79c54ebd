"""What the real model keeps of float32 in int8: its distributions, and its greedy answers up to close calls."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

import llmlab
from llmlab.backends.local.dtypes import PROMISES
from llmlab.models.plan import abstract_mesh, footprint

pytestmark = pytest.mark.real

TEXT = (
    "The observatory stood on a ridge above the town, and its dome could be seen from every street. In the winter of "
    "1887 the director, a careful man who trusted nothing that he had not measured himself, wrote to his sister that "
    "the new refractor had been delayed for the third time. The glass had arrived, but the mounting was still in "
    "Hamburg, where a strike of the dock workers held up everything heavier than a trunk. He used the months to "
    "recompute the positions of four hundred faint stars. The arithmetic was done by two assistants who worked in "
    "separate rooms and compared their results only at the end of each week, so that an error of one would not be "
    "copied by the other. When they disagreed, a third computation decided. By March they had found eleven mistakes "
    "in the printed catalogue, of which nine were errors of copying and two were stars that had moved. "
)


def test_int8_keeps_the_distributions_and_takes_what_is_planned(smollm2, lab: llmlab.Lab) -> None:
    tokens = np.array(lab.tokenizer(TEXT * 4, add_special_tokens=False)["input_ids"][:501], np.int32)
    narrow = llmlab.load(smollm2, dtype="int8", slots=2, max_context=512, quiet=True)
    logits = [np.concatenate(list(one.backend.logits(tokens[:1], tokens[1:]))) for one in (lab, narrow)]
    whole, rounded = (log_softmax(x.astype(np.float64), axis=-1) for x in logits)
    divergences = (np.exp(whole) * (whole - rounded)).sum(-1)
    print(f"int8: KL {divergences.mean():.1e} nats on average of {len(divergences)}, {divergences.max():.1e} at most")
    assert len(divergences) == 500 and 0 < divergences.mean() <= PROMISES["int8"].divergence
    programs = narrow.backend.engine.programs
    planned = footprint(programs.config, abstract_mesh(), dtype="int8", cache_dtype="float32").weights
    assert programs.weight_bytes == pytest.approx(planned, rel=0.05)
    narrow.close()
