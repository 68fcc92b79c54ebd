"""The benchmark runs what it says; how fast is not for a test to say."""

from typer.testing import CliRunner

from llmlab.backends.local.backend import LocalBackend
from llmlab.cli.app import app
from llmlab.cli.bench import decoding
from llmlab.testing import tiny_checkpoint


def test_a_line_for_each_number_of_rows(tmp_path):
    folder = tiny_checkpoint(tmp_path / "tiny")
    backend = LocalBackend.load(folder, slots=2, max_context=128)
    lines = list(decoding(backend, rows=(1, 3), prompt=8, tokens=6, repeats=1))
    backend.close()
    assert [line.rows for line in lines] == [1, 3]
    assert all(min(line) > 0 for line in lines)
    result = CliRunner().invoke(app, ["bench", "--model", str(folder), "--rows", "1,x"])
    assert result.exit_code == 2 and "1,x" in result.output
