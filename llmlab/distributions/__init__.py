"""Next-token distributions: arrays and the sampler only; no request, model, pandas or text."""
