"""Audits from outside: reports, budgets, refusals, the command, real HTTP and the real engine."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from typer.testing import CliRunner

import llmlab
from llmlab.audit.audit import TESTS, audit
from llmlab.audit.report import AUDIT_COLUMNS, Audit
from llmlab.audit.subject import Finding
from llmlab.backends.local.dtypes import coarser
from llmlab.cli.app import app
from llmlab.errors import EngineError, RequestError
from llmlab.protocol.backend import LogitsBackend
from tests.audit.broken import WEIGHTS, Server
from tests.audit.tables import reference
from tests.columns import assert_declared


class _Handler(BaseHTTPRequestHandler):
    """Speaks the API over HTTP/1.1 for a `Server`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._send(200, {"object": "list", "data": [{"id": "puppet", "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/chat/completions"
        try:
            with self.server.lock:
                found = self.server.puppet(body)
        except RequestError as error:
            said = {"message": error.message, "type": "invalid_request_error", "param": error.param, "code": None}
            return self._send(400, {"error": said})
        self._send(200, {"id": "x", "object": "chat.completion", "created": 1, **found})

    def _send(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def http():
    """Serves a `Server` over HTTP; returns a function that does, and gives its address."""
    servers = []

    def start(puppet):
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.daemon_threads = True
        server.puppet, server.lock = puppet, threading.Lock()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_over_http(http):
    """The endpoint is seen as it is: a lab would have sorted the alternatives and asked again for missing choices."""
    puppet = Server("alternatives_unsorted", 3)
    lab = llmlab.connect(http(puppet), quiet=True)
    found = lab.audit(only=["top_logprobs", "top_k", "seed", "stop"])
    lab.close()
    assert [one.name for one in found.found] == ["top_logprobs"], found
    assert {one.name: one.ok for one in found.findings} == {
        "top_logprobs": False, "top_k": True, "seed": True, "stop": True,
    }  # fmt: skip
    assert puppet.requests == found.requests


def test_the_command(http, tmp_path):
    """Exit status 1 and a reason where something is found, 0 where nothing is, 2 where the endpoint is none."""
    broken, honest = http(Server("top_k_dropped", 3)), http(Server("plain", 3))
    only = ["--only", "top_k", "--only", "n"]
    done = CliRunner().invoke(app, ["audit", broken, "--json", *only])
    assert done.exit_code == 1, done.output
    said = json.loads(done.stdout)
    assert set(said["findings"][0]) == {"name", "ok", "p_value", "what"}
    first, second = said["findings"]
    assert (first["name"], first["ok"]) == ("top_k", False) and first["p_value"] < 1e-6
    assert "top_k is ignored" in first["what"] and "should keep exactly" in first["what"]
    assert (second["name"], second["ok"], second["p_value"]) == ("n", True, 1.0)
    assert "at most 500 requests and 60,000 tokens" in done.stderr
    done = CliRunner().invoke(app, ["audit", honest, *only, "--html", str(tmp_path / "report.html")])
    assert done.exit_code == 0 and "nothing found in 2 tests" in done.stdout, done.output
    assert "nothing found in 2 tests" in (tmp_path / "report.html").read_text("utf-8")
    done = CliRunner().invoke(app, ["audit", "http://127.0.0.1:9/v1", "--model", "m"])
    assert done.exit_code == 2 and "127.0.0.1:9" in done.stderr
    done = CliRunner().invoke(app, ["audit", honest, "--only", "topk"])
    assert done.exit_code == 2 and "there is no test 'topk'; the tests are top_logprobs, n" in done.stderr


def test_several_endpoints_cannot_be_audited_as_one(http):
    lab = llmlab.connect([http(Server("plain")), http(Server("plain"))], quiet=True, model="puppet")
    with pytest.raises(RequestError, match="several endpoints here; llmlab.connect one of them"):
        lab.audit()
    lab.close()


def test_the_engine_is_honest(demo):
    """The embedded model, through the code of the HTTP server."""
    names = ["clones", "logprobs", "seed", "temperature", "top_k", "top_p", "stop"]
    found = demo.audit(seed=11, only=names)
    print(found)
    assert found.ok, found
    tested = {one.name for one in found.findings if one.ok}
    assert {"clones", "logprobs", "seed", "stop"} <= tested and tested & {"top_k", "top_p"}, found


@pytest.mark.slow
def test_the_engine_is_honest_by_every_test(demo):
    """With its own weights as the reference."""
    found = demo.audit(seed=11, reference=demo)
    print(found)
    assert found.ok and sum(one.ok is True for one in found.findings) >= 20, found
    assert found.requests <= 500 and found.tokens <= 60_000


@pytest.mark.parametrize(("requests", "tokens"), [(25, 60_000), (500, 800), (500, 2_000)])
def test_it_stops_within_its_budget(requests, tokens):
    server = Server("plain", 1)
    found = audit(server, model="puppet", max_requests=requests, max_tokens=tokens, parallel=1)
    assert server.requests == found.requests <= requests and server.tokens == found.tokens <= tokens
    missing = [one for one in found.findings if one.ok is None]
    assert any("budget" in one.what for one in missing) and found.ok
    assert {one.name for one in found.findings} == {name for test in TESTS for name in test.names}


def test_an_audit_repeats_itself():
    one, other = (audit(Server("plain", at), model="puppet", seed=5, parallel=1, only=["noise"]) for at in (1, 2))
    assert one.findings == other.findings


def test_refused_fields_are_named_and_not_held_against_it():
    found = audit(
        Server("refuses_extensions", 1), model="puppet", parallel=1, only=["min_p", "repetition_penalty", "seed"]
    )
    refused = {one.name: one.what for one in found.findings if one.ok is None}
    assert found.ok and "refuses it (unknown field 'min_p')" in refused["min_p"]


def test_a_failure_of_the_endpoint_is_reported():
    server = Server("plain", 1)

    def send(body):
        if "stop" in body:
            raise EngineError("the process was killed")
        return server(body)

    found = audit(send, model="puppet", parallel=1, only=["stop", "top_k"])
    assert {one.name: one.ok for one in found.findings} == {"top_k": True, "stop": None}
    assert "answers with an error (the process was killed)" in found.findings[-1].what


def test_without_logprobs():
    """Tests that need no distribution are made all the same."""
    server = Server("n_clones", 1)

    def send(body):
        found = server(body)
        return {**found, "choices": [{**one, "logprobs": None} for one in found["choices"]]}

    found = audit(send, model="puppet", parallel=1, only=["clones", "logprobs", "top_p", "noise", "stop", "batch"])
    assert [one.name for one in found.found] == ["clones"], found
    assert all(one.ok is None for one in found.findings if one.name in ("logprobs", "top_p", "noise"))


def test_without_logprobs_a_reference_knows_the_distributions():
    """Of an endpoint that answers one text at a time, what the sampler does is seen; what needs its lists is not."""
    names = ["temperature", "top_p", "stop", "max_tokens", "logprobs", "later_tokens", "weights", "usage"]
    server = Server("top_p_dropped", 4, texts_only=True)
    found = audit(server, model="puppet", reference=reference(4), parallel=1, only=names)
    said = {one.name: one for one in found.findings}
    assert [one.name for one in found.found] == ["top_p"] and "is ignored" in said["top_p"].what, found
    assert all(said[name].ok for name in ("temperature", "stop", "max_tokens")), found
    assert all("lists no" in said[name].what for name in ("logprobs", "later_tokens", "weights", "usage")), found
    alone = audit(Server("top_p_dropped", 4, texts_only=True), model="puppet", parallel=1, only=names)
    assert alone.ok and "no distribution is known" in {one.name: one for one in alone.findings}["top_p"].what


@pytest.mark.parametrize("fault", ["plain", "int8_weights"])
def test_a_reference_in_bfloat16_may_differ_by_its_rounding(fault):
    """What the dtype of the checkpoint explains is no finding; int8 weights diverge more, as a copy of it shows."""
    beside = reference(1)._replace(send=Server("bfloat16_weights", 1, scores=True), dtype="bfloat16")

    @contextmanager
    def copy(dtype):
        weights = {"float32": WEIGHTS, "int8": WEIGHTS.rounded(8)}[dtype]
        yield Server("plain", 7, scores=True, weights=weights)

    beside = beside._replace(arithmetic="bfloat16", copy=copy)
    [found] = audit(Server(fault, 2, scores=True), model="puppet", reference=beside, only=["weights"]).findings
    assert found.ok is (fault == "plain"), found
    assert fault == "plain" or "int8" in found.what


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "words"), [("bfloat16", "in bfloat16"), ("int8", "in int8")])
def test_the_engine_in_another_dtype_is_named(demo, dtype, words):
    """The embedded model's weights rounded by the engine itself, against copies that the audit loads."""
    served = llmlab.load("demo", dtype=dtype, slots=8, max_context=512, quiet=True)
    [found] = served.audit(reference=demo, only=["weights"]).findings
    served.close()
    assert found.ok is False and f"serves the reference's weights {words}" in found.what, found


def test_the_dtypes_of_a_reference(demo):
    """That of its weights; and the coarser one of checkpoint and activations, in which an endpoint may compute."""
    assert demo.backend.dtypes == ("float32", "float32")
    assert coarser({"torch_dtype": "torch.bfloat16"}, "float32") == coarser(None, "bfloat16") == "bfloat16"
    assert coarser({"dtype": "float32"}, "float16") == "float16"
    assert LogitsBackend.dtypes.fget(demo.backend) == ("", "")


def test_arguments_are_checked():
    for options, words in [
        ({"max_requests": 3}, "max_requests"), ({"max_tokens": True}, "max_tokens"), ({"false_alarms": 2}, "false_al"),
        ({"only": ["nonsense"]}, "there is no test 'nonsense'"),
    ]:  # fmt: skip
        with pytest.raises(RequestError, match=words):
            audit(Server("plain"), model="puppet", **options)


def test_the_report(tmp_path):
    findings = (
        Finding("top_k", False, 1e-9, "top_k is <ignored>; it should not be."),
        Finding("n", True, 1.0, "n = 64 gets 64 choices."),
        Finding("seed", None, np.nan, "Not tested: refused."),
    )
    report = Audit("m", findings, requests=7, tokens=1, false_alarms=0.01)
    frame = report.frame()
    assert_declared(frame, AUDIT_COLUMNS)
    assert frame["ok"].tolist() == [False, True, None] and np.isnan(frame["p_value"][2])
    assert not report.ok and [one.name for one in report.found] == ["top_k"]
    assert repr(report).splitlines()[0] == (
        "Audit: m: 1 of 2 tests found something: top_k (false alarms in at most 1% of honest endpoints; 7 requests, "
        "1 token)."
    )
    shown = report._repr_html_()
    assert "&lt;ignored&gt;" in shown and shown.count("<tr>") == 6  # a head for each of three groups
    groups = [shown.index(each) for each in ("1 found", "1 as it should be", "1 not tested")]
    assert groups == sorted(groups)
    page = report.to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text("utf-8") == page
    assert page.startswith("<!DOCTYPE html>") and "<title>Audit of m</title>" in page and shown in page
    assert json.loads(report.to_json())["findings"][2] == {
        "name": "seed", "ok": None, "p_value": None, "what": "Not tested: refused.",
    }  # fmt: skip
