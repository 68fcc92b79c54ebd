"""The wrong argument everywhere, and what works as it stands, in a process without the tests' checks of types.

Those would speak before the lab does. Prints what it found wrong, a line each; nothing where all is well.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

import llmlab
from llmlab.errors import LLMLabError

matplotlib.use("Agg")

QUESTION = "Name an animal."
#: Of a lab, a result, a law and a sweep.
Call = Callable[[Any, Any, Any, Any], Any]


def cases() -> Iterator[tuple[str, Call, str]]:
    """Named calls on (lab, result, law, sweep), and what the error says."""
    yield "chat order", lambda d, r, w, s: d.chat(QUESTION, order=["vllm"]), "order must be one of"
    yield "no prompt", lambda d, r, w, s: d.next_token(prompt=None), "messages is missing.*prompt="
    yield "warmup", lambda d, r, w, s: d.warmup(orders="vlm"), "order must be one of"
    yield "no path", lambda d, r, w, s: r.save(3), "save must be the path of a file, got 3"
    yield "no sweep file", lambda d, r, w, s: s.save(None), "save must be the path of a file, got None"
    yield "no page", lambda d, r, w, s: r.to_html(b"a"), "path must be the path of a file, got b'a'"
    yield (
        "no model",
        lambda d, r, w, s: llmlab.load(None),
        "name must be demo, a checkpoint folder, a GGUF file or a hub",
    )
    yield "no address", lambda d, r, w, s: llmlab.connect(7), "url must be a list of addresses, got 7"
    yield (
        "no addresses",
        lambda d, r, w, s: llmlab.connect(["http://a/v1", 7]),
        "http:// or https://, got 7",
    )
    yield "no seconds", lambda d, r, w, s: llmlab.connect("http://a/v1", timeout="x"), "timeout must be a number"
    yield "no file", lambda d, r, w, s: llmlab.Result.load(3), "path must be the path of a file, got 3"
    yield "an index", lambda d, r, w, s: r["0"], "index must be an integer, got '0'"
    yield "a true index", lambda d, r, w, s: r[True], "index must be an integer, got True"
    yield "a far index", lambda d, r, w, s: r[2], "index 2 is outside the 2 choices of this result"
    yield "diff", lambda d, r, w, s: r.diff("x"), "other must be a Result, got 'x'"
    yield "tree depth", lambda d, r, w, s: r.tree(1.0, 1), "depth must be an integer"
    yield "tree width", lambda d, r, w, s: r.tree(1, 21), "width must be between 1 and 20, got 21"
    yield "tree size", lambda d, r, w, s: r.tree(10**9, 1), "more than 4,096 steps"
    yield "moved n", lambda d, r, w, s: r.sensitivity(n=[1, 2]), "n changes no choice"
    yield "moved none", lambda d, r, w, s: r.sensitivity(temperature=[]), "temperature must be a list of values"
    yield "alternatives", lambda d, r, w, s: r.top_logprobs_frame(alternatives="a"), "alternatives must be an integer"
    yield "strip", lambda d, r, w, s: r.to_html(alternatives=-1), "alternatives must be at least 0, got -1"
    yield "strip by", lambda d, r, w, s: r.to_html(by="prob"), "by must be one of logprob, sampling_logprob"
    yield "one axes", lambda d, r, w, s: r.plot_logprobs(ax=(1, 2)), "ax must be one matplotlib Axes"
    yield "top", lambda d, r, w, s: w.frame(top=0), "top must be at least 1, got 0; None is the whole vocabulary"
    yield "top of a grid", lambda d, r, w, s: w.sweep(top_k=[1]).frame(top=-1), "top must be at least 1, got -1"
    yield "top of temperatures", lambda d, r, w, s: w.temperatures(top=None), "top must be an integer, got None"
    yield "top of penalties", lambda d, r, w, s: w.penalties(top=0, repetition_penalty=1.2), "top must be at least 1"
    yield "temperature", lambda d, r, w, s: w.temperatures(temperature=0.5), "temperature is what is varied here"
    yield "temperatures", lambda d, r, w, s: w.temperatures(0.5), "temperatures must be a list of temperatures, got 0.5"
    yield "hot", lambda d, r, w, s: w.temperatures([3]), "temperature must be between 0 and 2, got 3"
    yield "a grid's ids", lambda d, r, w, s: w.sweep(top_k=[1]).logprobs([99_999]), "token 99999 is not in the vocab"
    yield "a grid's id", lambda d, r, w, s: w.sweep(top_k=[1]).logprobs([-1]), "token -1 is not in the vocabulary"
    yield "a float id", lambda d, r, w, s: w.sweep(top_k=[1]).logprobs([1.5]), "token must be an id, a text or bytes"
    yield "orders of a grid", lambda d, r, w, s: w.sweep(order=["vllm"]), "order must be one of"
    yield "half a pair", lambda d, r, w, s: w.stages_frame(tokens=["\udc80"]), "half of a surrogate pair"
    yield "half a branch", lambda d, r, w, s: r.branch(0, "\udc80"), "half of a surrogate pair"
    yield "seed", lambda d, r, w, s: w.sample([2**63]), "seeds must be a signed 64-bit integer"
    yield "seeds", lambda d, r, w, s: w.sample(5), "seeds must be a list of seeds, got 5"
    yield "noise choice", lambda d, r, w, s: w.sample([1], choice=-1), "choice must be between 0 and"
    yield "noise place", lambda d, r, w, s: w.flip_points_frame(5, position=1.5), "position must be an integer, got 1.5"
    yield "noise seed", lambda d, r, w, s: w.flip_points_frame(5, seed=1.5), "seed must be an integer"
    yield "draws", lambda d, r, w, s: d.check_sampler(QUESTION, draws=2.5), "draws must be an integer, got 2.5"
    yield "first seed", lambda d, r, w, s: d.check_sampler(QUESTION, seed=None), "seed must be an integer, got None"
    yield (
        "truth",
        lambda d, r, w, s: d.check_calibration(3),
        "truth must be a list of prompts with distributions, got 3",
    )
    yield (
        "answers",
        lambda d, r, w, s: d.check_calibration([{"messages": "x", "distribution": {3: 1}}]),
        "must map answers",
    )
    yield "its messages", lambda d, r, w, s: d.check_calibration([], messages="x"), "messages cannot be given here"
    yield "its n", lambda d, r, w, s: d.check_calibration(n=3), "n says how tokens are drawn"
    yield "few prompts", lambda d, r, w, s: d.check_calibration(prompts_per_distribution=1.5), "_distribution must be"
    yield "a score of 5", lambda d, r, w, s: d.score(QUESTION, 5), "given must be a list of token ids, or of texts"
    yield "a score of bytes", lambda d, r, w, s: d.score(QUESTION, b"abc"), "given must be a list of token ids"
    yield "a score of results", lambda d, r, w, s: d.score(QUESTION, [r]), "results are scored one at a time"
    yield "a score of a float", lambda d, r, w, s: d.score(QUESTION, [1.0]), r"given: 1\.0 is not a token id"
    yield "a score of a half", lambda d, r, w, s: d.score(QUESTION, "\udc80"), "given has half of a surrogate pair"
    yield "a score behind", lambda d, r, w, s: d.score(r, "Cat"), r"lab\.score\(result\.request, given\)"
    yield "prompts and messages", lambda d, r, w, s: d.chat([QUESTION, {"role": "user", "content": "a"}]), "mixes"
    yield "a bad one of several", lambda d, r, w, s: d.chat([QUESTION, [3]]), r"messages\[0\] must be"
    yield "several bytes", lambda d, r, w, s: d.chat([b"a"]), "messages"
    yield "several floats", lambda d, r, w, s: d.chat([1.5, 2.5]), r"messages\[0\] must be"
    yield "few scores", lambda d, r, w, s: d.score([QUESTION] * 3, ["Cat", "Dog"]), "given has 2 items and there are 3"
    yield "a system", lambda d, r, w, s: d.chat(QUESTION, system=3), "system must be a string, got 3"
    yield "half a system", lambda d, r, w, s: d.chat(QUESTION, system="\udc80"), "system has half of a surrogate pair"
    yield "a system of none", lambda d, r, w, s: d.complete("a", system="b"), "system belongs to a chat"
    yield "tokens of 3", lambda d, r, w, s: d.tokenize(3), "messages"
    yield "tokens of half", lambda d, r, w, s: d.tokenize("\udc80"), "text has half of a surrogate pair"
    yield "a number for a label", lambda d, r, w, s: d.sweep(["a", "b"], label=["a", 3]), "a list of texts, got 3 in it"
    yield "a label for all", lambda d, r, w, s: d.sweep(["a", "b"], label=3), "label must be a list of texts, got 3"
    yield "one sweep", lambda d, r, w, s: type(s).concat(s), "sweeps must be a list of sweeps"
    yield "no sweeps", lambda d, r, w, s: type(s).concat([s, 3]), "sweeps must be a list of sweeps, got 3 in it"
    yield "their labels", lambda d, r, w, s: type(s).concat([s, s], label=[1, 2]), "label must be 2 different texts"
    yield "no top", lambda d, r, w, s: w.top(0), "count must be at least 1, got 0"
    yield "a hot plot", lambda d, r, w, s: w.plot(temperature=3), "temperature must be between 0 and 2, got 3"
    yield "top of all", lambda d, r, w, s: r.next_tokens().frame(top=0), "top must be at least 1, got 0"
    yield "choice of all", lambda d, r, w, s: r.next_tokens(choice="0"), "choice must be an integer, got '0'"
    yield "one of all", lambda d, r, w, s: r.next_tokens()[1.5], "position must be an integer, got 1.5"
    yield "an order", lambda d, r, w, s: d.compare_orders(QUESTION, orders=3), "orders must be a list of orders, got 3"
    yield "compare", lambda d, r, w, s: d.compare(3, QUESTION), "other must be a lab or the name of an adapter, got 3"
    yield "no page of two", lambda d, r, w, s: d.compare(d, r).to_html(3), "path must be the path of a file, got 3"
    yield "ranges", lambda d, r, w, s: d.compare(d, r).entropy_frame(ranges="a"), "ranges must be an integer, got 'a'"
    yield "dtypes", lambda d, r, w, s: d.drift(dtypes="int8"), "dtypes must be a list of dtypes, got 'int8'"
    yield "saved", lambda d, r, w, s: d.drift(saved=3), "saved must be the path of a file, got 3"
    yield "beams", lambda d, r, w, s: d.beam_search(QUESTION, beams=2.5), "beams must be an integer, got 2.5"
    yield "long", lambda d, r, w, s: d.beam_search(QUESTION, length_penalty="a"), "length_penalty must be a number"
    yield "early", lambda d, r, w, s: d.beam_search(QUESTION, early_stopping="always"), 'False or "never", got \'always'
    yield "early one", lambda d, r, w, s: d.beam_search(QUESTION, early_stopping=1), 'False or "never", got 1'
    yield "n drawn", lambda d, r, w, s: d.sample_without_replacement(QUESTION, n="3"), "n must be an integer, got '3'"
    yield "n codes", lambda d, r, w, s: d.arithmetic_sample(QUESTION, n=[3]), "n must be an integer, got"
    yield "mass", lambda d, r, w, s: d.answers(QUESTION, mass="all"), "mass must be a number, got 'all'"
    yield "passes", lambda d, r, w, s: d.answers(QUESTION, max_passes=1.5), "max_passes must be an integer, got 1.5"
    yield "rows", lambda d, r, w, s: d.answers(QUESTION, max_rows="8"), "max_rows must be an integer, got '8'"
    yield "conditional", lambda d, r, w, s: d.answers(QUESTION, conditional=1), "conditional must be True or False"
    yield (
        "an event",
        lambda d, r, w, s: d.answers(QUESTION, max_passes=1).probability(3),
        "event must be a regular expr",
    )
    yield "begins", lambda d, r, w, s: d.answers(QUESTION, max_passes=1).begins(3), "texts must be a list of texts"
    yield (
        "classes",
        lambda d, r, w, s: d.answers(QUESTION, max_passes=1).begins_frame(["Yes"]),
        "classes must map names to texts",
    )
    yield (
        "every",
        lambda d, r, w, s: list(d.stream(QUESTION, max_tokens=1).partial_results(every="a")),
        "every must be a number",
    )
    yield "resume", lambda d, r, w, s: d.sweep(QUESTION, top_k=[1], resume="x.parquet"), "resume must be True or False"
    yield "independent", lambda d, r, w, s: d.sweep(QUESTION, top_k=[1], independent="yes"), "independent must be True"
    yield "no order", lambda d, r, w, s: d.sweep(QUESTION, order=None), "order must be a list of orders, got None"
    yield "a lab", lambda d, r, w, s: type(r).load("r.parquet", lab="demo"), "lab must be a Lab, such as llmlab.load"
    yield "its lab", lambda d, r, w, s: type(s).load("s.parquet", lab=3), "lab must be a Lab, such as llmlab.load gives"
    yield "metrics", lambda d, r, w, s: s.frame(metrics=len), "metrics must be a dict"
    yield "columns", lambda d, r, w, s: s.summary_frame(3), "columns must be a list of columns, got 3"
    yield "by", lambda d, r, w, s: s.summary_frame(by=3), "by must be a list of axes, got 3"
    yield "confidence", lambda d, r, w, s: s.summary_frame(confidence="a"), "confidence must be a number, got 'a'"
    yield "sure", lambda d, r, w, s: s.summary_frame(confidence=1), "confidence must lie between 0 and 1, got 1"
    yield "resamples", lambda d, r, w, s: s.summary_frame(resamples=10**9), "resamples must be between 1 and 1000000"
    yield "resample seed", lambda d, r, w, s: s.summary_frame(seed=-1), "seed must be at least 0, got -1"
    yield "kind", lambda d, r, w, s: s.plot(kind="bars"), "kind must be one of lines, heatmap, got 'bars'"
    yield "twice", lambda d, r, w, s: s.plot(x="top_p", by="top_p"), "by is 'top_p', which x is already"
    yield "diversity", lambda d, r, w, s: s.plot_diversity(diversity={}), "diversity must be a column"
    yield "diverse", lambda d, r, w, s: s.plot_diversity(diversity=len), "metrics must be a dict|diversity must be"


def places() -> Iterator[tuple[str, Call, str]]:
    """Positions and choices that are no integers, or not there, for every method that takes one."""

    def at(method: str, **options: Any) -> Call:
        return lambda d, r, w, s: getattr(r, method)(**options)

    for bad in (1.0, np.float64(1), None, True, [1], slice(0, 1), float("nan")):
        for method in ("next_token", "branch", "tree", "plot_top_logprobs"):
            yield f"{method} at {bad!r}", at(method, position=bad), "position must be an integer, got"
    for bad in ("not there", b"\xff", "\udc80", ""):
        for method in ("next_token", "branch", "tree", "plot_top_logprobs"):
            yield f"{method} at {bad!r}", at(method, position=bad), "position .*: no token of choice 0 is this text"
    for bad in (2, -1, 1.0, "0", None, True):
        for method in ("next_token", "branch", "plot_top_logprobs"):
            yield f"{method} of {bad!r}", at(method, position=0, choice=bad), f"choice .*{bad!r}"
        for method in ("tree", "plot_entropy", "plot_surprisal", "plot_logprobs"):
            yield f"{method} of {bad!r}", at(method, choice=bad), f"choice .*{bad!r}"
    for method in ("next_token", "branch", "tree", "plot_top_logprobs"):
        yield (
            f"{method} at 99",
            at(method, position=99),
            r"position 99 is outside the \d+ tokens of choice 0",
        )


def wrong(lab: Any, result: Any, law: Any, sweep: Any) -> None:
    """Each of these has to be one error that names an argument, with nothing half changed behind it."""
    for name, call, said in (*cases(), *places()):
        before = lab.last, lab.last_sweep
        try:
            call(lab, result, law, sweep)
        except LLMLabError as error:
            if not re.search(said, error.message) or error.param is None or error.status != 400:
                print(f"{name}: {error.message} (param {error.param}, status {error.status})")
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}")
        else:
            print(f"{name}: no error")
        if (lab.last, lab.last_sweep) != before:
            print(f"{name}: half changed")


def right(lab: Any, result: Any, law: Any, sweep: Any) -> None:
    """What is not Python's own counts as what it stands for."""
    assert len(result.tree(np.int64(1), np.int64(2))) == 2
    assert result.next_token(np.int64(-1)).drawn == result.choices[0].tokens.ids[-1]
    grid = law.sweep(temperature=np.array([0.5, 1.0], np.float32), top_k=pd.Series([1, 2]))
    assert grid.logprobs("Cat").shape == (2, 2, 1)
    assert (grid.logprobs(["Cat", np.int64(5)])[..., 0] == grid.logprobs("Cat")[..., 0]).all()
    assert law.stages_frame(tokens="Cat")["token"].unique().tolist() == ["Cat"], "a text is one token, not one a letter"
    assert law.sample(seed for seed in np.arange(3)).tolist() == law.sample(range(3)).tolist()
    assert lab.check_sampler(QUESTION, draws=np.int64(50), seed=np.int64(2)).draws == 50
    assert list(lab.compare_orders(result, orders="vllm").results) == ["llmlab", "vllm"]
    assert len(sweep.summary_frame("tokens", by=("top_p", "top_p"))) == 2
    column = pd.Series([QUESTION, "Hello"])
    asked = {"n": 1, "max_tokens": 1, "seed": 1}
    assert lab.sweep(column, **asked).frame().equals(lab.sweep(list(column), **asked).frame())
    for several in (column, column.to_numpy()):
        answers, alone = lab.chat(several, **asked), lab.chat(list(column), **asked)
        assert [one.text for one in answers] == [one.text for one in alone]
        assert len(lab.score(several, pd.Series(["Cat", "Hi"]))) == 2
    assert result.next_tokens()[np.int64(-1)].drawn == result.choices[0].tokens.ids[-1]
    truth = [{"messages": QUESTION, "distribution": {"Cat": 0.5, "Dog": 0.5}}]
    assert lab.check_calibration(pd.DataFrame(truth)).kl == lab.check_calibration(truth).kl


if __name__ == "__main__":
    warnings.simplefilter("error")
    demo = llmlab.load("demo", slots=8, max_context=512, quiet=True)
    subjects = (
        demo,
        demo.chat(QUESTION, n=2, seed=1, max_tokens=6),
        demo.next_token(QUESTION, seed=3),
        demo.sweep(QUESTION, temperature=[0.2, 1.0], top_p=[0.5, 1.0], n=2, max_tokens=2, seed=1),
    )
    wrong(*subjects)
    right(*subjects)
    demo.close()
