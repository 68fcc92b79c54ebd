"""The training: it learns, it resumes bit for bit, and teacher forcing says what the model gives."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("optax")  # of the extra `train`

from data.build.conversation import Conversation, assistant, user
from data.build.packing import Batch, Encoder, shard
from data.build.train import CONFIG, Schedule, Trainer

DEMO = Path(__file__).parents[2] / "data" / "demo"
TINY = CONFIG | {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
                 "num_key_value_heads": 1, "head_dim": 8}  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(DEMO)


@pytest.fixture(scope="module")
def batches(encoder: Encoder) -> list[Batch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.build.packing.SHARD_CONVERSATIONS", 400)
        made = shard(encoder, seed=0, number=1, tokens_per_batch=512)
    return [batch for batch in made if batch.tokens.shape[1] == 128][:5]


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(TINY, seed=1)


# optax mixes dtypes where the project's own code may not.
@pytest.mark.slow
@jax.numpy_dtype_promotion("standard")
def test_it_learns_and_resumes_where_it_stopped(trainer: Trainer, batches: list[Batch], tmp_path: Path):
    losses = [float(trainer.step(batch, 0.02)[0, 0]) for batch in batches[:3]]
    trainer.save(tmp_path / "checkpoint.npz", {"step": 3})
    losses += [float(trainer.step(batch, 0.02)[0, 0]) for batch in batches[3:]]
    unbroken = [np.asarray(leaf) for leaf in jax.tree.leaves((trainer.params, trainer.state))]
    assert trainer.restore(tmp_path / "checkpoint.npz") == {"step": 3}
    for batch in batches[3:]:
        trainer.step(batch, 0.02)
    resumed = [np.asarray(leaf) for leaf in jax.tree.leaves((trainer.params, trainer.state))]
    assert all((one == other).all() for one, other in zip(unbroken, resumed, strict=True))
    assert losses[-1] < losses[0] - 0.1


def test_teacher_forcing_agrees_with_a_plain_forward_pass(trainer: Trainer, encoder: Encoder):
    conversation = Conversation("distributions", [user("Flip a coin."), assistant("Heads")])
    (logprob,), (right,) = trainer.teacher(encoder).score([conversation])
    head = encoder.tokenizer.encode(
        "<|im_start|>user\nFlip a coin.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    ids = head + encoder.tokenizer.encode("Heads<|im_end|>")
    length = len(ids)
    model = trainer.model()
    hidden, _ = model(jnp.array([ids], jnp.int32), jnp.arange(length, dtype=jnp.int32)[None])
    logprobs = jax.nn.log_softmax(model.logits(hidden)[0])
    expected = [float(logprobs[place - 1, ids[place]]) for place in range(len(head), length)]
    assert logprob == pytest.approx(sum(expected), abs=1e-4)
    assert right == all(int(logprobs[place - 1].argmax()) == ids[place] for place in range(len(head), length))


def test_the_learning_rate_rises_rests_and_falls_to_nothing():
    schedule = Schedule(1.0, warmup=10, plateau=0.4)
    assert schedule.at(0, 0.0) == pytest.approx(0.1)
    assert schedule.at(50, 0.3) == 1.0
    assert schedule.at(80, 0.7) == pytest.approx(0.5)
    assert schedule.at(99, 1.0) == 0.0
