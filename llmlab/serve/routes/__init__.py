"""The paths of the endpoint, one file each."""

from llmlab.serve.route import Route
from llmlab.serve.routes.chat import CHAT
from llmlab.serve.routes.completions import COMPLETIONS
from llmlab.serve.routes.health import HEALTH
from llmlab.serve.routes.metrics import METRICS
from llmlab.serve.routes.models import MODEL, MODELS
from llmlab.serve.routes.responses import RESPONSES
from llmlab.serve.routes.tokens import APPLY_TEMPLATE, DETOKENIZE, TOKENIZE

#: Every path, in the order of the OpenAPI document.
ROUTES: tuple[Route, ...] = (
    CHAT,
    RESPONSES,
    COMPLETIONS,
    MODELS,
    MODEL,
    TOKENIZE,
    DETOKENIZE,
    APPLY_TEMPLATE,
    METRICS,
    HEALTH,
)
