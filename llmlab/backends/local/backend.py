"""The engine in this process as a backend: it loads a checkpoint and answers requests."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.backends.local import replay
from llmlab.backends.local.adapters import open_adapters, untied
from llmlab.backends.local.devices import device_facts, free_memory, own_devices
from llmlab.backends.local.dtypes import choose_dtypes
from llmlab.backends.local.kept_programs import keep_programs
from llmlab.backends.local.load_options import CACHE_SHARE, by_kernel, check_context, check_options, plan_context
from llmlab.backends.local.loaded import LoadedModel, draw_seed
from llmlab.backends.local.meshes import chosen_mesh, mesh_named, mesh_order
from llmlab.backends.local.processes import team_for
from llmlab.backends.local.stream import LocalStream, one_client
from llmlab.backends.local.team import Share
from llmlab.checkpoints.hub import resolve
from llmlab.engine.engine import Engine
from llmlab.engine.programs import Programs
from llmlab.engine.scheduler import Row
from llmlab.engine.search import Search
from llmlab.errors import CheckpointError, RequestError
from llmlab.models.families import parameter_count, read_config
from llmlab.protocol.backend import Candidates, GivenTokens, LogitsBackend, Scoring
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import Request
from llmlab.sampling.params import SamplingParams
from llmlab.text.template import ChatTemplate


class LocalBackend(LoadedModel, LogitsBackend):
    """A loaded model that answers requests. `LocalBackend.load` makes one from a name or a folder.

    `LoadedModel` is the half that turns requests into rows; this half submits the rows to the engine.
    """

    notes: tuple[str, ...] = ()  #: remarks about the loading, for the banner
    loaded: Mapping[str, Any] | None = None  #: the arguments of `load`; None if it was made in memory
    share: Share | None = None  #: the part of other processes, over which the model is spread
    retires: weakref.finalize[Any, Any]  #: frees the weights with this object

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
        token: str | None = None,
        adapter: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        attention: str = "auto",
        draft: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> LocalBackend:
        """Read a checkpoint and start an engine on it.

        Where the mesh spans several processes, this returns in process 0; the others follow it until it ends, and end.

        Args:
            name: "demo", a folder, a GGUF file, or a hub repository.
            dtype: float32, bfloat16, float16, int8 (weights of one byte, activations in the device's own float dtype),
                or "auto", the default: the device's own, see `dtypes.device_dtype`.
            max_context: positions that a row may take; default: the model's own limit, or what
                there is memory for.
            slots: pins the batch width, so that answers are equal to the bit whatever else is running.
            mesh: "auto" for all devices; or a `jax.sharding.Mesh` with axes `data` (which the rows of a batch are
                spread over), `model` (attention heads and feed-forward units) and `expert`, or some of them. By
                default the first device holds everything.
            chat_template: Jinja source, a file, or the name of one of the checkpoint's templates, in place of the
                default one.
            revision: the revision of a hub repository.
            token: an access token of the hub, for private and gated repositories.
            adapter: a LoRA adapter to merge into the weights: a folder as peft saves it, or a hub repository.
            adapters: name -> an adapter that lies beside the weights: a request names it as its `model`.
            attention: "plain", "kernel" or "auto", see `load_options.ATTENTIONS`.
            draft: how many tokens are guessed at a time from what a text has said before; by default none.
            progress: is told (bytes of weights loaded, bytes in total).

        Raises:
            ModelNotFoundError: there is no such model.
            CheckpointError: it is not a checkpoint that this package can run; the message says why.
            RequestError: an argument makes no sense, or asks for more than the model or the memory has.
            EngineError: another process is gone, or cannot be connected to.
        """
        given: dict[str, Any] = {
            "dtype": dtype, "max_context": max_context, "slots": slots, "revision": revision, "adapter": adapter,
            "adapters": adapters, "attention": attention, "draft": draft,
        }  # fmt: skip
        own: dict[str, Any] = {"token": token, "progress": progress}
        team = team_for(mesh, lambda order: cls._follow(order, **own)) if mesh is not None else None
        share = team.share({"name": name, **given}) if team is not None else None
        try:
            backend = cls._load(name, **given, **own, chat_template=chat_template, mesh=mesh, share=share)
            backend.loaded = {"name": name, **given, "chat_template": chat_template, "mesh": mesh, "token": token}
            return backend
        except BaseException:
            if share is not None:
                share.close()
            raise

    @classmethod
    def _follow(cls, order: Mapping[str, Any], **own: Any) -> Programs:
        """Loads what process 0 has named, for its programs."""
        backend = cls._load(**{**order, **own, "mesh": mesh_named(order["mesh"])})
        # The backend is dropped here; its engine is to keep the weights.
        backend.retires.detach()
        return backend.engine.programs

    @classmethod
    def _load(
        cls,
        name: str | Path,
        *,
        dtype: str | None,
        max_context: int | None,
        slots: int | None,
        mesh: Any,
        revision: str | None,
        token: str | None,
        adapter: str | Path | None,
        adapters: Mapping[str, str | Path] | None,
        attention: str,
        draft: int | None,
        progress: Callable[[int, int], None] | None,
        chat_template: str | Path | None = None,
        share: Share | None = None,
        facts: str | None = None,
    ) -> LocalBackend:
        import jax
        import jax.numpy as jnp

        from llmlab.checkpoints.load import load_model
        from llmlab.checkpoints.opened import open_checkpoint

        check_options(dtype=dtype, max_context=max_context, slots=slots, attention=attention, draft=draft, mesh=mesh)
        gc.collect()  # a lab that was dropped may still hold its weights: its results refer to it in a circle
        keep_programs()
        label, path = resolve(name, revision=revision, token=token)
        checkpoint = open_checkpoint(path)
        raw = checkpoint.config
        check_context(read_config(raw), max_context, draft=draft)
        device = jax.local_devices()[0]
        weights, floats, notes = choose_dtypes(raw, dtype, device=device)
        mesh = chosen_mesh(mesh, read_config(raw), dtype=weights)
        kernel = by_kernel(attention, read_config(raw), device=device, dtype=floats, mesh=mesh)
        own_facts = json.dumps([raw, weights, floats], sort_keys=True, default=str)
        if facts not in (None, own_facts):
            raise CheckpointError(f"{name} has another config.json there, or its devices take another dtype")
        if share is not None:
            share.load(mesh=mesh_order(mesh), facts=own_facts)
        with open_adapters(adapter, adapters, base=label, token=token) as opened:
            config, model = load_model(
                checkpoint,
                dtype=jnp.dtype(floats),
                int8=weights == "int8",
                progress=progress,
                mesh=mesh,
                adapter=opened.merged,
                beside=opened.beside,
            )
        config = replace(config, attention_kernel=kernel)
        notes += opened.notes
        notes += ("attention is computed by a kernel of this package",) if kernel else ()
        if read_config(raw).tie_word_embeddings != config.tie_word_embeddings:
            raw = untied(raw)
        tokenizer = checkpoint.read_tokenizer()
        if tokenizer.vocab_size > config.vocab_size:
            notes += (
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model {config.vocab_size}: "
                "a prompt that holds one of the others is refused",
            )
        ends = [token for token in tokenizer.eos_ids if 0 <= token < config.vocab_size]
        if len(ends) < len(tokenizer.eos_ids):
            notes += (f"of the end tokens {list(tokenizer.eos_ids)}, the model's vocabulary holds {ends or 'none'}",)
        if not tokenizer.eos_ids:
            notes += ("the checkpoint names no end token: an answer ends at max_tokens or a stop sequence",)
        notes += checkpoint.notes
        template = ChatTemplate(tokenizer, chat_template)
        notes += () if template.problem is None else (template.problem,)
        free = free_memory(own_devices(mesh))
        if share is not None:
            free = min((each for each in (free, *share.loaded()) if each is not None), default=None)
        max_context, remarks = plan_context(
            config, slots=slots, max_context=max_context, dtype=jnp.dtype(floats), free=free, mesh=mesh
        )
        engine = Engine(
            config,
            model,
            ends=ends,
            max_context=max_context,
            slots=slots,
            memory=None if free is None else int(free * CACHE_SHARE),
            mesh=mesh,
            relay=share,
            guesses=draft or 0,
        )
        backend = cls(label, tokenizer=tokenizer, template=template, engine=engine)
        # The driver thread holds the engine while it waits for work, and results may refer to the lab in a circle.
        backend.retires = weakref.finalize(backend, engine.retire)
        backend.retires.atexit = False
        backend.notes = (*notes, *remarks)
        backend.config_json = raw
        backend.share = share
        return backend

    def describe(self) -> dict[str, Any]:
        """Returns the facts that the banner shows: model, device, dtype, memory, context, notes."""
        found, mesh = device_facts(), self.engine.mesh
        notes = [*self.notes, *([found["warning"]] if found["warning"] else [])]
        if mesh is None and (count := found["count"]) > 1:
            notes.append(f"{count} devices are here and one is used: load(mesh='auto')")
        return {
            "model": self.name,
            "family": self.engine.config.family,
            "parameters": parameter_count(self.engine.config),
            "dtype": self.engine.programs.weights_dtype,
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
        self,
        *,
        orders: tuple[str, ...] = ("llmlab",),
        progress: Callable[[int, int], None] | None = None,
        wait: bool = True,
    ) -> None:
        """Compile every program that requests with these stage orders need; `progress` is told (done, total).

        Without `wait`, while there is nothing else to do, and without a report of progress.
        """
        self.engine.warmup(orders=orders, progress=progress, wait=wait)

    def reloaded(self, *, dtype: str) -> LocalBackend:
        """Load the same checkpoint once more, in another dtype and with the same options.

        Raises:
            RequestError: this one was not loaded from a checkpoint; also as in `load`.
        """
        if self.loaded is None:
            raise RequestError(f"{self.name} was not loaded from a checkpoint, so it cannot be loaded again")
        return LocalBackend.load(**{**self.loaded, "dtype": dtype})

    def together(self) -> AbstractContextManager[None]:
        """Returns a context in which all requests started count as one client's: they get slots one after another."""
        return one_client()

    def save_model(self, folder: Path, *, dtype: str | None = None) -> Path:
        """Write the model as a checkpoint folder, with its tokenizer, that transformers loads; returns the folder.

        Raises:
            RequestError: the dtype is none of those a checkpoint is stored in; the folder is the model's own; the
                model was not loaded from a checkpoint.
        """
        from llmlab.checkpoints.save import save_model

        if self.config_json is None:
            raise RequestError("the model was made in memory and has no config.json to save")
        if self.engine.programs.weights_dtype == "int8":
            raise RequestError("the weights were rounded to int8: load with a float dtype to save", param="dtype")
        mesh = self.engine.mesh
        if mesh is not None and own_devices(mesh) < mesh.size:
            raise RequestError(
                "the model is spread over several processes, none of which can save all of it: load it in one process, "
                "without a mesh or on that process's devices"
            )
        return save_model(
            folder,
            model=self.engine.programs.model,
            config=self.config_json,
            dtype=dtype or str(self.engine.programs.dtype),
            source=self.tokenizer.folder,
            tokenizer=self.tokenizer.hf,
            ends=self.tokenizer.eos_ids,
        )

    def close(self) -> None:
        """Stop the engine and free the weights."""
        self.engine.close()

    def complete(self, request: Request, *, order: str = "llmlab") -> Completion:
        """Run a request to its end; returns the whole answer.

        Raises:
            RequestError: this model cannot honour a field; ContextLengthError: the prompt does not fit.
        """
        return self.stream(request, order=order).result()

    def stream(self, request: Request, *, order: str = "llmlab") -> LocalStream:
        """Start a request; returns its deltas as they are made. Raises what `complete` does."""
        return self._start(request, order=order, statistics=True)

    def answer(self, request: Request) -> LocalStream:
        """Start a request as an endpoint does: tokens have statistics only if it asks for logprobs."""
        return self._start(request, order="llmlab", statistics=request.logprobs)

    def _start(self, request: Request, *, order: str, statistics: bool) -> LocalStream:
        prompt = self.render(request)
        negative = self.negative_prompt(request, prompt)
        grammar = self.grammar(request, prompt)
        budget = self.token_budget(request, max(len(prompt), len(negative)))
        seed = request.seed if request.seed is not None else draw_seed()
        first = replace(self.sampling_params(request, seed=seed), statistics=statistics)
        self.check_order(order, first)
        row = Row(
            prompt, first, budget=budget, ignore_ends=request.ignore_eos, grammar=grammar,
            adapter=self.adapter(request.model), negative=negative,
        )  # fmt: skip
        rows = [replace(row, params=replace(first, choice=i)) for i in range(request.n)]
        header = self.header(request, prompt, seed=seed, order=order)
        writers = [self.writer(request, prompt, index=i, seed=seed) for i in range(request.n)]
        return LocalStream(self.engine, rows, writers, header=header)

    def next_logits(self, prompt: np.ndarray, *, model: str | None = None) -> np.ndarray:
        """Returns the raw logits [V], float32, of the token after the prompt.

        Raises:
            ContextLengthError: the prompt does not fit.
        """
        if len(prompt) > self.engine.max_context:
            raise self.too_long(len(prompt), param=None)
        return self.engine.next_logits(prompt, adapter=self.adapter(model))

    def step_logits(
        self,
        prompt: np.ndarray,
        tokens: np.ndarray,
        *,
        given: int = 0,
        rows: int = 1,
        model: str | None = None,
        negative: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns the raw logits after `tokens`, by the decoding steps that made them; see `LogitsBackend`."""
        row = Row(
            prompt, SamplingParams(), budget=0, made=tokens[:given], adapter=self.adapter(model), negative=negative
        )
        return self.engine.step_logits(row, tokens[given:], rows=rows)

    def logits(self, prompt: np.ndarray, tokens: np.ndarray, *, model: str | None = None) -> Iterator[np.ndarray]:
        """Yields the raw logits that predict each of `tokens` [T] after a prompt, in pieces [C, V] of T rows in all."""
        return self.engine.logits(Row(prompt, SamplingParams(), budget=0, adapter=self.adapter(model)), tokens)

    @property
    def widest_search(self) -> int:
        """The most rows that `search` can have: those of the widest batch."""
        return self.engine.widths[-1]

    def search(self, prompt: np.ndarray, *, rows: int, max_tokens: int, model: str | None = None) -> Search:
        """Reads a prompt once, and opens up to `rows` rows of up to `max_tokens` tokens each; see `Engine.search`."""
        row = Row(prompt, SamplingParams(), budget=max_tokens, adapter=self.adapter(model))
        return self.engine.search(row, rows=rows)

    def grammar_masks(self, request: Request, *, prompt: np.ndarray, made: np.ndarray) -> np.ndarray | None:
        """Returns which tokens the grammar allows at each position, as packed bits; see `replay.grammar_masks`."""
        return replay.grammar_masks(self, request, prompt=prompt, made=made)

    def score(
        self, request: Request, given: Sequence[GivenTokens], *, seed: int | None = None, order: str = "llmlab"
    ) -> Completion:
        """Returns the logprobs of given tokens after a request's prompt; see `score_all`."""
        return self.score_all([Scoring(request, given, seed, order)])[0]

    def score_all(self, asked: Sequence[Scoring]) -> list[Completion]:
        """Returns what `score` does for several requests, their texts scored together; see `replay.score_all`."""
        return replay.score_all(self, asked)

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
