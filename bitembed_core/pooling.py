"""From token states to one vector: last token, mean or CLS."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

PoolingMode = Literal["last", "mean", "cls"]
POOLING_MODES: tuple[PoolingMode, ...] = get_args(PoolingMode)


def last_token(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """State of the last token that is not padding, wherever the padding stands."""
    positions_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    last_B = (positions_T * mask_BT.bool()).argmax(dim=1)
    return states_BTD[torch.arange(len(last_B), device=last_B.device), last_B]


def mean_token(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean of the states of all tokens that are not padding."""
    weights_BT1 = mask_BT.unsqueeze(-1).to(states_BTD.dtype)
    return (states_BTD * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1).clamp(min=1.0)


def cls_token(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """State of the first token that is not padding."""
    first_B = mask_BT.bool().int().argmax(dim=1)
    return states_BTD[torch.arange(len(first_B), device=first_B.device), first_B]


POOLERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "last": last_token,
    "mean": mean_token,
    "cls": cls_token,
}


def pool(states_BTD: Tensor, mask_BT: Tensor, mode: PoolingMode) -> Tensor:
    """Pool `states_BTD` over the tokens where `mask_BT` is 1: (B, D) float32."""
    return POOLERS[mode](states_BTD.float(), mask_BT)
