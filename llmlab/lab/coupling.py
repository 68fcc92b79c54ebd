"""How often two laws draw the same token from the same noise."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

__all__ = ["coupled_difference"]


def coupled_difference(p: Float64[np.ndarray, " V"], q: Float64[np.ndarray, " W"]) -> float:
    """The probability that Gumbel-max draws different tokens from two laws under one and the same noise.

    1 - sum over i kept in both of 1 / sum over j of max(p_j / p_i, q_j / q_i): token i wins in both where its noise
    beats that of each j by the larger of the two log ratios, and of independent Gumbel variables with shifts a_j the
    i-th is the largest with probability exp(a_i) / sum of exp(a_j). It is never less than the total variation, which
    the best of all couplings reaches, and at most about twice that.

    Args:
        p: one law's probabilities; zero where a token is cut.
        q: the other's, over the same tokens.

    Raises:
        ValueError: they are not over the same tokens.
    """
    if p.shape != q.shape:
        raise ValueError(f"the laws are over {len(p)} and {len(q)} tokens")
    some = (p > 0) | (q > 0)
    p, q = p[some] / p.sum(), q[some] / q.sum()
    with np.errstate(divide="ignore"):
        ratio = p / q
    # Where p_j / q_j is at least p_i / q_i it is p's ratio that is the larger: sorted by it, that is two running sums.
    order = np.argsort(ratio, kind="stable")
    p, q = p[order], q[order]
    from_here, before = np.cumsum(p[::-1])[::-1], np.cumsum(q) - q
    both = (p > 0) & (q > 0)
    return float(1.0 - np.sum(1.0 / (from_here[both] / p[both] + before[both] / q[both])))
