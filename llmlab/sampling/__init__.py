"""The sampler: pure functions over [B, V]. No state, no model, no text.

`pipeline` holds the order of the stages, numbered in its docstring; start there.
"""
