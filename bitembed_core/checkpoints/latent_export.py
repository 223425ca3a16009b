"""Latent weights in bfloat16 that stand for exactly the ternary weights they came from.

The release format stores latent weights, and every reader rounds them again: `D = mean|W|`, `T = round(W / D)`. Merely
casting a float32 latent weight to bfloat16 moves its mean and pushes weights near `D / 2` over the threshold, and a model
that was frozen, or has a learned scale, has no latent weight at all. Here instead:

- a weight with pattern `T` and scale `s` but no latent is written as `W' = T s / p`, `p` being the share of non-zeros
  in `T`, so that `mean|W'| = s` and `W'` rounds back to `T`;
- weights keep a distance from the threshold, so that readers agree whether or not they add Eq 1's epsilon;
- what rounding to bfloat16 added to the mean is taken back: by choosing between the two neighbours for some of the
  weights, and by the values of a few weights that round to zero, which are free below the threshold.
"""

import torch
from torch import Tensor

from bitembed_core.quantizers import EPS, quantize_weight

MARGIN = 2.0**-10  # relative distance from the threshold, above float32's rounding
SUM_TOLERANCE = 2.0**-27
ADJUSTED = 64  # weights that round to zero whose values make up for the rest


def bfloat16_latent(codes: Tensor, scale: Tensor, latent: Tensor | None = None) -> Tensor | None:
    """A bfloat16 weight that `quantize_weight` rounds to exactly `codes` and `scale`.

    Args:
        codes: int8 (out, in) in {-1, 0, 1}. scale: (), not negative.
        latent: floating point (out, in), the weight to stay near to; None has `T s / p`.

    Returns:
        bfloat16 (out, in); None where there is no such weight (one whose codes are all zero with a scale, say).
    """
    if latent is not None and _stands_for(latent.detach().bfloat16(), codes, scale):
        return latent.detach().bfloat16()
    start = pattern_latent(codes, scale) if latent is None else latent.detach().float()
    target = float(scale.double() * codes.numel())
    weight = _with_sum(_beside_threshold(start, codes, scale), codes, scale, target)
    return weight if _stands_for(weight, codes, scale) else None


def pattern_latent(codes: Tensor, scale: Tensor) -> Tensor:
    """float32 `W' = T s / p` (out, in), whose mean magnitude is `s` up to rounding and which rounds back to `T`."""
    share = codes.ne(0).float().mean().clamp(min=1.0 / codes.numel())
    return codes * (scale / share)


def _stands_for(weight: Tensor, codes: Tensor, scale: Tensor) -> bool:
    again, mean = quantize_weight(weight)
    return torch.equal(again, codes) and torch.equal(mean, scale.to(mean))


def _beside_threshold(latent: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """`latent` in bfloat16, with every magnitude on the side of the threshold where its code is."""
    low = _at_most(scale / 2 * (1 - MARGIN))
    high = _at_least((scale + EPS) / 2 * (1 + MARGIN))
    rounded = latent.bfloat16()
    magnitude = rounded.abs()
    magnitude = torch.where(codes == 0, magnitude.clamp(max=low), magnitude.clamp(min=high))
    sign = torch.where(codes == 0, latent.sign(), codes.sign())
    return (magnitude * sign).bfloat16()


def _with_sum(weight: Tensor, codes: Tensor, scale: Tensor, target: float) -> Tensor:
    """`weight` with the sum of its magnitudes brought near to `target`, without a change of code."""
    magnitude = weight.abs().flatten()
    zero = (codes == 0).flatten()
    high = _at_least((scale + EPS) / 2 * (1 + MARGIN))
    magnitude = _step_nonzeros(magnitude, ~zero, high, target)
    missing = target - float(magnitude.double().sum())
    low = float(_at_most(scale / 2 * (1 - MARGIN)))
    places = zero.nonzero().flatten()
    fewest = magnitude[places].float().topk(min(ADJUSTED, len(places)), largest=False).indices
    for place in places[fewest].tolist():
        if abs(missing) <= SUM_TOLERANCE * target:
            break
        before = float(magnitude[place])
        after = float(_at_most(torch.tensor(min(max(before + missing, 0.0), low))))
        magnitude[place] = after
        missing -= after - before
    sign = torch.where(weight.flatten() < 0, -1.0, 1.0)
    return (magnitude * sign).bfloat16().view_as(weight)


def _step_nonzeros(magnitude: Tensor, nonzero: Tensor, high: Tensor, target: float) -> Tensor:
    """Move some of the `nonzero` magnitudes to a neighbour, until their sum is less than a step below `target`."""
    missing = target - float(magnitude.double().sum())
    direction = 1 if missing > 0 else -1
    movable = nonzero if direction > 0 else nonzero & (magnitude > high)
    places = movable.nonzero().flatten()
    before, after = magnitude[places], _next(magnitude[places], direction)
    moved = (after.double() - before.double()).cumsum(0)
    count = int((moved <= missing).sum()) if direction > 0 else int((moved > missing).sum()) + 1
    result = magnitude.clone()
    result[places[:count]] = after[:count]
    return result


def _next(magnitude: Tensor, direction: int = 1) -> Tensor:
    """The neighbouring bfloat16 of a positive one, above or below."""
    return (magnitude.view(torch.int16) + direction).view(torch.bfloat16)


def _at_most(value: Tensor) -> Tensor:
    """The largest bfloat16 that is not above `value`, not negative."""
    rounded = value.bfloat16()
    below = (rounded.view(torch.int16) - 1).clamp(min=0).view(torch.bfloat16)
    return torch.where(rounded.float() > value.float(), below, rounded)


def _at_least(value: Tensor) -> Tensor:
    rounded = value.bfloat16()
    return torch.where(rounded.float() < value.float(), _next(rounded), rounded)
