"""From a pretrained transformer to a ternary one: which linears become ternary, where the norms of SubLN go.

Every linear of every block becomes a `BitLinear`. Token embeddings, the backbone's own norms, QK norms and whatever lies
outside the blocks stay in floating point. SubLN comes in two forms: `sites="all"` puts an RMSNorm into each projection
(the released checkpoints), `sites="output"` only before the attention output and the FFN down projection (Eq 3);
`sites="none"` leaves it out, as plain BitNet models do.

A norm with gain 1 rescales its projection's input and so destroys the pretrained function. Calibration sets each gain to
the root mean square that the projection's input has on sample text, which keeps most of it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bitembed_core.bitlinear import BitLinear, Life
from bitembed_core.ops.ternary_linear import select_kernel

Sites = Literal["all", "output", "none"]
Batch = Mapping[str, Tensor]

# The projections that write to the residual stream, by the names the architectures give them.
OUTPUT_PROJECTIONS = {
    "o_proj",  # Qwen3, Gemma3 and the Llama family: attention output
    "down_proj",  # the same: FFN down
    "attention.output.dense",  # BERT family: attention output
    "output.dense",  # BERT family: FFN down
}
NORM_EPS = 1e-6


@dataclass(frozen=True)
class ConversionReport:
    """What conversion did: names of the ternary layers, and of everything that stays in floating point, with the reason."""

    sites: Sites
    ternary: tuple[str, ...]
    ternary_weights: int
    floating_point: dict[str, str] = field(default_factory=dict)
    floating_point_weights: int = 0


def convert_to_bitnet(
    model: PreTrainedModel,
    sites: Sites = "all",
    calibration: Iterable[Batch] | Literal["vocabulary"] | None = "vocabulary",
    life: Life = "latent",
    norm_eps: float | None = None,
    skip: Collection[str] = (),
) -> PreTrainedModel:
    """Replace every linear of every block by a `BitLinear`, in place.

    Args:
        model: a transformers model without language-model head (Qwen3, Gemma3 text, BERT family).
        sites: where SubLN puts norms: "all" projections, "output" (the paper's two per block), or "none".
        calibration: model inputs (`input_ids`, `attention_mask`) of sample text on which the norms' gains are set so
            that they keep the function; "vocabulary" takes sequences of random tokens where no text is at hand;
            None leaves all gains at 1 (a checkpoint is about to be loaded).
        life: "latent" for training, "frozen" or "packed" for loading a checkpoint into.
        norm_eps: epsilon of the projection norms; default the backbone's own `rms_norm_eps`, or 1e-6 without one.
        skip: names of linears that stay in floating point (some published ternary models have them).

    Returns:
        `model`.

    Raises:
        ValueError: unknown `sites`, a model already converted, or an architecture whose blocks or output
            projections are not recognised.
    """
    if sites not in get_args(Sites):
        raise ValueError(f"sites must be 'none', 'all' or 'output', not {sites!r}")
    if is_ternary(model):
        raise ValueError("the model has ternary layers already; convert a floating-point backbone")
    linears = {name: linear for name, linear in block_linears(model).items() if name not in skip}
    norm_eps = default_norm_eps(model) if norm_eps is None else norm_eps
    normed = {
        name for name in linears if sites == "all" or (sites == "output" and is_output_projection(name))
    }
    if sites == "output" and len(normed) != 2 * model.config.num_hidden_layers:
        raise ValueError(
            f"sites='output' needs to know the output projections of {type(model).__name__}; use sites='all'"
        )
    if calibration == "vocabulary":
        calibration = [_random_tokens(model)]
    gains = input_rms(model, normed, calibration) if normed and calibration is not None else {}
    for name, linear in linears.items():
        converted = BitLinear.from_linear(linear, norm_eps if name in normed else None, life)
        if name in gains and converted.norm is not None:
            nn.init.constant_(converted.norm.weight, gains[name])
        model.set_submodule(name, converted)
    use_kernel(model, "auto")
    return model


@torch.no_grad()
def round_to_float16(model: PreTrainedModel) -> None:
    """Round everything of a converted `model` that is not ternary to values that float16 holds, in place.

    That is the precision it is deployed in: what is trained and measured afterwards is what the small files hold, and no
    export changes an embedding that training left alone. Tensors with values beyond float16's range stay as they are.
    """
    ternary = {id(module.weight) for _, module in bit_linears(model)}
    for parameter in model.parameters():
        if id(parameter) not in ternary and parameter.is_floating_point():
            rounded = parameter.half()
            if torch.isfinite(rounded).all():
                parameter.copy_(rounded)


def default_norm_eps(model: PreTrainedModel) -> float:
    """Epsilon of the norms of SubLN in a model that says nothing else: that of the backbone's RMSNorms, or 1e-6."""
    return float(getattr(model.config, "rms_norm_eps", None) or NORM_EPS)


def block_linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Name -> linear layer, for every linear inside the transformer blocks.

    Raises:
        ValueError: no list of `num_hidden_layers` blocks is found.
    """
    layers = getattr(model.config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            found = {
                f"{name}.{child}": linear
                for child, linear in module.named_modules()
                if isinstance(linear, nn.Linear)
            }
            if found:
                return found
    raise ValueError(
        f"{type(model).__name__} has no list of transformer blocks with linear layers; "
        "supported are Qwen3, Gemma3 (text), their Llama-like relatives, and the BERT family"
    )


def bit_linears(model: nn.Module) -> Iterator[tuple[str, BitLinear]]:
    """Name and module of every `BitLinear` of `model`."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, BitLinear))


def is_ternary(model: nn.Module) -> bool:
    """Whether `model` has been converted."""
    return any(True for _ in bit_linears(model))


def learn_scales(model: nn.Module) -> None:
    """Let training choose the scale of every latent weight, beginning with that of Eq 1 (see `BitLinear.learn_scale`)."""
    for _, module in bit_linears(model):
        module.learn_scale()


def freeze(model: nn.Module) -> None:
    """Drop every latent weight of `model` and keep the ternary codes and scales."""
    for _, module in bit_linears(model):
        module.freeze()


def use_kernel(model: nn.Module, name: str) -> str:
    """Let every `BitLinear` run with kernel `name` (see `ops.ternary_linear`); returns the name of what runs."""
    device = next(chain(model.parameters(), model.buffers())).device
    kernel = select_kernel(name, device)
    for _, module in bit_linears(model):
        module.kernel = kernel
    return kernel.name if is_ternary(model) else "float"


@contextmanager
def annealed(model: nn.Module, pressure: float) -> Iterator[None]:
    """Inside, latent weights are quantized as far as `pressure` says, 0 (not at all) to 1 (Eq 1); outside, wholly.

    What is measured, saved or exported outside is the ternary model, whatever the pressure in training.
    """
    layers = [module for _, module in bit_linears(model)]
    for layer in layers:
        layer.pressure = pressure
    try:
        yield
    finally:
        for layer in layers:
            layer.pressure = 1.0


def conversion_report(model: PreTrainedModel) -> ConversionReport:
    """List what is ternary in a converted `model` and what stays in floating point, with the reason."""
    ternary = dict(bit_linears(model))
    with_norm = [name for name, module in ternary.items() if module.norm is not None]
    floating, floating_weights = {}, 0
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if owner in ternary and leaf in ("weight", "log_scale"):
            continue
        floating[name] = _why_floating(owner, leaf, ternary, model)
        floating_weights += parameter.numel()
    return ConversionReport(
        sites=sites_of(with_norm, len(ternary)),
        ternary=tuple(ternary),
        ternary_weights=sum(m.in_features * m.out_features for m in ternary.values()),
        floating_point=floating,
        floating_point_weights=floating_weights,
    )


def sites_of(with_norm: Sequence[str], ternary: int) -> Sites:
    """The form of SubLN in which `with_norm` of a model's `ternary` linears carry a norm."""
    if not with_norm:
        return "none"
    return "all" if len(with_norm) == ternary else "output"


@torch.no_grad()
def input_rms(model: PreTrainedModel, names: Iterable[str], batches: Iterable[Batch]) -> dict[str, float]:
    """Mean over the real tokens of `batches` of the root mean square of each named layer's input."""
    totals = dict.fromkeys(names, 0.0)
    real: Tensor

    def record(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rms = inputs[0].float().square().mean(dim=-1).sqrt()
            totals[name] += rms.reshape(real.shape)[real].sum().item()

        return hook

    tokens = 0
    with ExitStack() as hooks:
        for name in totals:
            handle = model.get_submodule(name).register_forward_pre_hook(record(name))
            hooks.callback(handle.remove)
        was_training = model.training
        model.eval()
        for batch in batches:
            real = batch["attention_mask"].bool()
            tokens += int(real.sum())
            model(**batch)
        model.train(was_training)
    if not tokens:
        raise ValueError("calibration needs at least one non-empty text")
    return {name: total / tokens for name, total in totals.items()}


def is_output_projection(name: str) -> bool:
    """Whether the linear called `name` writes to the residual stream."""
    return any(name.endswith(f".{projection}") for projection in OUTPUT_PROJECTIONS)


def _random_tokens(model: PreTrainedModel, sequences: int = 16, length: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (sequences, length), generator=generator).to(model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _why_floating(owner: str, leaf: str, ternary: Mapping[str, BitLinear], model: PreTrainedModel) -> str:
    module = model.get_submodule(owner)
    if leaf == "bias" and owner in ternary:
        return "bias of a ternary layer"
    if owner.removesuffix(".norm") in ternary:
        return "norm of a ternary layer (SubLN)"
    if isinstance(module, nn.Embedding):
        return "embedding table"
    if "norm" in type(module).__name__.lower():
        return "norm of the backbone"
    return "outside the transformer blocks"
