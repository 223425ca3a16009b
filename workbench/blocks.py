"""The steps of a transformer block in their order, found in a model by the names of its modules."""

from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from bitembed_core.bitlinear import BitLinear, ProjectionNorm

StepKind = Literal["linear", "norm", "operation", "fork", "add"]


class Step(NamedTuple):
    """One step; several names are side by side. What enters at "fork" also goes straight to the next "add"."""

    kind: StepKind
    names: tuple[str, ...] = ()


FORK, ADD = Step("fork"), Step("add")


def block_steps(model: PreTrainedModel) -> list[Step]:
    """The steps of the first block of `model`, converted or not; linears and norms by their names in the block.

    Raises:
        ValueError: an architecture whose blocks have linears or norms that are not known here.
    """
    modules = dict(_first_block(model).named_modules())
    config = model.config
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", "activation")
    find = _bert if "attention.self.query" in modules else _decoder
    steps = list(find(modules, str(activation).partition("_")[0]))
    known = {name for step in steps for name in step.names}
    unknown = [name for name, module in modules.items() if _has_weights(module) and name not in known]
    if unknown:
        raise ValueError(f"the blocks of {type(model).__name__} are not known: {', '.join(unknown[:3])}")
    return steps


def _bert(_names: Collection[str], activation: str) -> Iterator[Step]:
    yield FORK
    yield Step("linear", ("attention.self.query", "attention.self.key", "attention.self.value"))
    yield Step("operation", ("attention",))
    yield Step("linear", ("attention.output.dense",))
    yield ADD
    yield Step("norm", ("attention.output.LayerNorm",))
    yield FORK
    yield Step("linear", ("intermediate.dense",))
    yield Step("operation", (activation,))
    yield Step("linear", ("output.dense",))
    yield ADD
    yield Step("norm", ("output.LayerNorm",))


def _decoder(names: Collection[str], activation: str) -> Iterator[Step]:
    """Qwen3, Gemma 3, and the Llama family, which has no norms of queries and keys."""
    four_norms = "pre_feedforward_layernorm" in names  # Gemma's: around both branches
    yield FORK
    yield Step("norm", ("input_layernorm",))
    yield Step("linear", tuple(f"self_attn.{which}_proj" for which in "qkv"))
    if "self_attn.q_norm" in names:
        yield Step("norm", ("self_attn.q_norm", "self_attn.k_norm"))
    yield Step("operation", ("attention",))
    yield Step("linear", ("self_attn.o_proj",))
    if four_norms:
        yield Step("norm", ("post_attention_layernorm",))
    yield ADD
    yield FORK
    yield Step("norm", ("pre_feedforward_layernorm" if four_norms else "post_attention_layernorm",))
    yield Step("linear", ("mlp.gate_proj", "mlp.up_proj"))
    yield Step("operation", (f"{activation}(gate) \u00d7 up",))
    yield Step("linear", ("mlp.down_proj",))
    if four_norms:
        yield Step("norm", ("post_feedforward_layernorm",))
    yield ADD


def _first_block(model: PreTrainedModel) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return module[0]
    raise ValueError(f"{type(model).__name__} has no list of transformer blocks")


def _has_weights(module: nn.Module) -> bool:
    """Whether it is a linear or one of the backbone's own norms."""
    is_norm = "norm" in type(module).__name__.lower() and not isinstance(module, ProjectionNorm)
    return isinstance(module, nn.Linear | BitLinear) or is_norm
