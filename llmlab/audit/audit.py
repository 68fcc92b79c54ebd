"""Runs the tests of an audit within a budget, and decides over all of them together what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from llmlab.audit import bias, noise, sampling, shape
from llmlab.audit.asking import Ask, Asker, BudgetError
from llmlab.audit.evidence import holm
from llmlab.audit.report import Audit
from llmlab.audit.subject import Finding, Subject, UntestableError, untested
from llmlab.audit.weights import Reference, check_weights
from llmlab.errors import LLMLabError, RequestError, short
from llmlab.protocol.arguments import number, whole

#: What an audit may cost by default.
MAX_REQUESTS, MAX_TOKENS = 500, 60_000
#: The probability that an honest endpoint has any finding.
FALSE_ALARMS = 0.01


class Test(NamedTuple):
    """A test: its findings' names, and what runs it."""

    names: tuple[str, ...]
    run: Callable[[Subject], Iterator[Finding]]


#: All tests, in the order in which they run: a finding of an early one may explain those of later ones.
TESTS: tuple[Test, ...] = (
    Test(("top_logprobs",), shape.check_alternatives),
    Test(("n", "clones"), shape.check_n),
    Test(("logprobs",), shape.check_logprobs),
    Test(("noise",), noise.check_noise),
    Test(("greedy",), sampling.check_greedy),
    Test(("later_tokens", "repeated_noise"), noise.check_later_tokens),
    Test(("seed", "seed_scope", "seed_bits"), noise.check_seed),
    Test(("seeded_noise",), noise.check_seeded_noise),
    Test(("temperature",), sampling.check_temperature),
    Test(("top_k",), sampling.check_top_k),
    Test(("top_k_ties",), sampling.check_ties),
    Test(("top_p",), sampling.check_top_p),
    Test(("min_p",), sampling.check_min_p),
    Test(("order_top_p",), sampling.check_order_top_p),
    Test(("order_min_p",), sampling.check_order_min_p),
    Test(("order_top_k",), sampling.check_order_top_k),
    Test(("logit_bias", "order_logit_bias"), bias.check_bias),
    Test(("penalty_scope", "repetition_penalty"), bias.check_scope),
    Test(("presence_penalty", "frequency_penalty"), bias.check_penalties),
    Test(("stop",), shape.check_stop),
    Test(("batch",), noise.check_batch),
    Test(("max_tokens", "usage"), shape.check_length),
)
#: What is tested besides where there is a reference.
WITH_REFERENCE = ("weights", "answers")
#: Tests whose outcome others depend on.
FIRST = frozenset({"n", "logprobs"})


def audit(
    send: Ask,
    *,
    model: str,
    reference: Reference | None = None,
    max_requests: int = MAX_REQUESTS,
    max_tokens: int = MAX_TOKENS,
    false_alarms: float = FALSE_ALARMS,
    seed: int | None = None,
    only: Sequence[str] | None = None,
    parallel: int = 8,
    tell: Callable[[int, int], None] | None = None,
) -> Audit:
    """Audits an endpoint; see `Lab.audit`.

    Args:
        send: sends the body of a chat completion, and returns the answer's JSON; raises RequestError for a refusal.
        model: the model's name.
        reference: the model whose weights the endpoint should serve.
        max_requests: the most requests to the endpoint.
        max_tokens: the most tokens to let it generate.
        false_alarms: the probability that an honest endpoint has any finding.
        seed: where given, all requests have a seed, and the audit of a model in this process repeats itself.
        only: the names of the tests to make; by default all. What they need to know is asked as well.
        parallel: the most requests at once.
        tell: is called with (tests done, tests in all).

    Raises:
        RequestError: an argument is wrong.
        LLMLabError: the endpoint does not answer the first questions.
    """
    whole("max_requests", max_requests, least=20)
    whole("max_tokens", max_tokens, least=200)
    number("false_alarms", false_alarms, 0, 1)
    wanted = _wanted(only)
    start = None if seed is None else whole("seed", seed)
    ask = Asker(send, model, max_requests, max_tokens, parallel=parallel, seed=start)
    tests, beside = list(TESTS), None
    if reference is not None:
        beside = Asker(reference.send, reference.model, max_requests, max_tokens, parallel=parallel, seed=start)
        tests.append(Test(WITH_REFERENCE, partial(check_weights, reference=reference, beside=beside)))
    subject = Subject(ask, np.random.default_rng(0), beside)
    subject.look()
    findings: list[Finding] = []
    for done, test in enumerate(tests):
        if tell is not None:
            tell(done, len(tests))
        if wanted is None or (wanted | FIRST) & {*test.names}:
            findings += _run(test, subject)
    findings = [one for one in findings if wanted is None or one.name in wanted]
    if tell is not None:
        tell(len(tests), len(tests))
    decided = _decided(findings, rate=false_alarms)
    return Audit(model, tuple(decided), ask.requests, ask.tokens, false_alarms)


def _wanted(only: Sequence[str] | None) -> set[str] | None:
    if only is None:
        return None
    names = [name for test in TESTS for name in test.names] + list(WITH_REFERENCE)
    asked = [only] if isinstance(only, str) else list(only)
    for name in asked:
        if name not in names:
            raise RequestError(f"only: there is no test {short(name)}; the tests are {', '.join(names)}", param="only")
    return {*asked}


def _run(test: Test, subject: Subject) -> list[Finding]:
    """The findings of one test; one that could not be finished says why."""
    found: list[Finding] = []
    why = ""
    try:
        for one in test.run(subject):
            found.append(one)
    except BudgetError:
        why = "the budget of requests or tokens is used up."
    except UntestableError as error:
        why = f"{error}."
    except LLMLabError as error:
        why = f"the endpoint answers with an error ({error.message})."
    made = {one.name for one in found}
    return found + [untested(name, why) for name in test.names if name not in made]


def _decided(findings: list[Finding], *, rate: float) -> list[Finding]:
    """The findings with Holm's decision over all of them, what was found first, what was not tested last."""
    rejected = holm([one.p_value for one in findings], rate=rate)
    decided = []
    for one, is_found in zip(findings, rejected, strict=True):
        tested = not math.isnan(one.p_value)
        what = one.what if is_found else one.fine or one.what
        decided.append(one._replace(ok=not is_found if tested else None, what=what))
    return sorted(decided, key=lambda one: {False: 0, True: 1, None: 2}[one.ok])
