"""`llmlab serve --adapter NAME=FOLDER`: an adapter answers over HTTP as the merged model does in Python."""

from __future__ import annotations

import pytest
from openai import OpenAI

import llmlab
from llmlab.testing import tiny_checkpoint
from tests.checkpoints.lora_folders import write_adapter
from tests.serve.process import Process

pytestmark = pytest.mark.slow

ASKED = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0.0, "max_tokens": 12, "seed": 1}


def test_an_adapter_is_a_model_of_the_endpoint(tmp_path):
    base = tiny_checkpoint(tmp_path / "base")
    modules = [f"model.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")]
    adapter = write_adapter(tmp_path / "adapter", base, modules, lora_alpha=24)
    merged = llmlab.load(base, adapter=adapter, quiet=True)
    expected = merged.chat(ASKED["messages"], temperature=0.0, max_tokens=12).text
    merged.close()
    plain = llmlab.load(base, quiet=True)
    unlike = plain.chat(ASKED["messages"], temperature=0.0, max_tokens=12).text
    plain.close()
    assert expected != unlike
    process = Process("--model", str(base), "--adapter", f"mine={adapter}", log=tmp_path / "log")
    try:
        client = OpenAI(base_url=process.api, api_key="none")
        assert {"mine", "base"} <= {model.id for model in client.models.list()}
        texts = {
            name: client.chat.completions.create(model=name, **ASKED).choices[0].message.content
            for name in ("mine", "base")
        }
        assert texts == {"mine": expected, "base": unlike}
    finally:
        process.kill()
