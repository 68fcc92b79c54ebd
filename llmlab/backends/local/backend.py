"""The engine in this process as a backend: it loads a checkpoint and answers requests."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.backends.local import replay
from llmlab.backends.local.devices import device_facts, free_memory
from llmlab.backends.local.load_options import check_context, check_options, check_slots, choose_dtype
from llmlab.backends.local.loaded import LoadedModel
from llmlab.backends.local.stream import LocalStream, one_client
from llmlab.checkpoints.hub import resolve
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.models.families import parameter_count, read_config
from llmlab.models.sharding import checked_mesh
from llmlab.protocol.backend import Candidates, GivenTokens, LogitsBackend
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import Request
from llmlab.sampling.params import SamplingParams
from llmlab.text.template import ChatTemplate
from llmlab.text.tokenizer import Tokenizer

#: The share of the free memory that the batch's KV cache may take.
_CACHE_SHARE = 0.5


class LocalBackend(LoadedModel, LogitsBackend):
    """A loaded model that answers requests. `LocalBackend.load` makes one from a name or a folder.

    `LoadedModel` is the half that turns requests into rows; this half submits the rows to the engine.
    """

    notes: tuple[str, ...] = ()  #: remarks about the loading, for the banner

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        dtype: str | None = None,
        max_context: int | None = None,
        slots: int | None = None,
        mesh: Any = None,
        chat_template: str | Path | None = None,
        revision: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> LocalBackend:
        """Read a checkpoint and start an engine on it.

        Args:
            name: "demo", a folder, or a hub repository.
            dtype: float32, bfloat16 or float16. Default: the dtype in which the checkpoint is stored; on a CPU float32,
                because bfloat16 matrix products are more than ten times slower there.
            max_context: positions that a row may take; default: the model's own limit.
            slots: pins the batch width, so that answers are equal to the bit whatever else is running.
            mesh: a `jax.sharding.Mesh` with one axis. The attention heads, the feed-forward layers and the cache are
                spread over its devices; by default the first device holds everything.
            chat_template: Jinja source or a file, in place of the checkpoint's template.
            revision: the revision of a hub repository.
            progress: is told (bytes of weights loaded, bytes in total).

        Raises:
            ModelNotFoundError: there is no such model.
            CheckpointError: the folder is not a checkpoint that this package can run; the message says why.
            RequestError: an argument makes no sense, or asks for more than the model or the memory has.
        """
        import jax.numpy as jnp

        from llmlab.checkpoints.load import load_model, read_json

        check_options(dtype=dtype, max_context=max_context, slots=slots)
        label, folder = resolve(name, revision=revision)
        raw = read_json(folder, "config.json")
        check_context(read_config(raw), max_context)
        mesh = None if mesh is None else checked_mesh(mesh, read_config(raw))
        chosen, notes = choose_dtype(raw, dtype)
        config, model = load_model(folder, dtype=jnp.dtype(chosen), progress=progress, mesh=mesh)
        tokenizer = Tokenizer.load(folder)
        if tokenizer.vocab_size > config.vocab_size:
            notes += (
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model {config.vocab_size}: "
                "a prompt that holds one of the others is refused",
            )
        ends = [token for token in tokenizer.eos_ids if 0 <= token < config.vocab_size]
        if len(ends) < len(tokenizer.eos_ids):
            notes += (f"of the end tokens {list(tokenizer.eos_ids)}, the model's vocabulary holds {ends or 'none'}",)
        free = free_memory(mesh.size if mesh else 1)
        if slots and free is not None:
            length = max_context or config.max_position
            check_slots(config, slots=slots, max_context=length, dtype=jnp.dtype(chosen), free=free)
        engine = Engine(
            config,
            model,
            ends=ends,
            max_context=max_context,
            slots=slots,
            memory=None if free is None else int(free * _CACHE_SHARE),
            mesh=mesh,
        )
        backend = cls(label, tokenizer=tokenizer, template=ChatTemplate(tokenizer, chat_template), engine=engine)
        backend.notes = notes
        return backend

    def describe(self) -> dict[str, Any]:
        """Returns the facts that the banner shows: model, device, dtype, memory, context, notes."""
        found, mesh = device_facts(), self.engine.mesh
        notes = [*self.notes, *([found["warning"]] if found["warning"] else [])]
        if mesh is None and (count := found["count"]) > 1:
            notes.append(f"{count} devices are here and one is used: load(mesh=jax.make_mesh(({count},), ('model',)))")
        return {
            "model": self.name,
            "family": self.engine.config.family,
            "parameters": parameter_count(self.engine.config),
            "dtype": str(self.engine.programs.dtype),
            "device": f"{mesh.size} x {found['kind']}" if mesh and mesh.size > 1 else found["kind"],
            "platform": found["platform"],
            "weight_bytes": self.engine.programs.weight_bytes,
            "memory_bytes": found["memory_bytes"],
            "context": self.engine.max_context,
            "slots": self.engine.widths[0] if len(self.engine.widths) == 1 else None,
            "warning": found["warning"],
            "notes": notes,
        }

    def warmup(
        self, *, orders: tuple[str, ...] = ("llmlab",), progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Compile every program that requests with these stage orders need; `progress` is told (done, total)."""
        self.engine.warmup(orders=orders, progress=progress)

    def together(self) -> AbstractContextManager[None]:
        """Returns a context in which all requests started count as one client's: they get slots one after another."""
        return one_client()

    def close(self) -> None:
        """Stop the engine."""
        self.engine.close()

    def complete(self, request: Request, *, order: str = "llmlab") -> Completion:
        """Run a request to its end; returns the whole answer.

        Raises:
            RequestError: this model cannot honour a field; ContextLengthError: the prompt does not fit.
        """
        return self.stream(request, order=order).result()

    def stream(self, request: Request, *, order: str = "llmlab") -> LocalStream:
        """Start a request; returns its deltas as they are made. Raises what `complete` does."""
        self.check_order(order)
        prompt = self.render(request)
        grammar = self.grammar(request, prompt)
        budget = self.token_budget(request, len(prompt))
        seed = request.seed if request.seed is not None else draw_seed()
        params = [self.sampling_params(request, seed=seed, choice=i) for i in range(request.n)]
        rows = [Row(prompt, p, budget=budget, ignore_ends=request.ignore_eos, grammar=grammar) for p in params]
        header = self.header(request, prompt, seed=seed, order=order)
        writers = [self.writer(request, prompt, index=i, seed=seed) for i in range(request.n)]
        return LocalStream(self.engine, rows, writers, header=header)

    def next_logits(self, prompt: np.ndarray) -> np.ndarray:
        """Returns the raw logits [V], float32, of the token after the prompt.

        Raises:
            ContextLengthError: the prompt does not fit.
        """
        if len(prompt) > self.engine.max_context:
            raise self.too_long(len(prompt), param=None)
        return self.engine.next_logits(prompt)

    def step_logits(self, prompt: np.ndarray, tokens: np.ndarray, *, given: int = 0, rows: int = 1) -> np.ndarray:
        """Returns the raw logits [V], float32, after `tokens`, computed by the decoding steps that made them.

        Args:
            prompt: the prompt's token ids.
            tokens: the tokens generated after it.
            given: how many of the first ones were supplied, not sampled.
            rows: the batch size in which they were sampled; see `Engine.step_logits`.
        """
        row = Row(prompt, SamplingParams(), budget=0, made=tokens[:given])
        return self.engine.step_logits(row, tokens[given:], rows=rows)

    def logits(self, prompt: np.ndarray, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the raw logits that predict each of `tokens` [T] after a prompt, in pieces [C, V] of T rows in all."""
        return self.engine.logits(Row(prompt, SamplingParams(), budget=0), tokens)

    def grammar_masks(self, request: Request, *, prompt: np.ndarray, made: np.ndarray) -> np.ndarray | None:
        """Returns which tokens the grammar allows at each position, as packed bits; see `replay.grammar_masks`."""
        return replay.grammar_masks(self, request, prompt=prompt, made=made)

    def score(
        self, request: Request, given: Sequence[GivenTokens], *, seed: int | None = None, order: str = "llmlab"
    ) -> Completion:
        """Returns the logprobs of given tokens after a request's prompt; see `replay.score`."""
        return replay.score(self, request, given, seed=draw_seed() if seed is None else seed, order=order)

    def continue_from(
        self, request: Request, given: Sequence[GivenTokens], *, seed: int, order: str = "llmlab"
    ) -> LocalStream:
        """Start a request whose choices begin with given tokens; see `replay.continue_from`."""
        return replay.continue_from(self, request, given, seed=seed, order=order)

    def next_candidates(
        self, request: Request, made: Sequence[np.ndarray], *, order: str = "llmlab"
    ) -> Sequence[Candidates | None]:
        """Returns the most likely next tokens after each of several beginnings; see `replay.next_candidates`."""
        return replay.next_candidates(self, request, made, order=order)


def draw_seed() -> int:
    """Returns a random seed for a request that has none; below 2^53, so that every JSON reader keeps all its digits."""
    return secrets.randbelow(2**53)
