"""How ternary weights move while they are trained, and what they are multiplied with, layer by layer.

Looking at every weight takes as long as several percent of a step, so most steps go unseen: there are `LOOKS` looks from
one report to the next, and one in the first step.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from bitembed_core.bitlinear import BitLinear
from bitembed_core.conversion import bit_linears
from bitembed_core.ops.ternary_linear.operands import Norm
from bitembed_core.ops.ternary_linear.reference import normalised
from workbench.recipes.sharding import whole_weights

LOOKS = 10
Measures = dict[str, float]


class WeightWatch:
    """The ternary weights of `model` over `steps` steps, with a report on every `report_every` and on the last."""

    def __init__(self, model: nn.Module, report_every: int, steps: int) -> None:
        self._model = model
        self._layers = dict(bit_linears(model))
        self._sizes = [layer.in_features * layer.out_features for layer in self._layers.values()]
        self._report_every, self._steps = report_every, steps
        self._look_every = max(1, report_every // LOOKS)
        self.begin(0)

    def begin(self, step: int) -> None:
        """Count from now, when `step` steps have been done."""
        self.since = step
        self._codes: list[Tensor] = []
        self._still: list[Tensor] = []
        self._flips = [0] * len(self._layers)
        self._looks = 0

    @contextmanager
    def step(self, step: int) -> Iterator[Measures]:
        """Around the update of step `step` (from 1): fills in what it yields, if it is time for a look.

        `zero_share`: of the ternary weights that are zero; `flip_share`: of those that this step changed. Weights that
        hardly ever flip have stopped learning; many that flip until the end have not settled.
        """
        seen: Measures = {}
        if step % self._look_every and step != 1 and not self.due(step):
            yield seen
            return
        self._look()
        yield seen
        flips = self._look()
        self._flips = [sum(pair) for pair in zip(self._flips, flips, strict=True)]
        self._looks += 1
        total = max(1, sum(self._sizes))
        seen |= {"zero_share": sum(self._zeros()) / total, "flip_share": sum(flips) / total}

    def due(self, step: int) -> bool:
        """Whether step `step` (from 1) calls for a report."""
        return bool(self._layers) and (step % self._report_every == 0 or step == self._steps)

    def report(self) -> dict[str, Measures]:
        """Of each layer, right after a step that called for it.

        `zero_share`: of the weights that are zero; `flip_share`: of those that a step changed, the mean over the steps
        seen since counting began; `dead_share`: of those that had the same value at every look since then.
        """
        dead = _counts(self._still)
        columns = zip(self._layers, self._sizes, self._zeros(), self._flips, dead, strict=True)
        return {
            name: {
                "zero_share": zeros / size,
                "flip_share": flips / size / self._looks,
                "dead_share": still / size,
            }
            for name, size, zeros, flips, still in columns
        }

    def _look(self) -> list[int]:
        """Take in the weights as they are now; returns for each layer how many have changed since the last look."""
        with whole_weights(self._model):
            codes = [layer.ternary()[0] for layer in self._layers.values()]
        if not self._codes:
            self._still = [torch.ones_like(new, dtype=torch.bool) for new in codes]
            self._codes = codes
        same = [new == old for new, old in zip(codes, self._codes, strict=True)]
        for still, unchanged in zip(self._still, same, strict=True):
            still.logical_and_(unchanged)
        self._codes = codes
        return [size - kept for size, kept in zip(self._sizes, _counts(same), strict=True)]

    def _zeros(self) -> list[int]:
        nonzero = _counts(self._codes)
        return [size - count for size, count in zip(self._sizes, nonzero, strict=True)]


def _counts(tensors: Sequence[Tensor]) -> list[int]:
    """How many elements of each tensor are not zero; a GPU is waited for once."""
    return torch.stack([torch.count_nonzero(x) for x in tensors]).tolist() if tensors else []


@torch.no_grad()
def activation_ranges(
    layers: Iterable[tuple[str, BitLinear]], forward: Callable[[], object], mask_BT: Tensor
) -> dict[str, Measures]:
    """What each of the ternary `layers` quantizes, its normalised input, when `forward` reads tokens with mask (B, T).

    `largest`: the largest |x|. `crest`: max|x| / rms(x), the mean over tokens. Codes of 8 bits have 127 / crest steps for
    a value of typical size, so that a token with an outlier leaves few to all its other values.
    """
    ranges: dict[str, Measures] = {}
    is_token_M = mask_BT.flatten().bool()

    def look_at(name: str) -> Callable[..., None]:
        def look(layer: BitLinear, inputs: tuple[Tensor, ...]) -> None:
            norm = Norm(layer.norm.weight, layer.norm.eps) if layer.norm is not None else None
            x_MK = inputs[0].flatten(0, -2)
            if len(x_MK) == len(is_token_M):  # otherwise the forward has left out the padding
                x_MK = x_MK[is_token_M]
            x_MK = normalised(x_MK, norm).float()
            largest_M, rms_M = x_MK.abs().amax(dim=1), x_MK.square().mean(dim=1).sqrt()
            ranges[name] = {
                "largest": largest_M.max().item(),
                "crest": (largest_M / rms_M.clamp_min(1e-12)).mean().item(),
            }

        return look

    with ExitStack() as after:
        for name, layer in layers:
            after.callback(layer.register_forward_pre_hook(look_at(name)).remove)
        forward()
    return ranges
