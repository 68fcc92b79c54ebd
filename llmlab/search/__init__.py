"""Search over a model's answers: beams, samples without replacement, and samples from a lattice of codes."""
