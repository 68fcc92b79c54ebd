"""A small language model in NumPy that answers chat completions, honestly or with one fault.

Its next-token logits depend on the prompt and on the last token. Logits, sampler and noise are written here again, in
float64, and share no code with the package. `FAULTS` lists what an endpoint may do wrong, each fault with the test that
should find it and words of the finding.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from llmlab.errors import RequestError

V = 160
END = 0
_SYLLABLES = ("ka", "mo", "ri", "tel", "su", "non", "vex", "lo", "pim", "dra", "qu", "zen")


def _text(token: int) -> str:
    a, b = divmod(token, len(_SYLLABLES))
    return f" {_SYLLABLES[b]}{_SYLLABLES[a % len(_SYLLABLES)]}{'s' if a >= len(_SYLLABLES) else ''}"


TEXTS = ["</s>", *[_text(token) for token in range(1, V)]]
BY_WORD = {text.strip(): token for token, text in enumerate(TEXTS)}


class Weights(NamedTuple):
    """The model's weights: one row of logits for each prompt (by its hash) and one for each last token."""

    prompts: np.ndarray
    last: np.ndarray
    bfloat16: bool = False  #: whether logits are computed in bfloat16

    @classmethod
    def of(cls, seed: int) -> Weights:
        rng = np.random.default_rng(seed)
        favourites = 2.0 * rng.normal(size=V)
        prompts = 1.6 * rng.normal(size=(64, V)) + favourites
        last = 0.8 * rng.normal(size=(V, V))
        for one in range(2, 42, 2):  # pairs of tokens that are always equally likely
            prompts[:, one + 1], last[:, one + 1] = prompts[:, one], last[:, one]
        prompts[:, END] -= 5.0
        # Around 0, so that a repetition penalty divides some likely tokens' logits and multiplies others.
        return cls(prompts - 5.5, last)

    def rounded(self, bits: int) -> Weights:
        """As integers of so many bits with one scale per row; of 16, as bfloat16."""
        rounding = _bfloat16 if bits == 16 else partial(_integers, bits=bits)
        return Weights(rounding(self.prompts), rounding(self.last), bits == 16)

    def changed(self, by: float) -> Weights:
        """With noise of that standard deviation, as after a little more training."""
        rng = np.random.default_rng(9)
        prompts, last = (table + by * rng.normal(size=table.shape) for table in (self.prompts, self.last))
        return Weights(prompts, last)


def _integers(table: np.ndarray, *, bits: int) -> np.ndarray:
    scale = np.abs(table).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.asarray(np.round(table / scale) * scale)


def _bfloat16(table: np.ndarray) -> np.ndarray:
    """Rounded to the nearest number with 8 significant bits."""
    mantissa, exponent = np.frexp(table)
    return np.asarray(np.ldexp(np.round(mantissa * 256) / 256, exponent))


WEIGHTS = Weights.of(1)


class Fault(NamedTuple):
    """What an endpoint does wrong, the test that should find it, and words of what should be said."""

    finding: str
    words: str


#: Every fault by its name, which is what `Server` compares with.
FAULTS: dict[str, Fault] = {
    "temperature_dropped": Fault("temperature", "ignored"),
    "temperature_inverted": Fault("temperature", "multiplies"),
    "temperature_clamped": Fault("temperature", "clamped to at most 1"),
    "greedy_samples": Fault("greedy", "another token"),
    "top_k_dropped": Fault("top_k", "ignored"),
    "top_k_one_more": Fault("top_k", "one token more"),
    "top_k_keeps_ties": Fault("top_k_ties", "both"),
    "top_p_dropped": Fault("top_p", "ignored"),
    "top_p_exclusive": Fault("top_p", "leaves out"),
    "min_p_dropped": Fault("min_p", "ignored"),
    "min_p_absolute": Fault("min_p", "probability"),
    "top_p_before_temperature": Fault("order_top_p", "comes before"),
    "min_p_before_temperature": Fault("order_min_p", "comes before"),
    "top_p_before_top_k": Fault("order_top_k", "all tokens"),
    "bias_dropped": Fault("logit_bias", "ignored"),
    "bias_clamped": Fault("logit_bias", "clamped"),
    "bias_after_temperature": Fault("order_logit_bias", "after the temperature"),
    "presence_dropped": Fault("presence_penalty", "ignored"),
    "presence_by_count": Fault("presence_penalty", "multiplied by the count"),
    "frequency_once": Fault("frequency_penalty", "whatever the count"),
    "penalties_count_prompt": Fault("penalty_scope", "count the prompt"),
    "repetition_dropped": Fault("repetition_penalty", "ignored"),
    "repetition_output_only": Fault("repetition_penalty", "does not count the prompt"),
    "repetition_divides": Fault("repetition_penalty", "divides negative"),
    "seed_dropped": Fault("seed", "ignored"),
    "seed_constant": Fault("seed", "constant"),
    "seed_first_choice": Fault("seed", "fixes 1 of"),
    "seed_clones": Fault("seed_scope", "copies"),
    "seed_plus_index": Fault("seed_scope", "plus its index"),
    "seed_32_bits": Fault("seed_bits", "32 bits"),
    "n_dropped": Fault("n", "gets 1 choice"),
    "n_clones": Fault("clones", "copies"),
    "n_pairs": Fault("clones", "copies"),
    "noise_coarse": Fault("noise", "rare tokens"),
    "noise_exponential": Fault("seeded_noise", "With a seed"),
    "noise_repeats": Fault("repeated_noise", "drawn again too often"),
    "drafts_accepted": Fault("later_tokens", "sharper"),
    "logprobs_after_temperature": Fault("logprobs", "after the temperature"),
    "logprobs_after_filters": Fault("logprobs", "whole sampler"),
    "alternatives_unsorted": Fault("top_logprobs", "out of order"),
    "alternatives_capped": Fault("top_logprobs", "Lists 5"),
    "stop_dropped": Fault("stop", "ignored"),
    "stop_whole_tokens": Fault("stop", "whole tokens"),
    "stop_keeps_token": Fault("stop", "rest of that token"),
    "length_one_more": Fault("max_tokens", "tokens, in"),
    "length_says_stop": Fault("max_tokens", "finish_reason"),
    "usage_counts_one_choice": Fault("usage", "usage counts"),
    "batch_rounds": Fault("batch", "batch"),
    "other_weights": Fault("weights", "another model"),
    "bfloat16_weights": Fault("weights", "in bfloat16"),
    "int8_weights": Fault("weights", "in int8"),
    "int4_weights": Fault("weights", "about 4 bits"),
    "changed_weights": Fault("weights", "lightly changed"),
    "hidden_prompt": Fault("weights", "reads other prompts"),
    "other_weights_unlisted": Fault("answers", "another distribution"),
}
#: Faults of the weights, which only a comparison with a reference shows.
OF_WEIGHTS = frozenset(fault for fault, known in FAULTS.items() if known.finding in ("weights", "answers"))
#: Faults that are found where an endpoint answers one text at a time without logprobs, if there is a reference.
SEEN_IN_TEXTS = (
    "temperature_dropped", "greedy_samples", "top_p_dropped", "bias_dropped", "bias_clamped",
    "penalties_count_prompt", "seed_dropped", "seed_constant", "stop_dropped", "length_one_more",
)  # fmt: skip
#: Honest variants of the server: choices that an endpoint is free to make.
HONEST = (
    "plain",
    "lists_end",
    "no_ids",
    "random_ties",
    "five_alternatives",
    "refuses_extensions",
    "stop_kept",
    "jitter",
)


#: The alternatives that `Server` lists in a context, kept by everything that they depend on.
_LISTS: dict[Any, tuple[np.ndarray, list[dict[str, Any]]]] = {}


@dataclass
class Server:
    """An endpoint: `server(body)` answers a chat completion.

    Args:
        fault: one of `FAULTS`, or of `HONEST`.
        seed: of the noise of requests that have no seed.
        scores: whether it lists the logprobs of a prompt's tokens.
        texts_only: whether it answers one text without logprobs, and refuses n.
    """

    fault: str = "plain"
    seed: int = 0
    scores: bool = False
    texts_only: bool = False
    requests: int = 0
    tokens: int = 0
    weights: Weights = WEIGHTS
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        assert self.fault in FAULTS or self.fault in HONEST, self.fault
        self.rng = np.random.default_rng([self.seed, 5])
        if self.fault.startswith("other_weights"):
            self.weights = Weights.of(2)
        elif self.fault == "changed_weights":
            self.weights = self.weights.changed(0.12)
        elif bits := {"bfloat16_weights": 16, "int8_weights": 8, "int4_weights": 4}.get(self.fault):
            self.weights = self.weights.rounded(bits)

    # --- the model ---

    def _logits(self, prompt: str, made: list[int], n: int) -> np.ndarray:
        # Words after "Not" in a prompt change no logit, so that the distribution does not depend on them.
        if self.fault == "hidden_prompt":
            prompt = f"You are a pirate. {prompt}"
        logits = self.weights.prompts[zlib.crc32(prompt.partition(" Not ")[0].encode()) % 64].copy()
        if made:
            logits += self.weights.last[made[-1]]
        if self.weights.bfloat16:
            logits = _bfloat16(logits)
        if self.fault == "batch_rounds" and n > 1:
            logits = np.round(logits * 4) / 4
        if self.fault == "jitter":
            logits += 1e-3 * self.rng.normal(size=V)
        return np.asarray(logits)

    # --- the sampler: logits of the distribution to draw from ---

    def _processed(self, logits: np.ndarray, body: Mapping[str, Any], prompt: str, made: list[int]) -> np.ndarray:
        fault = self.fault
        x = logits.copy()
        t = float(body.get("temperature", 1.0))
        bias = {int(token): float(value) for token, value in (body.get("logit_bias") or {}).items()}
        if fault == "bias_dropped":
            bias = {}
        if fault == "bias_clamped":
            bias = {token: float(np.clip(value, -1.5, 1.5)) for token, value in bias.items()}
        if fault != "bias_after_temperature":
            for token, value in bias.items():
                x[token] += value
        counts = np.bincount(made, minlength=V).astype(float) if made else np.zeros(V)
        named = np.zeros(V, bool)
        for word in re.findall(r"\w+", prompt):
            if word in BY_WORD:
                named[BY_WORD[word]] = True
        r = float(body.get("repetition_penalty", 1.0))
        if r != 1.0 and fault != "repetition_dropped":
            seen = (counts > 0) | (named & (fault != "repetition_output_only"))
            down = x / r if fault == "repetition_divides" else np.where(x > 0, x / r, x * r)
            x = np.where(seen, down, x)
        counted = counts + named if fault == "penalties_count_prompt" else counts
        often = np.minimum(counted, 1) if fault == "frequency_once" else counted
        once = {"presence_by_count": counted, "presence_dropped": 0 * counted}.get(fault, np.minimum(counted, 1))
        x = x - float(body.get("frequency_penalty", 0.0)) * often - float(body.get("presence_penalty", 0.0)) * once
        if t < 1e-5 and fault not in ("temperature_dropped", "greedy_samples"):
            return np.where(np.arange(V) == int(np.argmax(x)), 0.0, -np.inf)
        t = max(t, 1e-5)
        t = {"temperature_dropped": 1.0, "temperature_inverted": 1 / t, "temperature_clamped": min(t, 1.0)}.get(
            fault, t
        )
        t = 1.0 if fault == "greedy_samples" and t <= 1e-5 else t
        if fault == "top_p_before_temperature":
            x = self._top_p(x, body)
        if fault == "min_p_before_temperature":
            x = self._min_p(x, body)
        x = x / t
        if fault == "bias_after_temperature":
            for token, value in bias.items():
                x[token] += value
        if fault == "top_p_before_top_k":
            x = self._top_p(x, body)
        x = self._top_k(x, body)
        if fault not in ("top_p_before_temperature", "top_p_before_top_k"):
            x = self._top_p(x, body)
        if fault != "min_p_before_temperature":
            x = self._min_p(x, body)
        return np.asarray(x)

    def _top_k(self, x: np.ndarray, body: Mapping[str, Any]) -> np.ndarray:
        k = int(body.get("top_k", -1))
        if k <= 0 or self.fault == "top_k_dropped":
            return x
        k = min(V, k + (self.fault == "top_k_one_more"))
        if self.fault == "top_k_keeps_ties":
            return np.where(x >= np.sort(x)[-k] - 1e-12, x, -np.inf)
        noise = self.rng.random(V) if self.fault == "random_ties" else np.arange(V)
        kept = np.lexsort((noise, -x))[:k]
        out = np.full(V, -np.inf)
        out[kept] = x[kept]
        return out

    def _top_p(self, x: np.ndarray, body: Mapping[str, Any]) -> np.ndarray:
        p = float(body.get("top_p", 1.0))
        if p >= 1 or self.fault == "top_p_dropped":
            return x
        order = np.argsort(-x, kind="stable")
        q = np.exp(x[order] - x.max())
        q /= q.sum()
        upto = np.cumsum(q)
        kept = upto <= p if self.fault == "top_p_exclusive" else upto - q < p
        kept[0] = True
        out = np.full(V, -np.inf)
        out[order[kept]] = x[order[kept]]
        return out

    def _min_p(self, x: np.ndarray, body: Mapping[str, Any]) -> np.ndarray:
        m = float(body.get("min_p", 0.0))
        if m <= 0 or self.fault == "min_p_dropped":
            return x
        top = np.logaddexp.reduce(x) if self.fault == "min_p_absolute" else x.max()
        return np.where(x >= min(top + math.log(m), x.max()), x, -np.inf)

    # --- noise ---

    def _generator(self, body: Mapping[str, Any], choice: int) -> np.random.Generator:
        """The random generator of a choice."""
        given, fault = body.get("seed"), self.fault
        if given is None or fault == "seed_dropped" or (fault == "seed_first_choice" and choice):
            return np.random.default_rng(self.rng.integers(2**63))
        seed = int(given)
        if fault == "seed_32_bits":
            seed %= 2**32
        parts = {
            "seed_constant": [7, choice], "seed_clones": [seed], "seed_plus_index": [seed + choice],
        }.get(fault, [seed, choice])  # fmt: skip
        return np.random.default_rng(parts)

    def _noise(self, source: np.random.Generator, shape: tuple[int, ...], seeded: bool) -> np.ndarray:
        u = source.random(shape)
        if self.fault == "noise_coarse":  # uniform numbers of 4 bits, none of them 0 or 1
            u = (np.floor(u * 16) + 0.5) / 16
        if self.fault == "noise_exponential" and seeded:
            return -np.log(u)
        return -np.log(-np.log(u))

    # --- the API ---

    def __call__(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.requests += 1
        known = {"model", "messages", "n", "seed", "stop", "max_tokens", "logprobs", "top_logprobs", "temperature",
                 "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty",
                 "logit_bias"}  # fmt: skip
        if self.fault == "refuses_extensions":
            known -= {"top_k", "min_p", "repetition_penalty"}
        if self.scores:
            known |= {"prompt_logprobs"}
        if self.texts_only:
            known -= {"n", "top_k", "min_p"}
        for name in body:
            if name not in known:
                raise RequestError(f"unknown field {name!r}", param=name)
        if self.fault == "five_alternatives" and (body.get("top_logprobs") or 0) > 5:
            raise RequestError("top_logprobs must be at most 5", param="top_logprobs")
        prompt = body["messages"][-1]["content"]
        words = " ".join(each["content"] for each in body["messages"]).split()
        if self.fault == "hidden_prompt":
            words = ["You", "are", "a", "pirate.", *words]
        n = 1 if self.fault == "n_dropped" else int(body.get("n", 1))
        made = self._single(prompt, body, n) if body.get("max_tokens") == 1 and n > 1 else None
        if made is None:
            made = [self._generate(prompt, body, choice, n) for choice in range(n)]
        if self.fault == "n_clones":
            made = [made[0]] * n
        if self.fault == "n_pairs":
            made = [made[choice // 2 * 2] for choice in range(n)]
        choices = [self._choice(index, one, prompt, body, n) for index, one in enumerate(made)]
        many = sum(len(one) for one in made)
        self.tokens += many
        counted = len(made[0]) if self.fault == "usage_counts_one_choice" else many
        usage = {"completion_tokens": counted, "prompt_tokens": len(words)}
        found = {"choices": choices, "usage": usage, "model": "puppet"}
        if body.get("prompt_logprobs") is not None:
            found["prompt_logprobs"] = self._forced(words, int(body["prompt_logprobs"]))
        return found

    def _forced(self, words: list[str], top: int) -> list[dict[str, Any] | None]:
        """What is listed of a prompt whose tokens are its words, each under a number that its letters give."""
        tokens = [1 + zlib.crc32(word.encode()) % (V - 1) for word in words]
        found: list[dict[str, Any] | None] = [None]
        for at, token in enumerate(tokens[1:], start=1):
            x = self._logits(" ".join(words[:at]), tokens[:at], 1)
            lp = x - np.logaddexp.reduce(x)
            ranked = np.argsort(-lp, kind="stable")
            listed = [token, *(int(one) for one in ranked[:top] if one != token)]
            found.append({str(one): {"logprob": float(lp[one]), "decoded_token": TEXTS[one]} for one in listed})
        return found

    def _single(self, prompt: str, body: Mapping[str, Any], n: int) -> list[list[int]] | None:
        """One token for each of n choices at once; None where that is not possible."""
        if self.fault in ("length_one_more", "random_ties"):
            return None
        distribution = self._processed(self._logits(prompt, [], n), body, prompt, [])
        if body.get("seed") is None:
            noise = self._noise(np.random.default_rng(self.rng.integers(2**63)), (n, V), False)
        else:
            noise = np.stack([self._noise(self._generator(body, choice), (V,), True) for choice in range(n)])
        return [[int(one)] for one in np.argmax(distribution + noise, axis=1)]

    def _generate(self, prompt: str, body: Mapping[str, Any], choice: int, n: int) -> list[int]:
        source = self._generator(body, choice)
        seeded = body.get("seed") is not None
        made: list[int] = []
        limit = int(body["max_tokens"]) + (self.fault == "length_one_more")
        stops = body.get("stop") or []
        noise = self._noise(source, (V,), seeded)
        while len(made) < limit:
            distribution = self._processed(self._logits(prompt, made, n), body, prompt, made)
            if self.fault == "drafts_accepted" and made:
                distribution = distribution / 0.7
            made.append(int(np.argmax(distribution + noise)))
            if self.fault != "noise_repeats":
                noise = self._noise(source, (V,), seeded)
            text = "".join(TEXTS[token] for token in made)
            if made[-1] == END or self._stop(text, made, stops) is not None:
                break
        return made

    def _stop(self, text: str, made: list[int], stops: list[str]) -> int | None:
        """The length to which a stop text truncates an answer; None where none of them occurs in it."""
        if self.fault == "stop_dropped":
            return None
        if self.fault == "stop_whole_tokens":
            return len(text) - len(TEXTS[made[-1]]) if TEXTS[made[-1]] in stops else None
        if self.fault == "stop_keeps_token":
            return len(text) if any(stop in text for stop in stops) else None
        found = [text.find(stop) + len(stop) * (self.fault == "stop_kept") for stop in stops if stop in text]
        return min(found) if found else None

    def _choice(self, index: int, made: list[int], prompt: str, body: Mapping[str, Any], n: int) -> dict[str, Any]:
        ended = made[-1] == END
        shown = made[:-1] if ended else made
        text = "".join(TEXTS[token] for token in shown)
        end = self._stop(text, shown, body.get("stop") or []) if shown else None
        reason = "stop" if ended or end is not None or self.fault == "length_says_stop" else "length"
        found: dict[str, Any] = {
            "index": index, "message": {"content": text if end is None else text[:end]}, "finish_reason": reason,
        }  # fmt: skip
        if body.get("logprobs") and not self.texts_only and self.fault != "other_weights_unlisted":
            top = int(body.get("top_logprobs") or 0)
            entries = [self._entry(prompt, made[:at], token, body, top, n) for at, token in enumerate(shown)]
            found["logprobs"] = {"content": entries}
            if ended and self.fault == "lists_end":
                found["logprobs"]["end"] = [self._entry(prompt, made[:-1], END, body, top, n)]
        return found

    def _entry(
        self, prompt: str, made: list[int], token: int, body: Mapping[str, Any], top: int, n: int
    ) -> dict[str, Any]:
        if self.fault in ("jitter", "logprobs_after_temperature", "logprobs_after_filters"):
            lp, listed = self._listed(prompt, made, body, top, n)
        else:
            # The same list for the same context: a test asks for it thousands of times.
            key = (self.fault, float(self.weights.prompts[0, 1]), prompt, made[-1] if made else None, n > 1, top)
            if key not in _LISTS:
                _LISTS[key] = self._listed(prompt, made, body, top, n)
            lp, listed = _LISTS[key]
        return {**self._named(token, lp), "top_logprobs": listed}

    def _listed(
        self, prompt: str, made: list[int], body: Mapping[str, Any], top: int, n: int
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        x = self._logits(prompt, made, n)
        if self.fault == "logprobs_after_temperature":
            x = x / max(float(body.get("temperature", 1.0)), 1e-5)
        if self.fault == "logprobs_after_filters":
            x = self._processed(x, body, prompt, made)
        lp = x - np.logaddexp.reduce(x)
        if self.fault == "alternatives_capped":
            top = min(top, 5)
        order = np.argsort(-lp, kind="stable")[:top]
        if self.fault == "alternatives_unsorted":
            order = np.sort(order)
        return lp, [self._named(int(one), lp) for one in order]

    def _named(self, token: int, lp: np.ndarray) -> dict[str, Any]:
        raw = None if token == END else list(TEXTS[token].encode())
        ids = {} if self.fault == "no_ids" else {"token_id": token}
        return {"token": TEXTS[token], "bytes": raw, "logprob": max(float(lp[token]), -9999.0), **ids}
