"""Searches over whole answers: a lab's methods that find several answers to one prompt together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from llmlab.lab.model import Model
from llmlab.protocol.arguments import OrderLike, order_name
from llmlab.protocol.request import Request
from llmlab.protocol.signatures import STREAMING, shows_fields

if TYPE_CHECKING:
    from llmlab.results.answers import Answers
    from llmlab.results.search_result import SearchResult

#: Fields that a search does not take.
_NOT_HERE = ("stop", "include_stop", *STREAMING)


class Searches(Model):
    """A model whose answers can be searched; a `Lab` is one.

    `answers` explores all that is likely; the other searches find several answers together. They run over the
    distributions that the request's sampler settings make: by default the model's own, and with a temperature,
    penalties, a truncation or a grammar those that an answer would be drawn from at every step.
    """

    @shows_fields(without=("n", "seed", *STREAMING))
    def answers(
        self,
        messages: str | Sequence[Any] | Request | None = None,
        *,
        mass: float = 0.99,
        max_passes: int | None = None,
        max_rows: int | None = None,
        rows: int | None = None,
        conditional: bool = False,
        order: OrderLike = "llmlab",
        **fields: Any,
    ) -> Answers:
        """Returns the distribution of whole answers: each with its exact probability, and bounds for any event.

            found = lab.answers("Is the sky blue? Answer yes or no.", max_tokens=4)
            found.frame()                                       # every answer that was found, the most likely first
            found.probability(r"(?i)^yes")                      # (low, high), for certain
            lab.answers("Name an animal.", temperature=[0.5, 1.0, 1.5], top_p=[0.9, 1.0]).summary_frame()

        A best-first search expands the likeliest beginnings of answers, a pass of the model for up to `rows` of them,
        until the answers that were found have the mass. An answer ends with an end token, with a stop sequence, or at
        max_tokens, where it is cut off and counts as an answer of its own. Several settings of the sampler share one
        search: a beginning is expanded where any of them makes it likely.

        A prompt with long answers has more of them than can be found: give a small `max_tokens`, so that answers are
        their beginnings. An interrupt leaves what was found in `last_answers`.

        Args:
            messages: as in `chat`; None where there is a `prompt`.
            mass: the probability that the answers found should have under every setting.
            max_passes: the most passes of the model; by default 256. At a limit there are fewer answers, with bounds
                that hold all the same.
            max_rows: the most next-token distributions to compute, whose logits are kept for other settings; by default
                as many as 512 MiB hold, and 4,096 at most.
            rows: the most rows of a pass; by default 32, or as many as the model has.
            conditional: with a grammar, also explore what the model would say without it until the answers that fit
                have the mass; see `Answers.distance_frame`.
            order: as in `chat`.
            fields: as in `chat`, except n and seed; a list of numbers for a field of the sampler is one setting each.

        Raises:
            RequestError: as in `chat`; an argument is wrong; the backend is an endpoint, which gives no logits.
            EngineError: there is no memory for the rows.
        """
        from llmlab.results.answers import found_answers
        from llmlab.search.asked_answers import search_answers, settings_of, varied_fields

        order = order_name(order)
        varied = varied_fields(fields)
        request = self.request(messages, **{name: value for name, value in fields.items() if name not in varied})
        settings = settings_of(request, varied)
        return found_answers(
            self,
            lambda keep: search_answers(
                self.backend, settings, mass=mass, max_passes=max_passes, max_rows=max_rows, rows=rows,
                conditional=conditional, order=order, keep=keep,
            ),
        )  # fmt: skip

    @shows_fields(without=(*_NOT_HERE, "seed"))
    def beam_search(
        self,
        messages: str | Sequence[Any] | Request | None = None,
        *,
        beams: int = 4,
        groups: int = 1,
        diversity_penalty: float = 0.0,
        length_penalty: float = 1.0,
        early_stopping: bool | Literal["never"] = False,
        n: int | None = None,
        order: OrderLike = "llmlab",
        **fields: Any,
    ) -> SearchResult:
        """Returns likely answers, found by beam search; with groups of beams, by diverse beam search.

            lab.beam_search("Name an animal.", beams=8, max_tokens=20)
            lab.beam_search("Tell me a story.", beams=6, groups=3, diversity_penalty=1.0, max_tokens=30)

        With the default sampler settings it finds what transformers' `generate(num_beams=beams, do_sample=False)` does.
        There the logits processors change log-probabilities; here the sampler's stages change logits, whose
        log-probabilities are added up. Fewer sequences than `n` are returned where there are not as many.

        Args:
            messages: as in `chat`; None where there is a `prompt`.
            beams: how many beginnings are kept at every step, of all groups together.
            groups: how many groups the beams are divided into; each is a beam search of its own.
            diversity_penalty: nats that a token costs for each beam of an earlier group that has chosen it at the same
                step (Hamming diversity). It is part of the score.
            length_penalty: a sequence's score is its log-probability over its length to this power. 0 ranks by
                probability; more favours longer sequences.
            early_stopping: True stops as soon as there are as many sequences as beams; False also where the best
                unfinished beam would not be among them if it ended now; "never" where it could not be, however it ends.
            n: how many sequences to return; by default all that the beams found, at most one per beam.
            order: as in `chat`.
            fields: as in `chat`, except those that draw or that end an answer by its text. Without `max_tokens` a
                sequence may take what the context has left.

        Raises:
            RequestError: as in `chat`; an argument is wrong; the backend is an endpoint, which gives no logits.
            EngineError: there is no memory for so many beams of `max_tokens` tokens.

        Source: Vijayakumar et al. 2016, "Diverse Beam Search", arXiv:1610.02424.
        """
        from llmlab.results.search_result import searched
        from llmlab.search.asked import search_beams

        order = order_name(order)
        found = search_beams(
            self.backend, self.request(messages, **fields), beams=beams, groups=groups,
            diversity_penalty=diversity_penalty, length_penalty=length_penalty, early_stopping=early_stopping, n=n,
            order=order,
        )  # fmt: skip
        return searched(self, found)

    @shows_fields(without=_NOT_HERE)
    def sample_without_replacement(
        self,
        messages: str | Sequence[Any] | Request | None = None,
        *,
        n: int | None = None,
        order: OrderLike = "llmlab",
        **fields: Any,
    ) -> SearchResult:
        """Draws n different answers: each as if all earlier ones had been taken away (stochastic beam search).

            found = lab.sample_without_replacement("Name an animal.", n=6, seed=7)
            found.frame()["weight"]                              # importance weights

        The weights make estimates: the sum of `weight` times a function of the answer has the function's mean over all
        answers as its expectation. With one seed, fewer answers are the first ones of more.

        Args:
            messages: as in `chat`; None where there is a `prompt`.
            n: how many; by default 4, or the request's own n. There are fewer where fewer are possible.
            order: as in `chat`.
            fields: as in `chat`, except those that end an answer by its text. An answer that reaches `max_tokens` ends
                there, and is one of its own.

        Raises:
            RequestError: as in `chat`; an argument is wrong; the backend is an endpoint, which gives no logits.
            EngineError: there is no memory for n + 1 answers of `max_tokens` tokens.

        Source: Kool, van Hoof, Welling 2019, "Stochastic Beams and Where to Find Them", arXiv:1903.06059.
        """
        from llmlab.results.search_result import searched
        from llmlab.search.asked import search_sample

        order = order_name(order)
        return searched(self, search_sample(self.backend, self.request(messages, **fields), n=n, order=order))

    @shows_fields(without=_NOT_HERE)
    def arithmetic_sample(
        self,
        messages: str | Sequence[Any] | Request | None = None,
        *,
        n: int | None = None,
        order: OrderLike = "llmlab",
        **fields: Any,
    ) -> SearchResult:
        """Draws n answers that cover the distribution evenly (arithmetic sampling).

            lab.arithmetic_sample("Name an animal.", n=8, seed=7, temperature=0.8)

        Each answer by itself is an exact sample, as one of `chat` is. Together they are more diverse: they come from
        codes with equal distances, and an answer of probability p gets p * n of them, rounded up or down.

        Args:
            messages: as in `chat`; None where there is a `prompt`.
            n: how many; by default 8, or the request's own n.
            order: as in `chat`.
            fields: as in `chat`, except those that end an answer by its text.

        Raises:
            RequestError: as in `chat`; an argument is wrong; the backend is an endpoint, which gives no logits.
            EngineError: there is no memory for n answers of `max_tokens` tokens.

        Source: Vilnis et al. 2023, "Arithmetic Sampling: Parallel Diverse Decoding for Large Language Models",
        arXiv:2210.15458.
        """
        from llmlab.results.search_result import searched
        from llmlab.search.asked import search_codes

        order = order_name(order)
        return searched(self, search_codes(self.backend, self.request(messages, **fields), n=n, order=order))
