"""What a dtype changes: one checkpoint in several dtypes, compared over the same tokens, on one or more devices."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.display.html import Markup, fragment
from llmlab.errors import RequestError
from llmlab.protocol.arguments import file_path
from llmlab.protocol.backend import Backend
from llmlab.results.comparison import Comparison
from llmlab.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DRIFT_COLUMNS", "Drift", "saved_rows"]

DRIFT_COLUMNS: dict[str, str] = {
    "device": "text",
    "dtype": "text",
    "tokens": "index",
    "kl": "number",
    "kl_99": "number",
    "most_kl": "number",
    "total_variation": "number",
    "same_top": "number",
    "same_draw": "number",
    "differ_probability": "number",
    "logprob_error": "number",
    "text_digest": "text",
}


class Drift:
    """One checkpoint in several dtypes, each compared with the lab's own; `lab.drift` returns one.

    Attributes:
        model: the name of the model.
        dtype: of the weights of the lab's own model, which the others are compared with.
        comparisons: dtype -> the comparison.
    """

    def __init__(
        self,
        backend: Backend,
        dtype: str,
        results: Sequence[Result],
        comparisons: Mapping[str, Comparison],
        *,
        earlier: pd.DataFrame | None,
    ) -> None:
        self.model, self.dtype = backend.name, dtype
        self.comparisons = dict(comparisons)
        self._device, self._digest = str(backend.describe().get("device", "")), _digest(results)
        if earlier is not None and (strange := set(earlier["text_digest"]) - {self._digest}):
            raise RequestError(
                f"the saved run read other tokens (digest {sorted(strange)[0]}, here {self._digest}): compare the same "
                "model along the same text",
                param="saved",
            )
        self._earlier = earlier

    def frame(self) -> pd.DataFrame:
        """One row per dtype; those of a saved run follow.

        Columns: device, dtype, tokens; kl (from the lab's own dtype, mean over the tokens), kl_99 (its 99th
        percentile), most_kl, total_variation (mean); same_top and same_draw (shares of the tokens);
        differ_probability (mean); logprob_error (the largest difference of a token's logprob); text_digest (of all
        token ids). In nats.
        """
        import pandas as pd

        from llmlab.frames.schema import build

        rows = [self._row(dtype, one.frame()) for dtype, one in self.comparisons.items()]
        own = build({name: [row[name] for row in rows] for name in DRIFT_COLUMNS}, DRIFT_COLUMNS)
        return own if self._earlier is None else pd.concat([own, self._earlier], ignore_index=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the frame as parquet, to be added to that of another device by `lab.drift(saved=path)`."""
        self.frame().to_parquet(file_path(path))

    def _row(self, dtype: str, frame: pd.DataFrame) -> dict[str, Any]:
        return {
            "device": self._device,
            "dtype": dtype,
            "tokens": len(frame),
            "kl": frame["kl"].mean(),
            "kl_99": float(np.quantile(frame["kl"], 0.99)) if len(frame) else np.nan,
            "most_kl": frame["kl"].max(),
            "total_variation": frame["total_variation"].mean(),
            "same_top": frame["same_top"].mean(),
            "same_draw": frame["same_draw"].astype(float).mean(),
            "differ_probability": frame["differ_probability"].mean(),
            "logprob_error": (frame["other_logprob"] - frame["logprob"]).abs().max(),
            "text_digest": self._digest,
        }

    def __repr__(self) -> str:
        return f"{self._head()}\n{self._shown().to_string(index=False, float_format='{:.3g}'.format)}"

    def _repr_html_(self) -> str:
        table = self._shown().to_html(index=False, float_format="{:.3g}".format)
        return str(fragment("<div>{}</div>{}", self._head(), Markup(table)))

    def _head(self) -> str:
        return f"Drift of {self.model} from {self.dtype}"

    def _shown(self) -> pd.DataFrame:
        return self.frame().drop(columns="text_digest")


def saved_rows(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The rows that `Drift.save` wrote.

    Raises:
        RequestError: the file is missing, or is something else.
    """
    import pandas as pd

    file = file_path(path, name="saved")
    try:
        frame = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} cannot be read as a saved drift: {error}", param="saved") from None
    if list(frame.columns) != list(DRIFT_COLUMNS):
        raise RequestError(f"{file} is not a saved drift: it has other columns", param="saved")
    return frame


def _digest(results: Sequence[Result]) -> str:
    """Sixteen hexadecimal digits of all token ids: prompts and answers."""
    found = hashlib.sha256()
    for result in results:
        found.update(np.asarray(result.data.prompt_ids, np.int64).tobytes())
        for choice in result.choices:
            found.update(b"|" + np.asarray(choice.tokens.ids, np.int64).tobytes())
    return found.hexdigest()[:16]
