"""Checks against known distributions: the sampler's draws, and the model's probabilities of whole answers."""
