"""Two tools, and functions that segment a generated text in every division into pieces."""

from __future__ import annotations

from llmlab.text.segments import Segmenter

#: Two functions that may be called. The parser of tagged arguments needs the types of their parameters.
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "unit": {"enum": ["C", "F"]},
                    "hourly": {"type": ["boolean", "null"]},
                    "places": {"type": "array", "items": {"type": "string"}},
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "at": {"$ref": "#/$defs/time"},
                },
                "$defs": {"time": {"type": "string"}},
            },
        },
    },
    {"type": "function", "function": {"name": "get_time"}},
]


def pieces(format, parts, **options):
    """Segments a text that arrives in these parts: (reasoning, content, calls); an incomplete call ends with "cut"."""
    segmenter = Segmenter(format, **{"tools": TOOLS, **options})
    spans = [span for part in parts for span in segmenter.feed(part)] + segmenter.flush()
    data = b"".join(parts)
    seen = b"".join(span.data for span in spans)
    # Not a byte is lost; if only one call was wanted, the rest is not read.
    assert seen == data[: len(seen)] and (len(seen) == len(data) or segmenter.done)
    calls = []
    for span in spans:
        assert span.segment == "tool_call" or not (span.text or span.name or span.complete)
        if span.name is not None:
            calls.append([span.name, b"", "cut"])
        if span.segment == "tool_call" and calls:
            assert span.text == b"" or calls[-1][2] == "cut"
            calls[-1][1] += span.text
        if span.complete:
            calls[-1][2] = "complete"
    text = {
        kind: b"".join(s.data for s in spans if s.segment == kind and not s.tag) for kind in ("reasoning", "content")
    }
    found = [
        (name, args.decode("utf-8", "replace")) + (() if end == "complete" else (end,)) for name, args, end in calls
    ]
    return text["reasoning"].decode("utf-8", "replace"), text["content"].decode("utf-8", "replace"), found


def read(format, text, **options):
    """Segments a whole text; checks that the result is the same byte by byte and for every division in two."""
    data = text if isinstance(text, bytes) else text.encode()
    whole = pieces(format, [data], **options)
    assert pieces(format, [data[at : at + 1] for at in range(len(data))], **options) == whole
    for cut in range(1, len(data)):
        assert pieces(format, [data[:cut], data[cut:]], **options) == whole, data[:cut]
    return whole
