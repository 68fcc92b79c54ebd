"""Makes a lab: from a checkpoint that is loaded into this process, or from an endpoint elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmlab.display import banner
from llmlab.display.progress import progress_bar
from llmlab.errors import ModelNotFoundError, RequestError, short
from llmlab.lab.lab import Lab
from llmlab.protocol.arguments import listed
from llmlab.protocol.backend import Backend

__all__ = ["connect", "load"]


def load(
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
    quiet: bool = False,
) -> Lab:
    """Loads a model into this process, shows what it runs on, and returns a lab of it.

    Programs that JAX compiles are kept in the user's cache folder for the next start; the environment variable
    `LLMLAB_COMPILE_CACHE` names another folder or says "off".

    On several hosts, the same script calls `jax.distributed.initialize` and then this, with a mesh of the devices of
    all processes. It returns in process 0. In every other process it does not: that one loads its shards, runs what
    process 0 runs, and ends with exit code 0 when process 0 has ended. So only process 0 runs what follows in the
    script. If a process is gone, what process 0 asks is an `EngineError` that names it, and all of them end.

    Args:
        name: "demo" (the embedded model), a checkpoint folder, a GGUF file, the name of a Hugging Face hub repository,
            or that of a GGUF file in one ("owner/name/file.gguf").
        dtype: float32, bfloat16, float16, or int8: weights of one byte with a scale for each output, and activations in
            the device's own float dtype. By default ("auto") the device's own: float32 on a CPU, bfloat16 on a TPU and
            on a GPU, float16 on a GPU without bfloat16 units (a T4, a V100). Two ways to compute a token's raw logprob
            (score and generation, two batch widths) agree to 1e-4 in float32, 1e-1 in bfloat16 and 2e-2 in float16.
            Over a text the mean KL divergence from float32 is at most 2e-3 nats in bfloat16, 1e-4 in float16 and 1e-2
            in int8. In every dtype pinned slots give equal bits, and the sampler's stages are float32.
        max_context: the most tokens of prompt and answer together; by default the model's own limit, or what there is
            memory for (the banner says so).
        slots: pins the batch width, so that a request gives the same tokens alone or beside others.
        mesh: "auto" to use all devices, or a `jax.sharding.Mesh` with some of the axes `data` (the rows of a batch are
            spread over it), `model` (attention heads and feed-forward units) and `expert`; by default the first device
            holds all of the model. "auto" spreads the model over as few devices as it fits on, and rows over the rest.
        chat_template: Jinja source, a file, or the name of one of the checkpoint's templates, in place of its default.
        revision: the branch, tag or commit of a hub repository; an error beside anything else.
        token: an access token of the hub, for a private or gated repository; by default HF_TOKEN, or that of
            `hf auth login`.
        adapter: a LoRA adapter, which is merged into the weights: a folder as peft saves it, or a hub repository.
        adapters: name -> a LoRA adapter beside the weights, so that the model and its adapters answer in one lab:
            `model=` of a request, or of a sweep, is the name of one of them, or the model's own (`lab.backend.models`).
        attention: "plain" is XLA's own products, on every device. "kernel" is a kernel that reads only what is filled
            of the cache, on one CUDA GPU or TPU. "auto" is what was measured to be best: "plain" so far, because no GPU
            or TPU was measured; `llmlab bench --parts attention` compares both on yours.
        draft: how many tokens, 1 to 16, are guessed at a time, as what followed the last two tokens where they occurred
            before in the text (prompt lookup). One pass of the model reads the guesses, and each is kept iff it is the
            token that would have been drawn: a seed gives the same tokens, up to the rounding of a pass over several.
            On a CPU it gains only where an answer repeats its prompt (README has the measurement).
            `result.draft_frame()` and `result.plot_draft()` show how many passes of the model it saved.
            Requests with a grammar guess nothing.
        quiet: show no banner.

    Raises:
        ModelNotFoundError: there is no such model.
        CheckpointError: the checkpoint cannot be run; the message says why.
        RequestError: an argument is of the wrong type, or asks for more than the model or the memory allows.
    """
    from llmlab.backends.local.backend import LocalBackend

    if not isinstance(name, str | os.PathLike):
        raise RequestError(
            f"name must be demo, a checkpoint folder, a GGUF file or a hub repository, got {short(name)}", param="name"
        )
    if Path(name).suffix == ".parquet" and Path(name).expanduser().is_file():
        raise ModelNotFoundError(
            f"{name} is no model: llmlab.Result.load reads a result that was saved, llmlab.Sweep.load a sweep",
            param="model",
        )
    with progress_bar(total=None, unit="B", description="loading", scaled=True) as bar:

        def tell(done: int, everything: int) -> None:
            bar.total = everything
            bar.update(done - bar.n)

        backend = LocalBackend.load(
            name,
            dtype=dtype,
            max_context=max_context,
            slots=slots,
            mesh=mesh,
            chat_template=chat_template,
            revision=revision,
            token=token,
            adapter=adapter,
            adapters=adapters,
            attention=attention,
            draft=draft,
            progress=tell,
        )
    lab = Lab(backend)
    if not quiet:
        banner.show(lab)
    return lab


def connect(
    url: str | Sequence[str],
    *,
    api_key: str | None = None,
    model: str | None = None,
    concurrency: int = 8,
    retries: int = 4,
    timeout: float = 600.0,
    quiet: bool = False,
    **options: Any,
) -> Lab:
    """Returns a lab over an endpoint elsewhere, or several: any servers that speak the chat-completion API.

    Values that the endpoint does not return are NaN in the frames; deviations from a request are listed in a result's
    `notes`. Methods that need a model's logits (`next_token`, `score`, `branch`, `order=`) raise an error that says so.

    Every request states its parameters explicitly, so that the endpoint's own defaults do not apply: a seed,
    temperature 1 and no truncation where nothing else was asked, and the logprobs that the frames are made of. A
    parameter that the endpoint refuses is left out from then on, and choices that it does not send are requested one by
    one. Where it returns logprobs without saying from which distribution, two more requests of one token find out,
    once.

    Several endpoints that serve one model are one lab. Each request goes to the endpoint with the most room, so that a
    fast one gets more of a sweep. If an endpoint dies, others are asked the requests that were in progress there, with
    the same seeds, and the results' `notes` say so; it is used again once it is back. A stream that has been read in
    part is an error. Before an endpoint is used it is checked: it must have the model's name and context, and answer a
    greedy request as the others do. What may still make answers differ, such as other versions, is a warning in the
    banner, as is an endpoint that is down.

    Args:
        url: the base URL of the API, such as "http://127.0.0.1:8000/v1"; or a list of those of one model.
        api_key: sent as the bearer token.
        model: the model's name there; not needed where it serves only one.
        concurrency: the most requests at a time, for example those of a sweep; others wait. Of several endpoints, each
            has this limit.
        retries: how often a request is repeated that failed for a temporary reason (a full queue, a lost connection),
            with growing pauses that respect Retry-After.
        timeout: the most seconds without a byte from the endpoint; after that, another one of several is asked.
        quiet: show no banner.
        options: options of `openai.AsyncOpenAI`, such as `default_headers` and `default_query`.

    Raises:
        RequestError: an address is wrong or there twice; an endpoint serves another model than the others.
        ModelNotFoundError: an endpoint serves several models or none, and `model` was not given.
        LLMLabError: no endpoint can be reached, or one refuses the key.
    """
    from llmlab.backends.remote.backend import RemoteBackend
    from llmlab.backends.remote.fleet import Fleet

    own = {"dtype", "max_context", "slots", "mesh", "chat_template", "revision", "attention", "draft"}
    here = sorted(set(options) & own)
    if here:
        raise RequestError(
            f"{here[0]} is for a model that llmlab.load runs in this process; an endpoint was started with its own",
            param=here[0],
        )
    asked: dict[str, Any] = {
        **options, "api_key": api_key, "model": model, "concurrency": concurrency, "retries": retries,
        "timeout": timeout,
    }  # fmt: skip
    backend: Backend
    if isinstance(url, str):
        backend = RemoteBackend.connect(url, **asked)
    else:
        backend = Fleet.connect(listed("url", url, of="addresses"), **asked)
    lab = Lab(backend)
    if not quiet:
        banner.show(lab)
    return lab
