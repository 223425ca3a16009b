"""BitLinear: a linear layer with ternary weights, 8-bit activations and, where SubLN asks for it, its own RMSNorm.

One module, three lives:
- latent: a floating-point `weight` that is quantized at every forward and receives straight-through gradients; its scale
  is `mean|W|` (Eq 1), or learned;
- frozen: int8 codes in {-1, 0, 1} and one scale, no latent weight, no gradient;
- packed: the frozen weight as it lies on disk, two bits a code (`ternary_packing.py`), for a checkpoint to fill. Freezing
  it costs nothing: the packed bytes are unpacked when the layer first runs.
"""

import logging
from typing import Any, Literal, Self, cast, get_args

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from bitembed_core.ops.ternary_linear import Norm, TernaryLinearKernel, annealed_linear, select_kernel
from bitembed_core.quantizers import EPS, fake_quantize_weight, learned_pattern, quantize_weight
from bitembed_core.ternary_packing import pack_ternary, packed_width, unpack_ternary

logger = logging.getLogger(__name__)

Life = Literal["latent", "frozen", "packed"]


def _count_as_written(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Fused optimizers write to parameters without a new version number, by which layers and encoders know that what they
    have prepared from a weight is out of date."""
    for group in optimizer.param_groups:
        torch.autograd.graph.increment_version([p for p in group["params"] if p.grad is not None])


register_optimizer_step_post_hook(_count_as_written)


class ProjectionNorm(nn.Module):
    """Gain and epsilon of the RMSNorm before a projection (SubLN, Eq 3); the layer's kernel applies it."""

    def __init__(self, features: int, eps: float, device: torch.device | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features, device=device))


class BitLinear(nn.Module):
    """`y = Qx(norm(x)) Qw(W)^T + bias` (Eq 1 to 3); x (..., in_features), y (..., out_features).

    Args:
        in_features, out_features: as in `nn.Linear`.
        bias: add a floating-point bias.
        norm_eps: epsilon of the layer's own RMSNorm; None leaves the norm out.
        life: which tensors to hold: "latent" a parameter `weight` (out, in); "frozen" int8 `codes` (out, in) and
            `weight_scale` (); "packed" uint8 `weight` (out, ceil(in / 4)) and `weight_scale` ().
    """

    weight: nn.Parameter | None
    log_scale: nn.Parameter | None
    bias: nn.Parameter | None
    codes: Tensor | None
    packed_codes: Tensor | None
    weight_scale: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        norm_eps: float | None = 1e-6,
        life: Life = "latent",
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if life not in get_args(Life):
            raise ValueError(f"life must be one of {get_args(Life)}, not {life!r}")
        self.in_features, self.out_features = in_features, out_features
        self.norm = ProjectionNorm(in_features, norm_eps, device) if norm_eps is not None else None
        self.register_parameter("weight", None)
        self.register_parameter("log_scale", None)
        self.register_buffer("codes", None)
        self.register_buffer("packed_codes", None)
        self.register_buffer("weight_scale", None)
        if life == "latent":
            self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device))
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        else:
            self.weight_scale = torch.zeros((), device=device)
        if life == "frozen":
            self.codes = torch.zeros(out_features, in_features, dtype=torch.int8, device=device)
        if life == "packed":
            packed = torch.empty(out_features, packed_width(in_features), dtype=torch.uint8, device=device)
            self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_features, device=device)) if bias else None
        )
        self._two_bits: tuple[tuple[object, ...], Any] | None = None
        self.pressure = 1.0  # of quantization on a latent weight, see `conversion.annealed`
        self.kernel: TernaryLinearKernel = select_kernel("reference", "cpu")

    @classmethod
    def from_linear(cls, linear: nn.Linear, norm_eps: float | None, life: Life = "latent") -> Self:
        """A BitLinear in place of `linear`; a latent one takes over its weight and bias tensors."""
        device = torch.device("meta") if life == "latent" else linear.weight.device
        module = cls(linear.in_features, linear.out_features, linear.bias is not None, norm_eps, life, device)
        if life == "latent":
            module.weight = cast(nn.Parameter, linear.weight)
            module.bias = linear.bias
            if norm_eps is not None:
                module.norm = ProjectionNorm(linear.in_features, norm_eps, linear.weight.device)
        return module

    @property
    def life(self) -> Life:
        if self.weight is None:
            return "frozen"
        return "latent" if self.weight.is_floating_point() else "packed"

    def learn_scale(self) -> None:
        """Give a latent weight a scale of its own, which is trained and begins with that of Eq 1."""
        if self.weight is None or not self.weight.is_floating_point():
            raise ValueError(f"only a latent weight has a scale to be learned; this layer is {self.life}")
        scale = quantize_weight(self.weight.detach())[1]
        self.log_scale = nn.Parameter(scale.clamp(min=EPS).log().view(1))

    def latent_weight(self) -> Tensor:
        """The weight (out, in) of a latent layer that Eq 1 quantizes; `learned_pattern` where the scale is learned."""
        assert self.weight is not None
        return self.weight if self.log_scale is None else learned_pattern(self.weight, self.log_scale)

    def freeze(self) -> None:
        """Keep only the ternary codes and their scale; a latent or packed weight is dropped."""
        if self.weight is not None:
            if self.weight.is_floating_point():
                self.codes, self.weight_scale = self.ternary()
                self.log_scale = None
            else:
                self.packed_codes = self.weight.detach()
            self.weight = None

    def ternary(self) -> tuple[Tensor, Tensor]:
        """Codes int8 (out, in) and scale (), whichever life the layer is in."""
        if self.weight is not None and self.weight.is_floating_point():
            return quantize_weight(self.latent_weight().detach())
        assert self.weight_scale is not None
        if self.weight is not None:
            return unpack_ternary(self.weight.detach(), self.in_features), self.weight_scale
        packed = self.packed_codes
        if packed is not None:  # another thread may be here too: first the codes, then the packed ones go
            self.codes = unpack_ternary(packed, self.in_features)
            self.packed_codes = None
        assert self.codes is not None
        return self.codes, self.weight_scale

    def two_bits(self, kernel: TernaryLinearKernel | None = None) -> tuple[Any, Tensor]:
        """The ternary weight in the form that `kernel` (by default the layer's own) reads, and its scale (); kept until the
        weight changes."""
        kernel = kernel or self.kernel
        assert kernel.two_bits is not None
        stored = next(t for t in (self.packed_codes, self.codes, self.weight) if t is not None)
        versions = (t._version for t in (stored, self.log_scale) if t is not None and not t.is_inference())
        state = (kernel.name, id(stored), *versions)
        if self._two_bits is None or self._two_bits[0] != state:
            packed = stored if stored.dtype == torch.uint8 else pack_ternary(self.ternary()[0])
            self._two_bits = (state, kernel.two_bits.prepare(packed.detach(), self.in_features))
        scale = self.ternary()[1] if self.life == "latent" else self.weight_scale
        assert scale is not None
        return self._two_bits[1], scale

    def forward(self, x: Tensor) -> Tensor:
        norm = Norm(self.norm.weight, self.norm.eps) if self.norm is not None else None
        if not self.kernel.runs_on(x.device):  # the model was moved after its kernel had been chosen
            self.kernel = select_kernel("auto", x.device)
            logger.warning(
                "a ternary layer was moved to %s; it runs with kernel %s", x.device, self.kernel.name
            )
        if self.weight is not None and self.weight.is_floating_point():
            latent = self.latent_weight()
            if self.pressure < 1:
                quantized = fake_quantize_weight(latent)
                return annealed_linear(x, self.weight, quantized, self.pressure, self.bias, norm)
            return self.kernel.latent(x, latent, self.bias, norm)
        if self.kernel.two_bits is not None:
            return self.kernel.two_bits.run(x, *self.two_bits(), self.bias, norm)
        return self.kernel.frozen(x, *self.ternary(), self.bias, norm)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, "
            f"life={self.life}, kernel={self.kernel.name}"
        )
