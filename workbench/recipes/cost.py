"""What training costs: floating-point operations and bytes, from a model's shape and the lengths of its texts.

A multiplication and an addition are two operations. Counted are the linears of the blocks and the two products of
attention, over whole texts without padding; norms, rounding, the optimizer and the losses over embeddings are left out,
together a few per cent.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from bitembed_core import BitLinear
from bitembed_core.conversion import convert_to_bitnet, use_kernel
from workbench.recipes.objective import Objective
from workbench.recipes.settings import TrainingConfig

FLOAT32, ADAM_MOMENTS = 4, 2 * 4  # bytes a weight


@dataclass(frozen=True)
class Shape:
    """What the cost of a transformer depends on."""

    layers: int
    hidden: int
    attention_width: int
    """Query heads times their width."""
    block_weights: int
    """In the linears of all blocks: what becomes ternary."""
    table_weights: int
    """In the token table."""
    other_weights: int
    """Norms, biases, position tables."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """The shape of `model`, which may lie on the meta device, ternary or not."""
        config = model.config
        blocks = sum(
            module.in_features * module.out_features
            for module in model.modules()
            if isinstance(module, nn.Linear | BitLinear)
        )
        table = model.get_input_embeddings().weight.numel()
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            attention_width=config.num_attention_heads * head_width,
            block_weights=blocks,
            table_weights=table,
            other_weights=sum(parameter.numel() for parameter in model.parameters()) - blocks - table,
        )

    @property
    def weights(self) -> int:
        return self.block_weights + self.table_weights + self.other_weights

    def trained_weights(self, freeze_token_embeddings: bool) -> int:
        return self.weights - (self.table_weights if freeze_token_embeddings else 0)


def forward_flops(shape: Shape, lengths: Iterable[int]) -> int:
    """Operations of one forward pass over texts of so many tokens: `2 W T + 4 L d T^2` for each, with W weights in the
    blocks, L layers, and d the width of all heads. Causal attention is counted in full, as masked kernels compute it."""
    attention = 4 * shape.layers * shape.attention_width
    return sum(2 * shape.block_weights * tokens + attention * tokens**2 for tokens in lengths)


def step_flops(config: TrainingConfig, student: Shape, teacher: Shape | None, lengths: Iterable[int]) -> int:
    """Operations of one optimiser step on texts of these lengths, over all processes.

    A backward pass is two forward passes. Chunks (GradCache) and gradient checkpointing each cost the student one more.
    Relations in chunks cost the teacher a second one through the layers below that of the relations. Vectors of a teacher
    that are kept from an earlier epoch would cost nothing; they are counted.
    """
    lengths = list(lengths)
    chunked = config.chunk_tokens is not None
    flops = (3 + chunked + config.gradient_checkpointing) * forward_flops(student, lengths)
    if teacher is not None:
        once = forward_flops(teacher, lengths)
        layers = Objective.of(config).layers(student.layers, teacher.layers) if chunked else None
        flops += once + (once * layers[1] // teacher.layers if layers else 0)
    return flops


def step_lengths(config: TrainingConfig, query_tokens: int, document_tokens: int) -> list[int]:
    """Lengths of the texts of a step, if all queries and all documents are as long as that or are cut to `max_length`."""
    query, document = (min(tokens, config.max_length) for tokens in (query_tokens, document_tokens))
    documents = 1 + int(getattr(config, "hard_negatives", 0))
    return ([query] + documents * [document]) * config.batch_size


def state_bytes(shape: Shape, freeze_token_embeddings: bool, processes: int, sharded: bool) -> int:
    """Memory on each GPU for weights, gradients and both moments of AdamW, in float32.

    Copies on all GPUs (DistributedDataParallel) also hold the gradients a second time, in the buckets that are averaged.
    Shards (FSDP) also hold one layer, and what belongs to no layer, whole.
    """
    trained = shape.trained_weights(freeze_token_embeddings)
    state = FLOAT32 * (shape.weights + trained) + ADAM_MOMENTS * trained
    if not sharded:
        return state + (FLOAT32 * trained if processes > 1 else 0)
    layer = shape.block_weights // shape.layers
    whole = shape.table_weights + shape.other_weights + 2 * layer  # a layer's weights and its gradients
    return state // processes + FLOAT32 * whole


def checkpoint_bytes(shape: Shape, freeze_token_embeddings: bool) -> int:
    """Disk space of one checkpoint: the trained weights and their moments, in float32."""
    return (FLOAT32 + ADAM_MOMENTS) * shape.trained_weights(freeze_token_embeddings)


def activation_bytes(make_config: Callable[..., PretrainedConfig]) -> int:
    """Bytes that a ternary layer of an architecture keeps of each token for its backward pass, in bfloat16.

    Measured on the CPU, with layers of the real width and random weights; kernels for GPUs keep the same tensors. What does
    not grow with the tokens cancels out, as does what is kept outside of the layers.

    Args:
        make_config: the architecture, of which the number of layers and the vocabulary are changed.
    """
    short, long = 32, 64
    by_tokens = {
        tokens: _kept_bytes(make_config, 2, tokens) - _kept_bytes(make_config, 1, tokens)
        for tokens in (short, long)
    }
    return (by_tokens[long] - by_tokens[short]) // (long - short)


def _kept_bytes(make_config: Callable[..., PretrainedConfig], layers: int, tokens: int) -> int:
    model = AutoModel.from_config(make_config(num_hidden_layers=layers, vocab_size=8, pad_token_id=None))
    convert_to_bitnet(model.eval(), calibration=None)
    use_kernel(model, "int8")
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
