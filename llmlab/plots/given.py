"""Checks of what a plot is given: the frame that it reads, one choice of it, one name where one thing is drawn.

A plot that drew the first of several names, or all of them as one line, would be a false picture without an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llmlab.errors import RequestError, short
from llmlab.protocol.arguments import whole

if TYPE_CHECKING:
    import pandas as pd

_Data = TypeVar("_Data")


def check_frame(frame: Any, columns: Sequence[str], *, source: str, param: str = "frame") -> pd.DataFrame:
    """A dataframe that has these columns.

    Args:
        frame: what was given.
        columns: the columns that are drawn.
        source: what returns such a frame, for the error.
        param: the argument's name.

    Raises:
        RequestError: it is something else, or a column is missing.
    """
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise RequestError(f"{param} must be a dataframe such as {source}, got {short(frame)}", param=param)
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise RequestError(f"{param} has no column {', '.join(missing)}; give {source}", param=param)
    return frame


def choice_rows(
    frame: Any, choice: Any, columns: Sequence[str], *, source: str, each: Sequence[str] = ("position",)
) -> pd.DataFrame:
    """The rows of one choice in a frame that has these columns besides "choice"; none where it has no tokens.

    Args:
        frame: what was given.
        choice: the index of the choice.
        columns: the columns that are drawn.
        source: what returns such a frame, for errors.
        each: the columns that no two rows of a choice agree in.

    Raises:
        RequestError: the frame is something else or holds several answers, or `choice` is not one integer.
    """
    frame = check_frame(frame, ["choice", *each, *columns], source=source)
    own = frame[frame["choice"] == whole("choice", choice, least=0)]
    check_single(own, each, param="frame", way_out=f"give the rows of one {source}")
    return own


def check_single(frame: pd.DataFrame, each: Sequence[str], *, param: str, way_out: str) -> None:
    """Check that a frame has at most one row for each of its points: a line would join the others in turn.

    Raises:
        RequestError: it has more.
    """
    again = frame.duplicated(list(each)).to_numpy(bool)
    if again.any():
        first = frame.iloc[int(again.argmax())]
        point = ", ".join(f"{name} {first[name]}" for name in each)
        raise RequestError(f"{param} has several rows for {point}, and one is drawn; {way_out}", param=param)


def check_data(data: Any, kind: type[_Data], *, source: str) -> _Data:
    """The arrays of one plot.

    Raises:
        RequestError: they are something else, such as a list of several.
    """
    if not isinstance(data, kind):
        raise RequestError(f"data must be one {kind.__name__}, from {source}, got {short(data)}", param="data")
    return data


def one_name(param: str, value: Any, known: Sequence[str] | Mapping[str, Any]) -> str:
    """One of some names.

    Raises:
        RequestError: it is several names, something else, or unknown.
    """
    if not isinstance(value, str):
        raise RequestError(f"{param} must be one name, got {short(value)}; draw a plot for each", param=param)
    if value not in known:
        raise RequestError(f"{param}: there is no {short(value)}; there are {', '.join(known) or 'none'}", param=param)
    return value


def one_text(param: str, value: Any) -> str:
    """A text to be written in a plot."""
    if not isinstance(value, str):
        raise RequestError(f"{param} must be a string, got {short(value)}", param=param)
    return value
