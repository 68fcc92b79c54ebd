"""The lab: a model, and what a researcher asks of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmlab.display import banner
from llmlab.display.progress import progress_bar
from llmlab.errors import RequestError
from llmlab.lab.comparisons import Comparisons
from llmlab.lab.searches import Searches
from llmlab.protocol.arguments import OrderLike, order_name, orders_of
from llmlab.protocol.request import Request
from llmlab.protocol.signatures import STREAMING, shows_fields
from llmlab.results.result import Result, read_all

if TYPE_CHECKING:
    import openai
    import pandas as pd

    from llmlab.audit.report import Audit
    from llmlab.certainty.p_true import PTrue
    from llmlab.checks.calibration import Calibration
    from llmlab.checks.sampler import SamplerCheck
    from llmlab.counterfactuals.orders import Orders
    from llmlab.metrics import Metric
    from llmlab.playground.playground import Playground
    from llmlab.sweeps.sweep import Sweep


class Lab(Searches, Comparisons):
    """A model, and what can be asked of it; `llmlab.load` and `llmlab.connect` return one.

        lab.chat("Tell me a story.")        # a whole answer: a Result, with frames and plots
        lab.stream("Tell me a story.")      # an answer while it is being generated
        lab.complete("Once upon a")         # the continuation of a raw text, without a chat template
        lab.next_token("Name an animal.")   # the exact distribution of the next token
        lab.score("Name an animal.", "Cat") # the logprobs of a given answer
        lab.sweep("Name an animal.", temperature=[0, 1])    # every combination of some parameters
        lab.answers("Name an animal.")      # the distribution of whole answers: exact, with bounds for any event
        lab.beam_search("Name an animal.", beams=8)         # the most likely answers; also samples without replacement
        lab.compare(other, "Name an animal.")               # two models over the same tokens

    Every method takes the request's fields by the names that the API gives them (temperature, top_p, seed, n, ...). A
    wrong field or value raises a `RequestError` that names it, before the model is asked.

    Args:
        backend: what runs the model.

    Attributes:
        last: the latest Result, also the unfinished one of a run that was interrupted; None at first.
        last_sweep: the latest Sweep, also one that was interrupted; None at first.
        last_answers: the latest Answers, also of a search that was interrupted; None at first.
    """

    @shows_fields(without=STREAMING)
    def sweep(
        self,
        messages: str | Sequence[Any] | Request | None = None,
        *,
        order: OrderLike = "llmlab",
        n: int | None = None,
        seed: int | None = None,
        independent: bool = False,
        metrics: Mapping[str, Metric] | None = None,
        save: str | os.PathLike[str] | None = None,
        resume: bool | Sweep = True,
        label: Sequence[str] | None = None,
        **fields: Any,
    ) -> Sweep:
        """Asks every combination of some parameters' values, n times each, in one batch that reads each prompt once.

            sweep = lab.sweep("Name an animal.", temperature=[0, 0.5, 1], top_p=[0.8, 1], n=16, seed=7)
            sweep.frame()

        The cells of a sweep share their noise, so that a difference between two cells is an effect of the parameters;
        different prompts have different noise. After an interrupt the finished cells are in `last_sweep`, whose
        `resume()` asks the rest.

        Args:
            messages: as in `chat`, or a list of such prompts; None where there is a `prompt`, or a list of them.
            order: as in `chat`; a list of orders is swept, and a list of stages is one order.
            n: completions per cell; by default the request's own, else 16.
            seed: each prompt's seed is derived from it (the first prompt's is this one); drawn if absent.
            independent: give each cell its own noise.
            metrics: name -> function from one completion's `logprobs_frame()` to a number; each becomes a column.
            save: a .parquet file to write the sweep to, also while it runs.
            resume: continue with the answers in that file, or with those of this sweep. False overwrites the file.
            label: names for the prompts of a list, in place of their texts in the column `prompt`.
            fields: as in `chat`; a list (or array) of values is swept. For `stop` and `tools`, a list of lists.

        Raises:
            RequestError: as in `chat`, before anything runs; the name of a metric is taken; the file holds another
                sweep.
        """
        from llmlab.sweeps.start import sweep

        return sweep(
            self, messages, request=self.request, order=order, n=n, seed=seed, independent=independent,
            metrics=metrics, save=save, resume=resume, fields=fields, label=label,
        )  # fmt: skip

    @shows_fields(without=("prompt", *STREAMING))
    def compare_orders(
        self,
        messages: str | Sequence[Any] | Request | Result | None = None,
        *,
        orders: OrderLike = ("vllm", "sglang", "llama.cpp"),
        order: OrderLike | None = None,
        **fields: Any,
    ) -> Orders:
        """Runs a request with the same noise under other engines' orders of the sampler's stages, and compares them.

        Args:
            messages: as in `chat`; or a result, which is compared as it is.
            orders: the orders to compare with, or one of them.
            order: the order of the answer along which they are compared; by default llmlab's, or the result's.
            fields: as in `chat`.

        Raises:
            RequestError: as in `chat`; there is no such order; the backend gives no logits.
        """
        from llmlab.counterfactuals.orders import Orders, comparable, start_orders

        model, names = comparable(self.backend, orders)
        own = None if order is None else order_name(order)
        if not isinstance(messages, Result):
            base = self.chat(self.request(messages, **fields), order=own or "llmlab")
        elif fields or own not in (None, messages.order):
            raise RequestError("a result is compared as it is: rerun it first with what is to be changed")
        else:
            base = messages
        streams = start_orders(base, model, names)
        others = read_all(self, list(streams.values()), parent=base)
        return Orders(base, {base.order: base, **dict(zip(streams, others, strict=True))}, backend=model)

    @shows_fields(without=STREAMING)
    def check_sampler(
        self,
        messages: str | Sequence[Any] | Request | None = None,
        *,
        draws: int = 20_000,
        seed: int = 0,
        order: OrderLike = "llmlab",
        **fields: Any,
    ) -> SamplerCheck:
        """Draws the next token many times, and tests whether the draws fit the exact distribution (chi-square test).

        The draws are the sampler's own; some of them are repeated by the engine.

        Args:
            messages: as in `next_token`.
            draws: the number of draws.
            seed: the first seed.
            order: as in `chat`.
            fields: as in `chat`.

        Raises:
            RequestError: as in `next_token`.
        """
        from llmlab.checks.sampler import check_sampler

        step = self.next_token(messages, order=order, **fields)
        return check_sampler(step, self.backend, draws=draws, seed=seed)

    @shows_fields(without=("messages", "prompt", *STREAMING))
    def check_calibration(
        self,
        truth: str | os.PathLike[str] | Iterable[Mapping[str, Any]] | None = None,
        *,
        prompts_per_distribution: int | None = None,
        **fields: Any,
    ) -> Calibration:
        """Compares the model's probabilities of whole answers with known answer distributions: is it calibrated?

        The probability of an answer is that of its whole text and of ending there, by teacher forcing.

        Args:
            truth: dicts with `messages`, `distribution` (whole answer -> probability) and perhaps `name`, or a file of
                such JSON lines; by default the embedded model's.
            prompts_per_distribution: ask only the first so many prompts of each distribution; by default all.
            fields: as in `chat`; they change the distribution that answers are sampled from, which is compared.

        Raises:
            RequestError: as in `chat`; something that is not a distribution; a backend that cannot score given answers.
        """
        from llmlab.checks.calibration import check_calibration

        many = prompts_per_distribution
        return check_calibration(
            self.backend, truth, request=self.request, prompts_per_distribution=many, fields=fields
        )

    def audit(
        self,
        *,
        reference: Lab | None = None,
        max_requests: int = 500,
        max_tokens: int = 60_000,
        false_alarms: float = 0.01,
        seed: int | None = None,
        only: Sequence[str] | None = None,
    ) -> Audit:
        """Asks a few hundred cheap questions, and says what the sampler really does and where it should do otherwise.

            llmlab.connect("http://127.0.0.1:8000/v1").audit()

        It tests whether every field is honoured and by which formula, the order of the sampler's stages, the noise and
        its seeds, the logprobs, `n`, `stop` and `max_tokens`, and whether answers depend on the batch. It takes about
        200 requests and 12,000 tokens, and never more than the limits. Questions go to an endpoint as they are, and its
        answers are seen as they come. Tests that the endpoint's answers do not allow are named as not tested.

        Args:
            reference: the model whose weights the endpoint should serve; it is asked some of the same questions. If its
                logprobs differ from the endpoint's and it runs in this process, it is loaded again in other dtypes, to
                tell rounded weights from another model's. An endpoint without logprobs is tested by its distributions.
            max_requests: the most requests.
            max_tokens: the most tokens to generate; a question counts as n * max_tokens before it is sent.
            false_alarms: the probability that an honest endpoint has any finding (Holm's procedure over all tests).
            seed: give every request a seed that follows from this one, so that an audit of a model in this process
                repeats itself; by default most requests have none.
            only: the names of the tests to make, as the report has them; by default all.

        Raises:
            RequestError: an argument is wrong; the lab is one of several endpoints.
            LLMLabError: the endpoint cannot be reached.
        """
        from llmlab.lab.auditing import audit_backend

        return audit_backend(
            self.backend, reference=None if reference is None else reference.backend, max_requests=max_requests,
            max_tokens=max_tokens, false_alarms=false_alarms, seed=seed, only=only,
        )  # fmt: skip

    @shows_fields(without=("messages", "prompt", "n", *STREAMING))
    def p_true(
        self,
        questions: str | Sequence[str],
        answers: str | Sequence[str] | pd.Series,
        *,
        ideas: Sequence[str] | Sequence[Sequence[str]] | None = None,
        options: Sequence[str] = ("True", "False"),
        raw: bool = False,
        order: OrderLike = "llmlab",
        **fields: Any,
    ) -> PTrue:
        """Asks the model whether answers are true: the probability that it says so is its confidence in them, P(True).

            lab.p_true("Who wrote Emma?", "Jane Austen").frame()
            lab.p_true(questions, found.frame()["answer"], ideas=[r.texts for r in results])

        Args:
            questions: the question, or several.
            answers: the answer that is asked about, one per question.
            ideas: texts that are shown before the answer as brainstormed ideas, such as samples; a list per question.
            options: what the model says of a true and of a false answer.
            raw: ask by the raw prompt, without a chat template, as for a base model; the options follow a space then.
            order: as in `chat`.
            fields: as in `chat`. P(True) is of the raw distribution, which sampler fields do not change.

        Raises:
            RequestError: as in `score`; there are not as many answers as questions.

        Source: Kadavath et al. 2022, "Language models (mostly) know what they know", arXiv:2207.05221.
        """
        from llmlab.lab.truth import ask_true

        return ask_true(
            self, questions, answers, ideas=ideas, options=options, raw=raw, order=order_name(order), fields=fields
        )

    @shows_fields(without=STREAMING)
    def playground(
        self, messages: str | Sequence[Any] | Request | None = None, *, order: OrderLike = "llmlab", **fields: Any
    ) -> Playground:
        """Returns widgets for a prompt, all parameters and two settings to compare; a picture where there are none.

            lab.playground("Tell me a story.", temperature=0.8, top_p=0.95)

        Args:
            messages: the first prompt, as in `chat`; by default an example (or the `prompt`).
            order: as in `chat`.
            fields: as in `chat`: the controls' first values.

        Raises:
            RequestError: as in `chat`; also for a field that has no control.
        """
        from llmlab.playground.playground import Playground

        if messages is None and fields.get("prompt") is None and fields.get("messages") is None:
            messages = "Tell me a short story."
        order = order_name(order)
        return Playground(self, self.request(messages, **fields), order=order)

    def client(self, **options: Any) -> openai.OpenAI:
        """Returns an `openai.OpenAI` client whose requests this lab answers, without a server or a network.

        Args:
            options: options of `openai.OpenAI`, such as `max_retries`.
        """
        from llmlab.lab.client import client

        return client(self.backend, **options)

    def warmup(self, *, orders: OrderLike = ("llmlab",), wait: bool = True) -> None:
        """Compiles every program beforehand, so that no request has to wait for it; an endpoint has nothing to compile.

        Args:
            orders: the orders of the sampler's stages that will be used.
            wait: whether to return once all are compiled, with a bar that shows how far it is. False returns at once:
                the programs are compiled one by one whenever no request is running, those of single short texts first,
                and a request waits for one of them at most.

        Raises:
            RequestError: there is no such order.
        """
        names = orders_of("orders", orders)
        if not wait:
            self.backend.warmup(orders=tuple(names), wait=False)
            return
        with progress_bar(total=None, unit="program", description="compiling") as bar:

            def tell(done: int, everything: int) -> None:
                bar.total = everything
                bar.update(done - bar.n)

            self.backend.warmup(orders=tuple(names), progress=tell)

    def describe(self) -> dict[str, Any]:
        """Facts about the model, as the banner shows them: name, device, dtype, memory, context."""
        return self.backend.describe()

    def close(self) -> None:
        """Stops all work and frees the model's memory."""
        self.backend.close()

    def __repr__(self) -> str:
        return banner.as_text(self.describe())

    def _repr_html_(self) -> str:
        return banner.as_html(self.describe())
