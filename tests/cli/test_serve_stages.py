"""`llmlab serve --stages MODULE:NAME`: a stage in a file is a field of every path that generates."""

from __future__ import annotations

import openai
import pytest

from tests.conftest import ROOT
from tests.serve.bodies import http
from tests.serve.process import Process

pytestmark = pytest.mark.slow

WRITTEN = """
import jax.numpy as jnp

from llmlab.sampling import define_stage, number


@define_stage(number("n_sigma", 0, 10, default=0), kind="truncation")
def sigma(logits, inputs, history):
    top = jnp.max(logits, axis=-1, keepdims=True)
    spread = jnp.std(logits, axis=-1, keepdims=True, where=logits > -jnp.inf)
    return jnp.where(logits >= top - inputs.n_sigma[:, None] * spread, logits, -jnp.inf)
"""
ASK = "Name an animal."


def test_its_parameter_is_served(tmp_path):
    (tmp_path / "mine.py").write_text(WRITTEN)
    process = Process("--stages", "mine:sigma", log=tmp_path / "log", PYTHONPATH=f"{ROOT}:{tmp_path}")
    try:
        client = openai.OpenAI(base_url=process.api, api_key="none", max_retries=0)

        def chat(**more):
            messages = [{"role": "user", "content": ASK}]
            answer = client.chat.completions.create(
                model="demo", messages=messages, max_tokens=6, logprobs=True, extra_body={"seed": 7, **more}
            )
            return answer.choices[0].message.content, [token.kept for token in answer.choices[0].logprobs.content]

        def respond(**more):
            answer = client.responses.create(
                model="demo", input=ASK, max_output_tokens=6, extra_body={"seed": 7, **more}
            )
            return answer.output_text

        def complete(**more):
            answer = client.completions.create(model="demo", prompt=ASK, max_tokens=6, extra_body={"seed": 7, **more})
            return answer.choices[0].text

        text, kept = chat(n_sigma=0.5)
        assert (text, kept) == chat(top_n_sigma=0.5), "the library's stage of the same definition"
        assert max(kept) < max(chat()[1]) and respond(n_sigma=0.5) == respond(top_n_sigma=0.5) == text
        assert complete(n_sigma=0.5) == complete(top_n_sigma=0.5)
        for ask in (chat, respond, complete):
            with pytest.raises(openai.BadRequestError, match="n_sigma must be between 0 and 10, got 11") as error:
                ask(n_sigma=11)
            assert error.value.param == "n_sigma"
        document = http.get(process.api.removesuffix("/v1") + "/openapi.json", timeout=30).json()
        requests = [document["components"]["schemas"][name] for name in ("ChatRequest", "ResponsesRequest")]
        assert all("n_sigma" in each["properties"] for each in requests)
    finally:
        process.kill()
