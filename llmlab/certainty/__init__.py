"""How certain a model is of its answers, and whether it is right to be: measures over samples, on frames alone.

    from llmlab import certainty

    found = certainty.measure(lab.chat(questions, n=10, seed=7), equivalence="normalised")
    found.frame()                                           # one row per question
    found.evaluate([...]).frame()                           # AUROC, PRR, ECE and Brier score, with intervals

`result.certainty()` and `sweep.certainty()` are `measure`. The measures by themselves are functions of
`llmlab.metrics`; `lab.p_true` asks the model. Entropies are in nats.
"""

from llmlab.certainty.evaluation import Evaluation, evaluate
from llmlab.certainty.measure import Certainty, measure
from llmlab.certainty.p_true import PTrue
from llmlab.certainty.sets import AnswerSets

__all__ = ["AnswerSets", "Certainty", "Evaluation", "PTrue", "evaluate", "measure"]
