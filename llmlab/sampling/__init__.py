"""The sampler: pure functions over [B, V]. No state, no model, no text.

Start with `stages`, which lists the stages in their order, then `pipeline`, which runs them.
"""
