"""The engine in this process: the one place where a request becomes token ids, and tokens become an answer."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.backends.local import replay
from llmlab.backends.local.constraints import constraint
from llmlab.backends.local.devices import device, free_memory
from llmlab.backends.local.load_options import check_context, check_options, check_slots, choose_dtype
from llmlab.backends.local.stream import LocalStream, together
from llmlab.backends.local.writer import Writer, call_id
from llmlab.checkpoints.hub import resolve
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.errors import CheckpointError, ContextLengthError, ModelNotFoundError, RequestError, short
from llmlab.grammar.matcher import Grammar
from llmlab.grammar.vocabulary import Vocabulary
from llmlab.models.config import ModelConfig
from llmlab.models.sharding import checked_mesh
from llmlab.protocol.backend import Given, Next
from llmlab.protocol.completion import Completion, Header
from llmlab.protocol.request import ChatRequest, PromptRequest, Request
from llmlab.sampling.params import SamplingParams
from llmlab.sampling.pipeline import ORDERS
from llmlab.text.segments import Segmenter, prompt_tail
from llmlab.text.stops import StopMatcher
from llmlab.text.template import ChatTemplate
from llmlab.text.tokenizer import Tokenizer
from llmlab.version import __version__

#: What share of the free memory the batch's cache may take.
_CACHE_SHARE = 0.5


class LocalBackend:
    """A tokenizer, a template and an engine. `load` makes one from a name or a folder."""

    def __init__(self, name: str, *, tokenizer: Tokenizer, template: ChatTemplate, engine: Engine):
        self.name = name
        self.tokenizer = tokenizer
        self.template = template
        self.engine = engine
        self.token_bytes = tokenizer.token_bytes
        self.names = {i: tokenizer.name(i) for i, raw in enumerate(tokenizer.token_bytes) if raw is None}
        self.controls = template.format.controls(self.names)
        self.ends = engine.ends
        self.notes: tuple[str, ...] = ()

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
            dtype: float32, bfloat16 or float16; default: what the checkpoint is stored as, and float32 on a CPU, whose
                matrix products in bfloat16 are more than ten times slower.
            max_context: positions a row may take; default: the model's own.
            slots: pin the batch width, for answers that are equal to the bit whatever else is running.
            mesh: a `jax.sharding.Mesh` of one axis, over whose devices the heads, the feed-forward and the cache are
                spread; by default the first device has all.
            chat_template: Jinja source or a file, in place of the checkpoint's.
            revision: of a hub repository.
            progress: is told (bytes of weights that are loaded, all of them).

        Raises:
            ModelNotFoundError: no such model.
            CheckpointError: the folder is not a checkpoint that this package can run; the message says why.
            RequestError: an argument that makes no sense, or asks for more than the model or the memory has.
        """
        import jax.numpy as jnp

        from llmlab.checkpoints.load import load_model, read_json

        check_options(dtype=dtype, max_context=max_context, slots=slots)
        label, folder = resolve(name, revision=revision)
        raw = read_json(folder, "config.json")
        check_context(ModelConfig.from_dict(raw), max_context)
        mesh = None if mesh is None else checked_mesh(mesh, ModelConfig.from_dict(raw))
        chosen, notes = choose_dtype(raw, dtype)
        config, model = load_model(folder, dtype=jnp.dtype(chosen), progress=progress, mesh=mesh)
        tokenizer = Tokenizer.load(folder)
        if tokenizer.vocab_size > config.vocab_size:
            raise CheckpointError(
                f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model only {config.vocab_size}"
            )
        ends = [token for token in tokenizer.eos_ids if 0 <= token < config.vocab_size]
        if len(ends) < len(tokenizer.eos_ids):
            notes += (f"of the end tokens {list(tokenizer.eos_ids)}, the model's vocabulary holds {ends or 'none'}",)
        free = free_memory(mesh.size if mesh else 1)
        if slots and free is not None:
            room = max_context or config.max_position
            check_slots(config, slots=slots, max_context=room, dtype=jnp.dtype(chosen), free=free)
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

    @property
    def system_fingerprint(self) -> str:
        """What a figure depends on besides the request: versions, device kind, dtype, matmul precision, batch width."""
        import jax

        width = f"slots{self.engine.widths[0]}" if len(self.engine.widths) == 1 else "slots-auto"
        kind = jax.devices()[0].device_kind.replace(" ", "-").lower()
        kind += f"-x{self.engine.mesh.size}" if self.engine.mesh else ""
        return f"llmlab-{__version__}/jax-{jax.__version__}/{kind}/{self.engine.programs.dtype}/highest/{width}"

    def describe(self) -> dict[str, Any]:
        """What the banner shows."""
        found, mesh = device(), self.engine.mesh
        notes = [*self.notes, *([found["warning"]] if found["warning"] else [])]
        if mesh is None and (count := found["count"]) > 1:
            notes.append(f"{count} devices are here and one is used: load(mesh=jax.make_mesh(({count},), ('model',)))")
        return {
            "model": self.name,
            "family": self.engine.config.family,
            "parameters": self.engine.config.parameters,
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
        """Compile every program beforehand; `progress` is told (done, all)."""
        self.engine.warmup(orders=orders, progress=progress)

    def close(self) -> None:
        """Stop the engine."""
        self.engine.close()

    def complete(self, request: Request, *, order: str = "llmlab") -> Completion:
        """Run a request to its end.

        Raises:
            RequestError: a field that this model cannot honour; ContextLengthError: the prompt does not fit.
        """
        return self.stream(request, order=order).result()

    def stream(self, request: Request, *, order: str = "llmlab") -> LocalStream:
        """Start a request; see `complete`."""
        self.check_order(order)
        prompt = self.render(request)
        grammar = self.grammar(request, prompt)
        budget = self.budget(request, len(prompt))
        seed = request.seed if request.seed is not None else draw_seed()
        params = [self.sampling_params(request, seed=seed, choice=i) for i in range(request.n)]
        rows = [Row(prompt, p, budget=budget, ignore_ends=request.ignore_eos, grammar=grammar) for p in params]
        header = self.header(request, prompt, seed=seed, order=order)
        writers = [self.writer(request, prompt, index=i, seed=seed) for i in range(request.n)]
        return LocalStream(self.engine, rows, writers, header=header)

    #: `with backend.together()`: what is started within, such as a sweep's requests, ends one after the other.
    together = staticmethod(together)

    def grammar(self, request: Request, prompt: np.ndarray) -> Grammar | None:
        """What the request's answers must follow; None where they are free."""
        return constraint(
            request, format=self.template.format, vocabulary=self.vocabulary, prompt=self.prompt_tail(prompt)
        )

    def check_order(self, order: str) -> None:
        """Raises RequestError where there is no such order of stages."""
        if not isinstance(order, str) or order not in ORDERS:
            raise RequestError(f"order must be one of {', '.join(ORDERS)}, got {order!r}", param="order")

    def header(self, request: Request, prompt: np.ndarray, *, seed: int, order: str) -> Header:
        """What is known of an answer before its first token."""
        return Header(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.name,
            request=request,
            seed=seed,
            prompt_ids=prompt,
            system_fingerprint=self.system_fingerprint,
            names=self.names,
            order=order,
        )

    def render(self, request: Request) -> np.ndarray:
        """The prompt's token ids [L]."""
        if request.model is not None and request.model != self.name:
            raise ModelNotFoundError(
                f"the model {short(request.model)} does not exist; loaded is {self.name!r}", param="model"
            )
        ids = self._raw(request) if isinstance(request, PromptRequest) else self._templated(request)
        if not ids:
            raise RequestError(f"{request.subject}: there is not a single token in it", param=request.subject)
        return np.array(ids, np.int32)

    def _templated(self, request: ChatRequest) -> list[int]:
        tools = None if request.tool_choice == "none" else request.tools
        return self.template.prompt(
            request.messages,
            tools=tools,
            enable_thinking=request.enable_thinking,
            continue_final_message=request.continue_final_message,
            extra=request.chat_template_kwargs,
        ).ids

    def _raw(self, request: PromptRequest) -> list[int]:
        if isinstance(request.prompt, str):
            return self.tokenizer.encode(request.prompt, special=True)
        if max(request.prompt) >= self.tokenizer.vocab_size:
            raise RequestError(
                f"prompt: token id {max(request.prompt)} is not in the vocabulary (0..{self.tokenizer.vocab_size - 1})",
                param="prompt",
            )
        return list(request.prompt)

    def sampling_params(self, request: Request, *, seed: int, choice: int = 0) -> SamplingParams:
        """The request's sampling fields as the engine takes them; a bias outside the vocabulary is refused."""
        for token in request.logit_bias:
            if token >= self.tokenizer.vocab_size:
                raise RequestError(
                    f"logit_bias: token id {token} is not in the vocabulary (0..{self.tokenizer.vocab_size - 1})",
                    param="logit_bias",
                )
        return SamplingParams.of(request, seed=seed, choice=choice)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens, for grammars."""
        controls = {name: token for token, name in self.names.items()}
        return Vocabulary(self.token_bytes, size=self.engine.config.vocab_size, ends=self.ends, controls=controls)

    def prompt_tail(self, prompt: np.ndarray) -> bytes:
        """The end of a prompt, as far as it is one turn's text."""
        return prompt_tail(prompt.tolist(), token_bytes=self.token_bytes, controls=self.controls)

    def next_logits(self, prompt: np.ndarray) -> np.ndarray:
        """The raw logits [V], float32, of the token that follows the prompt."""
        if len(prompt) > self.engine.max_context:
            raise self._too_long(len(prompt), param=None)
        return self.engine.next_logits(prompt)

    def step_logits(self, prompt: np.ndarray, tokens: np.ndarray, *, given: int = 0, rows: int = 1) -> np.ndarray:
        """The raw logits [V], float32, behind `tokens`, drawn after the prompt in a request of so many `rows`.

        The first `given` of them were there already. See `Engine.step_logits`.
        """
        row = Row(prompt, SamplingParams(), budget=0, made=tokens[:given])
        return self.engine.step_logits(row, tokens[given:], rows=rows)

    def allowed(self, request: Request, *, prompt: np.ndarray, made: np.ndarray) -> np.ndarray | None:
        """The tokens [V] that the request's grammar has room for after `made`; None where answers are free."""
        grammar = self.grammar(request, prompt)
        return None if grammar is None else grammar.allowed(made.tolist())

    def budget(self, request: Request, prompt: int) -> int:
        """How many tokens an answer after so many of the prompt's may have."""
        left = self.engine.max_context - prompt
        if left < 1:
            raise self._too_long(prompt, param=request.subject)
        wanted = request.token_limit
        if wanted is None:
            return left
        if wanted > left and request.context_length_exceeded_behavior == "error":
            raise ContextLengthError(
                f"the prompt's {prompt} tokens and max_tokens {wanted} exceed the context of "
                f"{self.engine.max_context}; ask for at most {left}",
                param="max_tokens",
            )
        return min(wanted, left)

    def _too_long(self, prompt: int, *, param: str | None) -> ContextLengthError:
        return ContextLengthError(
            f"the prompt has {prompt} tokens, which leaves no room in the context of {self.engine.max_context}; "
            "shorten it",
            param=param,
        )

    def score(
        self, request: Request, given: Sequence[Given], *, seed: int | None = None, order: str = "llmlab"
    ) -> Completion:
        """The figures of given tokens after a request's prompt; see `llmlab.backends.local.replay.score`."""
        return replay.score(self, request, given, seed=draw_seed() if seed is None else seed, order=order)

    def go_on(self, request: Request, given: Sequence[Given], *, seed: int, order: str = "llmlab") -> LocalStream:
        """Start a request whose choices begin with given tokens; see `llmlab.backends.local.replay.go_on`."""
        return replay.go_on(self, request, given, seed=seed, order=order)

    def ways_on(self, request: Request, made: Sequence[np.ndarray], *, order: str = "llmlab") -> Sequence[Next | None]:
        """What may come behind each of some beginnings; see `llmlab.backends.local.replay.ways_on`."""
        return replay.ways_on(self, request, made, order=order)

    def logits(self, prompt: np.ndarray, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """The raw logits that tokens [T] after a prompt [L] were drawn from: pieces [C, V] that add up to T rows."""
        return self.engine.logits(Row(prompt, SamplingParams(), budget=0), tokens)

    def masks(self, request: Request, *, prompt: np.ndarray, made: np.ndarray) -> np.ndarray | None:
        """The tokens that the grammar allows at each position of `made`, as packed bits; see `replay.masks`."""
        return replay.masks(self, request, prompt=prompt, made=made)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text that continues something."""
        return self.tokenizer.encode(text)

    def writer(
        self, request: Request, prompt: np.ndarray, *, index: int, seed: int, stops: StopMatcher | None = None
    ) -> Writer:
        """What turns one choice's tokens into text, up to the request's own stops unless others are given."""
        tools = (request.tools or ()) if request.tool_choice != "none" else ()
        format = self.template.format
        segmenter = Segmenter(
            format,
            prompt=self.prompt_tail(prompt),
            tools=tools,
            parallel=request.parallel_tool_calls,
        )
        stops = stops or StopMatcher(request.stops, include=request.include_stop)
        length = format.calls.id_length if format.calls else 0
        return Writer(
            index,
            token_bytes=self.token_bytes,
            segmenter=segmenter,
            stops=stops,
            end_ids=() if request.ignore_eos else self.ends,
            controls=self.controls,
            separate_reasoning=request.separate_reasoning,
            parallel_tool_calls=request.parallel_tool_calls,
            min_tokens=request.min_tokens,
            name_call=partial(call_id, seed=seed, choice=index, prompt=prompt, length=length),
        )


def draw_seed() -> int:
    """A seed for a request that has none; below 2^53, so that every JSON reader returns it unharmed."""
    return secrets.randbelow(2**53)
