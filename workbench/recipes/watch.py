"""How ternary weights move while they are trained."""

from torch import Tensor, nn

from bitembed_core.conversion import bit_linears


class WeightWatch:
    """The ternary weights of `model` from one look to the next; the first look is now."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = [module for _, module in bit_linears(model)]
        self._codes = self._now()

    def look(self) -> dict[str, float]:
        """`zero_share`: of the weights that are zero; `flip_share`: of those that changed since the last look.

        Weights that hardly ever flip have stopped learning; many that flip until the end have not settled.
        """
        before, self._codes = self._codes, self._now()
        total = max(1, sum(codes.numel() for codes in self._codes))
        zeros = sum(int((codes == 0).sum()) for codes in self._codes)
        flips = sum(int((new != old).sum()) for new, old in zip(self._codes, before, strict=True))
        return {"zero_share": zeros / total, "flip_share": flips / total}

    def _now(self) -> list[Tensor]:
        return [layer.ternary()[0] for layer in self._layers]
