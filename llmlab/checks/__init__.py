"""Checks against known distributions: of the sampler's draws, and of the model's probabilities of whole answers."""
