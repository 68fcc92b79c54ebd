"""The paths of the endpoint, one file each."""

from llmlab.serve.route import Route
from llmlab.serve.routes.chat import CHAT
from llmlab.serve.routes.health import HEALTH
from llmlab.serve.routes.models import MODEL, MODELS

#: Every path, in the order of the OpenAPI document.
ROUTES: tuple[Route, ...] = (CHAT, MODELS, MODEL, HEALTH)
