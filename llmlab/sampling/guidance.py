"""The stages of the library that compare two prompts: they read the logits after a negative prompt at every step.

Their arithmetic is in `contrasts`. Guidance runs first in every order, as transformers has it
(`UnbatchedClassifierFreeGuidanceLogitsProcessor`), so that it compares what the model itself says. Contrast runs after
bias, penalties and masks, directly before the temperature and the truncation: it removes tokens by their share of the
largest probability, and that is to be the largest of those that a grammar allows.

Context-aware decoding (Shi et al. 2023, arXiv:2305.14739) at its weight alpha is guidance at the scale 1 + alpha, with
the prompt without its context as the negative prompt. The form of contrastive decoding in O'Brien and Lewis 2023
(arXiv:2309.09117), at its weight beta, is `contrastive_strength` beta / (1 + beta) at the temperature 1 / (1 + beta).
"""

from __future__ import annotations

from llmlab.sampling.fields import Control, number
from llmlab.sampling.stage import FIRST, Stage, late

__all__ = ["CONTRAST", "GUIDANCE"]


GUIDANCE = Stage(
    "guidance",
    "logits",
    (
        number(
            "guidance_scale", 0, 20, default=1.0, extension=True,
            text="Moves the logprobs away from those after negative_prompt: their difference times this; 1 is off.",
            control=Control("more", step=0.1),
        ),
    ),
    lambda inputs: inputs.guidance_scale != 1.0,
    late("contrasts.apply_guidance", "negative", scale="guidance_scale"),
    after=(("", FIRST),),
    reads_negative=True,
)  # fmt: skip

CONTRAST = Stage(
    "contrast",
    "logits",
    (
        number(
            "contrastive_strength", 0, 5, default=0.0, extension=True,
            text="Contrastive decoding: subtracts the logprobs after negative_prompt times this; 0 is off.",
            control=Control("more", step=0.05),
        ),
        number(
            "contrastive_alpha", 0, 1, default=0.1, extension=True,
            text="Contrastive decoding removes tokens less probable than this share of the most likely one.",
            control=Control("more", step=0.01),
        ),
    ),
    lambda inputs: inputs.contrastive_strength > 0.0,
    late("contrasts.apply_contrast", "negative", strength="contrastive_strength", alpha="contrastive_alpha"),
    reads_negative=True,
)  # fmt: skip
