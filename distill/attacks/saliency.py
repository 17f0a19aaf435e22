"""Which features to change: the exact searches of arXiv 1511.07528, Algorithm 3, without writing down all pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TINY = torch.finfo(torch.float64).tiny  # a valid score that underflows stays above 0, which means "none is valid"


class Pair(NamedTuple):
    """Two features a row and their saliency; ``score`` is 0 where no pair is valid."""

    first: Tensor  # int64 (N,), the lower index
    second: Tensor  # int64 (N,)
    score: Tensor  # float64 (N,)


def best_pair(alpha: Tensor, beta: Tensor, usable: Tensor) -> Pair:
    """The pair of features with the largest saliency (arXiv 1511.07528, Algorithm 3), exactly.

    Over pairs p < q of usable features with a = alpha_p + alpha_q > 0 and b = beta_p + beta_q < 0 it maximises
    -a * b. A feature that two others dominate (alpha as large and beta as small, ties by index) can always be
    replaced by one of them, so only features with at most one dominator are paired: O(n log n), and the square of their number,
    which is small unless alpha and beta order the features against one another.

    Parameters
    ----------
    alpha, beta : Tensor
        (N, n): the derivative of the target's output, and the sum of the other classes' derivatives.
    usable : Tensor
        bool (N, n): features that may still be changed.

    Returns
    -------
    Pair
        Of equal scores the lowest (first, second), as long as the features themselves differ by more than the rounding
        of a sum in float64. Indices are 0 and 1 where there is no valid pair.

    Raises
    ------
    ValueError
        If the tensors are not of these shapes and types, have fewer than two features, or hold what is not finite.
    """
    if not all(isinstance(given, Tensor) and given.ndim == 2 and given.shape == usable.shape for given in (alpha, beta, usable)):
        raise ValueError("alpha, beta and usable must be tensors of one shape (N, n)")
    if not (alpha.is_floating_point() and beta.is_floating_point() and usable.dtype == torch.bool):
        raise ValueError("alpha and beta must be floating point and usable bool")
    if usable.shape[1] < 2 or not bool(alpha.isfinite().all() & beta.isfinite().all()):
        raise ValueError("alpha and beta must be finite, of two features or more")
    if len(usable) == 0:
        none = torch.zeros(0, dtype=torch.int64, device=alpha.device)
        return Pair(none, none, none.double())
    candidate, most = candidates(alpha, beta, usable)
    return best_of_candidates(alpha, beta, candidate, int(most))


def candidates(alpha: Tensor, beta: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Usable features with at most one dominator, bool (N, n), and the most that any row has."""
    a = torch.where(usable, alpha, -torch.inf)
    b = torch.where(usable, beta, torch.inf)
    b, order = b.sort(dim=1, stable=True)
    _, by_alpha = a.gather(1, order).sort(dim=1, descending=True, stable=True)
    order, b = order.gather(1, by_alpha), b.gather(1, by_alpha)  # alpha falls, then beta rises, then the index
    nothing = torch.full_like(b[:, :1], torch.inf)
    smallest = torch.cat([nothing, b.cummin(1).values[:, :-1]], 1)  # of those before, who alone can dominate
    second = torch.cat([nothing, torch.maximum(b, smallest).cummin(1).values[:, :-1]], 1)
    kept = torch.zeros_like(usable).scatter(1, order, b < second) & usable
    return kept, kept.sum(1).max()


def best_of_candidates(alpha: Tensor, beta: Tensor, candidate: Tensor, most: int) -> Pair:
    """The best pair among candidates, of which no row has more than ``most``."""
    width = max(2, most)
    count, features = alpha.shape
    if features < 2:
        zero = torch.zeros(count, dtype=torch.int64, device=alpha.device)
        return Pair(zero, zero + 1, zero.double())
    index = torch.arange(features, device=alpha.device).expand(count, -1)
    index = torch.where(candidate, index, features).sort(dim=1).values[:, : min(width, features)]
    there, index = index < features, index.clamp(max=features - 1)
    a = torch.where(there, alpha.gather(1, index).double(), -torch.inf)  # sums and products of float32 do not
    b = torch.where(there, beta.gather(1, index).double(), torch.inf)  # underflow in float64
    first, second, score = [], [], []
    for rows in torch.arange(count, device=alpha.device).split(max(1, 2**24 // width**2)):
        sum_a = a[rows, :, None] + a[rows, None, :]
        sum_b = b[rows, :, None] + b[rows, None, :]
        saliency = torch.where((sum_a > 0) & (sum_b < 0), (-sum_a * sum_b).clamp(min=TINY), 0.0).triu(1).flatten(1)
        best = saliency.argmax(1)
        score.append(saliency.gather(1, best[:, None])[:, 0])
        first.append(torch.div(best, index.shape[1], rounding_mode="floor"))
        second.append(best % index.shape[1])
    found = torch.cat(score)
    p = index.gather(1, torch.cat(first)[:, None])[:, 0]
    q = index.gather(1, torch.cat(second)[:, None])[:, 0]
    return Pair(torch.where(found > 0, p, 0), torch.where(found > 0, q, 1), found)


def top_two(alpha: Tensor, usable: Tensor) -> Pair:
    """`best_pair` where beta = -alpha, as for softmax outputs, which sum to 1: the two largest derivatives."""
    a = torch.where(usable, alpha, -torch.inf)
    largest, p = a.max(1)
    runner_up, q = a.scatter(1, p[:, None], -torch.inf).max(1)
    total = largest.double() + runner_up.double()
    valid = total > 0
    low, high = torch.minimum(p, q), torch.maximum(p, q)
    return Pair(torch.where(valid, low, 0), torch.where(valid, high, 1), torch.where(valid, total.square().clamp(min=TINY), 0.0))


def best_single(alpha: Tensor, beta: Tensor | None, usable: Tensor) -> tuple[Tensor, Tensor]:
    """The feature with alpha > 0, beta < 0 and the largest -alpha * beta; ``beta`` None stands for -alpha.

    Returns
    -------
    feature, score : Tensor
        int64 (N,) and float64 (N,); the lowest index of equal scores, and score 0 where no feature is valid.
    """
    a = alpha.double()
    if beta is None:  # ranked by a itself, which does not underflow where its square does
        largest, feature = torch.where(usable & (a > 0), a, 0.0).max(1)
        return feature, torch.where(largest > 0, largest.square().clamp(min=TINY), 0.0)
    b = beta.double()
    score, feature = torch.where(usable & (a > 0) & (b < 0), (-a * b).clamp(min=TINY), 0.0).max(1)
    return feature, score
