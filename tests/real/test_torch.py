"""The real model against transformers' torch model of the same file, which transformers reads in its own way."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.real

TEXT = (
    "The lighthouse stood at the end of a long spit of sand, and for most of the year nobody came. In winter the "
    "storms moved the sand, so that the path to the door was never twice the same; in summer a few walkers "
    "followed the shore, looked up at the lamp, and turned back before the tide. The keeper, whose name was Anna "
    "Weiss, wrote down what she saw in a book with a green cover: 14 ships on Monday, 3 on Tuesday, none at all "
    "on Wednesday, when fog lay over the water from six in the morning until after dark. She had been a teacher "
    "of mathematics before, and liked to count. On the first of March she counted the gulls on the roof (41), the "
    "steps to the lamp (212), and the days since the supply boat had last come: seventeen. There was flour left "
    "for a week, and oil for two. 'It is not yet time to worry', she wrote, and underlined the second word; then "
    "she went up to clean the glass."
)


@pytest.fixture(scope="module")
def torch_model(smollm2):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(2)
    return AutoModelForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()


def test_logits_of_200_tokens(lab, torch_model):
    import torch

    ids = np.array(lab.tokenize(TEXT)[:200], np.int32)
    assert len(ids) == 200
    with torch.no_grad():
        expected = torch_model(torch.tensor(ids[None], dtype=torch.long)).logits[0].numpy()
    found = np.concatenate(list(lab.backend.logits(ids[:1], ids[1:])))
    difference = np.abs(found - expected[:-1]).max()
    print(f"largest logit difference {difference:.1e} over {found.shape}, largest logit {np.abs(expected).max():.1f}")
    assert found.shape == (199, 49152)
    assert difference <= 1e-3


def test_128_greedy_tokens(lab, torch_model):
    """Each of them is the most likely one to torch, after those before it."""
    import torch

    answer = lab.complete("Once upon a time there was a lighthouse keeper who", temperature=0.0, max_tokens=128)
    ids, made = np.array(answer.prompt_ids), np.array(answer.choices[0].tokens.ids)
    assert len(made) == 128
    whole = torch.tensor(np.concatenate([ids, made])[None], dtype=torch.long)
    with torch.no_grad():
        logits = torch_model(whole).logits[0, len(ids) - 1 : -1].numpy()
    np.testing.assert_array_equal(logits.argmax(-1), made)
    best = np.sort(logits)[:, -2:]
    print(f"128 tokens, {len(set(made.tolist()))} different; the smallest margin is {np.ptp(best, axis=-1).min():.1e}")


def test_saved_as_safetensors_it_has_the_weights_that_torch_has(lab, torch_model, tmp_path):
    folder = lab.save_model(tmp_path / "saved")
    saved = load_file(folder / "model.safetensors")
    expected = {name: value.numpy() for name, value in torch_model.state_dict().items() if name != "lm_head.weight"}
    assert saved.keys() == expected.keys()
    for name, value in saved.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-8, err_msg=name)
