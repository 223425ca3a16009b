"""Weights in shards over the processes (FSDP2), as `accelerate launch --use_fsdp --fsdp_version 2` asks for.

Each process keeps its part of every weight, gradient and moment of the optimizer. FSDP gathers the weights of a layer before
the layer runs, so Eq 1 sees the whole tensor, and lets go of them afterwards. Whatever looks at weights outside of a
forward pass does so through the functions here, which all processes have to call together.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from bitembed_core import BitEmbedder


def make_accelerator(**settings: Any) -> Accelerator:
    """An Accelerator for the processes that `accelerate launch` started, with shards if it was told so.

    Raises:
        ValueError: FSDP was asked for in a way that does not fit.
    """
    plugin = _plugin()
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # said explicitly, or launched processes would not find each other
        mixed_precision="no",  # `Training` has its own autocast
        fsdp_plugin=plugin,
        **settings,
    )
    if plugin is not None and accelerator.distributed_type is DistributedType.MULTI_CPU:
        # PyTorch shards on any device, accelerate does not think of processes without one.
        accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    return accelerator


def _plugin() -> FullyShardedDataParallelPlugin | None:
    """The launcher's FSDP settings. By default each layer of the model is gathered by itself, and every process loads
    the model, whole: it is calibrated, and teachers are not sharded."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    plugin = FullyShardedDataParallelPlugin(
        auto_wrap_policy=os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP"),
        cpu_ram_efficient_loading=False,
    )
    if plugin.fsdp_version != 2:
        raise ValueError("shards need the second version of FSDP: accelerate launch --fsdp_version 2")
    if plugin.activation_checkpointing:
        raise ValueError(
            "instead of FSDP's activation checkpointing take the recipe's: --gradient-checkpointing"
        )
    return plugin


def prepare(accelerator: Accelerator, encoder: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
    """`encoder`, wrapped so that processes share gradients. With shards its parameters and those in `optimizer` are
    replaced in place."""
    if _shards(accelerator):
        return accelerator.prepare(encoder, optimizer)[0]
    return accelerator.prepare_model(encoder)


def _shards(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type is DistributedType.FSDP


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Within the block all parameters of `module` are whole, for looking at; without shards they always are."""
    shards = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in shards:
        part.unshard()
    try:
        yield
    finally:
        for part in shards:
            part.reshard()


def whole(x: Tensor) -> Tensor:
    """`x`, put together from all processes if it is in shards."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def share_of(x: Tensor, like: Tensor) -> Tensor:
    """What a process keeps of the whole `x` where `like` is kept: its shard, if `like` is in shards of the same shape."""
    x = x.to(like.device)
    if not isinstance(like, DTensor) or x.shape != like.shape:
        return x
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)


class WholeCopies:
    """Copies of an embedder for what cannot work on shards: encoding and saving.

    Args:
        embedder: as it is before `prepare`.
    """

    def __init__(self, embedder: BitEmbedder, accelerator: Accelerator) -> None:
        self._embedder = embedder
        self._empty = _without_weights(embedder.model) if _shards(accelerator) else None

    @contextmanager
    def copy(self, encoder: nn.Module) -> Iterator[BitEmbedder]:
        """Within the block, the embedder with the weights that it has now in `encoder`, which is what `prepare` returned;
        the embedder itself where there are no shards."""
        if self._empty is None:
            yield self._embedder
            return
        with whole_weights(encoder):
            model = deepcopy(self._empty)
            weights = {name: p.detach() for name, p in self._embedder.model.named_parameters()}
            model.load_state_dict(weights, strict=False, assign=True)
            yield BitEmbedder(model, self._embedder.tokenizer, self._embedder.settings, self._embedder.device)


def _without_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of `model` whose parameters take no memory."""
    nothing = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        for parameter in model.parameters()
    }
    return deepcopy(model, nothing)
