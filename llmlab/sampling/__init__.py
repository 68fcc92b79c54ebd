"""The sampler: pure functions over [B, V]. No state, no model, no text.

Start with `stages`, which lists the stages in their order, then `pipeline`, which runs them. A stage of one's own is
made by `define_stage`, and its parameters by `number` and `integer`; `ORDERS` has the orders of stages by name.
"""

from llmlab.sampling.define import define_stage
from llmlab.sampling.fields import integer, number
from llmlab.sampling.stage import Stage
from llmlab.sampling.stages import ORDERS

__all__ = ["ORDERS", "Stage", "define_stage", "integer", "number"]
