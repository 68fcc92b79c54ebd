"""Wrong arguments of certainty, in a process without the tests' checks of types, which would speak first."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import matplotlib; matplotlib.use("Agg")
import numpy as np, pandas as pd
from llmlab import certainty, metrics
from llmlab.certainty.p_true import asked
from llmlab.errors import RequestError
frame = pd.DataFrame({"prompt": [0, 0, 1, 1], "text": list("aabc"), "tokens": 1, "sampling_logprob": -1.0})
found = certainty.measure(frame)
judged = found.evaluate([True, False])
sets = found.answer_sets(["a", "b"], coverage=0.5)
for call in json.load(sys.stdin):
    try:
        eval(call)
    except RequestError as error:
        print(json.dumps([error.param, str(error)]))
    else:
        print('["nothing raised", ""]')
"""
CALLS = {
    "metrics.semantic_entropy(frame, equivalence='meaning')": ("equivalence", "'exact', 'normalised' or a function"),
    "metrics.semantic_entropy(frame, estimate='mean')": ("estimate", "one of monte_carlo, weighted, discrete"),
    "metrics.lexical_similarity(frame, similarity='bleu')": ("similarity", "one of rouge_l, token_f1, jaccard"),
    "metrics.cosine(3)": ("embed", "must be a function of a list of texts, got 3"),
    "certainty.measure(7)": ("answers", "must be a list of results, got 7"),
    "certainty.measure([7])": ("answers", "a result, a list of results or a frame of samples, got 7"),
    "certainty.measure([], by='prompt')": ("by", "by is for a frame of samples"),
    "certainty.measure(frame, by='question')": ("answers", "reads the columns question, and the frame has prompt"),
    "certainty.measure(frame.drop(columns='tokens'))": ("answers", "reads the columns tokens"),
    "certainty.measure(frame.rename(columns={'prompt': 'answer'}), by='answer').frame()": ("by", "rename it"),
    "certainty.measure(frame, equivalence=3)": ("equivalence", "got 3"),
    "certainty.measure(frame, similarity=3)": ("similarity", "got 3"),
    "certainty.measure(frame, relevance='jaccard')": ("relevance", "needs the tokens: give results"),
    "certainty.measure(frame, distinct='no')": ("distinct", "distinct must be"),
    "found.evaluate([True])": ("correct", "has 1 values and there are 2 prompts"),
    "found.evaluate([True, 2])": ("correct", "must hold True and False, or 1 and 0"),
    "found.evaluate([True, None])": ("correct", "for every question"),
    "found.answer_sets(['a'])": ("truth", "a text for each of 2 prompts"),
    "found.answer_sets(['a', 3])": ("truth", "a text for each of 2 prompts"),
    "found.answer_sets(['a', 'b'], coverage=0)": ("coverage", "must lie between 0 and 1, got 0"),
    "sets.frame(frame)": ("certainty", "must be a Certainty"),
    "sets.frame(found, ['a'])": ("truth", "a text for each of 2 prompts"),
    "certainty.evaluate([1])": ("frame", "a dataframe such as Certainty.frame()"),
    "certainty.evaluate(frame.assign(correct=True), uncertainty='tokens')": (
        "uncertainty",
        "uncertainty must be a list",
    ),
    "judged.frame(bins=0)": ("bins", "bins must be at least 1, got 0"),
    "judged.reliability_frame(bins='a')": ("bins", "bins must be an integer"),
    "judged.threshold(['sar'])": ("score", "there is no ['sar'] here"),
    "judged.plot_rejection(3)": ("score", "score must be a list of scores, got 3"),
    "judged.plot_reliability(ax=3)": ("ax", "one matplotlib Axes"),
    "asked(['a'], ['b', 'c'], None, ('x', 'y'))": (
        "answers",
        "has 2 texts and there are 1 question; give one for each",
    ),
    "asked('a', ['b', 3], None, ('x', 'y'))": ("answers", "must be a list of texts"),
    "asked('a', 'b', ['x', ['y']], ('x', 'y'))": ("ideas", "has 2 lists"),
    "asked('a', 'b', None, ('x',))": ("options", "must be two texts"),
    "asked('a', 'b', None, 'xy')": ("options", "must be a list of texts"),
}


def test_what_is_wrong_is_named() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], input=json.dumps(list(CALLS)), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    said = dict(zip(CALLS, map(json.loads, run.stdout.splitlines()), strict=True))
    wrong = {
        call: said[call] for call, (param, part) in CALLS.items() if said[call][0] != param or part not in said[call][1]
    }
    assert not wrong
