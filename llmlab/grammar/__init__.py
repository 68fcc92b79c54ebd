"""Constrained decoding: JSON that is valid under a schema, and tool calls in a model's own syntax, as token masks."""
