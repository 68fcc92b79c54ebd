"""The sampler: pure functions over [B, V]. No model, no text.

Start with `stages`, which lists the stages in their order, then `pipeline`, which runs them. A stage of one's own is
made by `define_stage`, its parameters by `number` and `integer`, and what it remembers of a row by `State`; `ORDERS`
has the orders of stages by name.
"""

from llmlab.sampling.define import define_stage
from llmlab.sampling.fields import integer, number
from llmlab.sampling.stage import FIRST, LAST, Stage, State
from llmlab.sampling.stages import ORDERS

__all__ = ["FIRST", "LAST", "ORDERS", "Stage", "State", "define_stage", "integer", "number"]
