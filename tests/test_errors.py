from __future__ import annotations

import pickle

import pytest

from llmlab import errors


@pytest.mark.parametrize(
    ("cls", "status", "code", "builtin"),
    [
        (errors.LLMLabError, 500, None, Exception),
        (errors.RequestError, 400, None, ValueError),
        (errors.ContextLengthError, 400, "context_length_exceeded", errors.RequestError),
        (errors.ModelNotFoundError, 404, "model_not_found", errors.LLMLabError),
        (errors.CheckpointError, 500, None, ValueError),
        (errors.EngineError, 500, None, RuntimeError),
    ],
)
def test_each_error_has_its_status_its_code_and_its_builtin(cls, status, code, builtin):
    error = cls("what was wrong", param="model")
    assert isinstance(error, builtin) and isinstance(error, errors.LLMLabError)
    assert (error.status, error.code, error.param, str(error)) == (status, code, "model", "what was wrong")


def test_status_and_code_can_be_said_otherwise():
    error = errors.EngineError("the queue is full", status=429, code="queue_full")
    assert (error.status, error.code) == (429, "queue_full")


def test_the_body_is_the_api_shape():
    error = errors.ContextLengthError("too long", param="messages")
    assert error.to_dict() == {
        "error": {
            "message": "too long",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    }


def test_an_error_survives_a_process_border():
    error = errors.RequestError("no", param="n", code="odd", status=422)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.RequestError
    assert (str(again), again.param, again.code, again.status) == ("no", "n", "odd", 422)
