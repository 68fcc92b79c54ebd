"""How much context a model gets: what its rope reaches, and what there is memory for."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import llmlab
from llmlab.backends.local.load_options import CACHE_SHARE, by_kernel, check_context, check_options, plan_context
from llmlab.errors import ContextLengthError, RequestError
from llmlab.models.config import Latent, ModelConfig, Rope
from llmlab.protocol.request import ChatRequest
from llmlab.testing import tiny_checkpoint


def shape(layers: int, heads: int, head_dim: int, context: int, rope: Rope | None = None) -> ModelConfig:
    """A decoder of which only the cache matters."""
    return ModelConfig(
        family="llama", vocab_size=1000, hidden_size=64, intermediate_size=64, num_layers=layers, num_heads=heads,
        num_kv_heads=heads, head_dim=head_dim, max_position=context, rope=rope or Rope(),
    )  # fmt: skip


#: The caches' shapes of three models that people serve on ordinary machines, and bytes of a position at float32.
MODELS = {
    "Qwen3-0.6B": (shape(28, 8, 128, 40960), 28 * 8 * 128 * 2 * 4),
    "Llama-3.2-1B": (shape(16, 8, 64, 131072), 16 * 8 * 64 * 2 * 4),
    "Llama-3.1-8B": (shape(32, 8, 128, 131072), 32 * 8 * 128 * 2 * 4),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("free", [4e9, 16e9])
def test_the_default_context_of_eight_slots_is_what_fits(name: str, free: float) -> None:
    config, position = MODELS[name]
    context, (note,) = plan_context(config, slots=8, max_context=None, dtype=np.float32, free=int(free))
    assert context & (context - 1) == 0 and context >= 128, "a cache bucket"
    assert 8 * context * position <= free * CACHE_SHARE < 8 * 2 * context * position, "the longest bucket that fits"
    assert f"context {context} of the model's {config.max_position}" in note and "max_context=" in note
    # Fewer slots have more room, as the note says.
    assert plan_context(config, slots=1, max_context=None, dtype=np.float32, free=int(free))[0] > context


def test_with_enough_memory_the_context_is_the_models_own_and_nothing_is_said() -> None:
    config, _ = MODELS["Qwen3-0.6B"]
    for free in (None, 10**12):
        assert plan_context(config, slots=8, max_context=None, dtype=np.float32, free=free) == (40960, ())
        assert plan_context(config, slots=None, max_context=3000, dtype=np.float32, free=free) == (3000, ())


def test_without_pinned_slots_one_row_has_to_fit() -> None:
    config, position = MODELS["Llama-3.1-8B"]
    context, (note,) = plan_context(config, slots=None, max_context=None, dtype=np.float32, free=16 * 10**9)
    assert context * position <= 8e9 < 2 * context * position and "one row of 131072 positions" in note


def test_a_context_that_is_asked_for_and_does_not_fit_is_refused_with_one_that_does() -> None:
    config, _ = MODELS["Qwen3-0.6B"]
    with pytest.raises(RequestError, match=r"a prompt being read of 32768 positions take 67\.\d GB") as caught:
        plan_context(config, slots=8, max_context=32768, dtype=np.float32, free=16 * 10**9)
    assert caught.value.param == "slots" and "give fewer slots or max_context=4096, which fits" in str(caught.value)
    assert plan_context(config, slots=8, max_context=4096, dtype=np.float32, free=16 * 10**9) == (4096, ())
    # Eight rows would fit alone.
    with pytest.raises(RequestError, match=r"slots=8 rows and a prompt being read of 8192 positions take 16\.9 GB"):
        plan_context(config, slots=8, max_context=8192, dtype=np.float32, free=16 * 10**9)
    assert plan_context(config, slots=7, max_context=8192, dtype=np.float32, free=16 * 10**9) == (8192, ())
    with pytest.raises(RequestError, match="give fewer slots or free some memory"):
        plan_context(config, slots=8, max_context=None, dtype=np.float32, free=10**6)


@pytest.mark.parametrize(
    ("rope", "context", "longest"),
    [
        (Rope(), 1024, 1024),
        (Rope(kind="yarn", factor=4.0, original_max_position=1024, stretched=4096), 4096, 4096),
        (Rope(kind="llama3", factor=8.0, original_max_position=64, stretched=512), 1024, 1024),
        (Rope(kind="linear", factor=4.0, original_max_position=1024), 1024, 4096),
    ],
)
def test_a_stretched_rope_reaches_further(rope: Rope, context: int, longest: int) -> None:
    config = shape(1, 2, 8, 1024, rope)
    assert plan_context(config, slots=None, max_context=None, dtype=np.float32, free=None) == (context, ())
    check_context(config, longest)
    with pytest.raises(RequestError, match=f"max_context must be at most {longest}, the model's own"):
        check_context(config, longest + 1)


def test_a_model_that_is_served_says_how_much_context_it_got(monkeypatch, tmp_path) -> None:
    from llmlab.backends.local import backend as local

    folder = tiny_checkpoint(tmp_path / "long", max_position_embeddings=131072)
    position = 2 * 2 * 8 * 2 * 4  # layers, key heads, their width, keys and values, float32
    monkeypatch.setattr(local, "free_memory", lambda devices=1: 2 * 8 * 1200 * position)
    backend = local.LocalBackend.load(folder, slots=8)
    facts = backend.describe()
    assert facts["context"] == backend.engine.max_context == 1024
    [note] = [note for note in facts["notes"] if note.startswith("context 1024 of the model's 131072")]
    assert "slots=8 rows of 131072 positions take 0.3 GB" in note
    answer = backend.complete(ChatRequest.build("hello", max_tokens=4, ignore_eos=True))
    assert answer.completion_tokens == 4
    with pytest.raises(ContextLengthError, match="context of 1024"):
        backend.complete(ChatRequest.build("x" * 1100))
    backend.close()


def device(platform: str, *, version: str = "", capability: str = "") -> SimpleNamespace:
    """What JAX says of a device."""
    client = SimpleNamespace(platform_version=version)
    return SimpleNamespace(platform=platform, device_kind="X", client=client, compute_capability=capability)


A100 = device("gpu", version="cuda 12090", capability="8.0")
LATENT = Latent(rank=8, query_rank=0, plain=4, rotated=4, value=8)


@pytest.mark.parametrize("attention", ["auto", "plain"])
def test_the_plain_product_is_what_every_device_gets(attention: str) -> None:
    for one in (device("cpu"), device("tpu"), A100):
        assert not by_kernel(attention, shape(2, 2, 64, 128), device=one, dtype="float16", mesh=object())


def test_a_kernel_is_for_the_devices_it_was_made_for() -> None:
    config = shape(2, 2, 64, 128)
    for one in (A100, device("tpu")):
        assert by_kernel("kernel", config, device=one, dtype="bfloat16")
    refused = [
        ({"device": device("cpu")}, "cpu"),
        ({"device": device("gpu", version="PJRT, rocm 60300", capability="gfx90a")}, "CUDA"),
        ({"device": device("gpu", version="cuda 12090", capability="7.5")}, "7.5"),
        ({"device": device("tpu"), "dtype": "float16"}, "bfloat16"),
        ({"config": replace(config, latent=LATENT)}, "latent"),
        ({"mesh": object()}, "mesh"),
    ]
    for changed, word in refused:
        with pytest.raises(RequestError, match=word) as error:
            by_kernel("kernel", **{"config": config, "device": A100, "dtype": "float32", **changed})
        assert error.value.param == "attention" and "plain" in error.value.message


def test_an_attention_that_is_unknown_is_refused() -> None:
    with pytest.raises(RequestError, match="'flash'"):
        check_options(dtype=None, max_context=None, slots=None, attention="flash")


def test_a_kernel_is_refused_before_any_weight_is_read(tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(RequestError, match=r"attention='kernel'.*\(cpu\)"):
        llmlab.load(folder, attention="kernel", quiet=True)
