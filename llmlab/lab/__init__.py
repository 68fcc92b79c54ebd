"""The façade: `Lab`, `load`, `connect` and the in-process client."""
