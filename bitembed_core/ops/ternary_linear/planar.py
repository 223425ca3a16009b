"""Ternary weights in the order in which GPU kernels read them: two bits a weight, four planes a row.

Byte j of a row of J = ceil(in / 4) bytes holds the weights j, J + j, 2 J + j and 3 J + j, the first one in the two lowest
bits, each as `code + 1`. So the f-th fields of consecutive bytes meet consecutive activations f J + j, which a tile reads in
their natural order. Weights past the end have code 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bitembed_core.ternary_packing import SHIFTS, packed_width, unpack_ternary


class PlanarWeight(NamedTuple):
    """uint8 (out, J) and the number of weights in a row."""

    planes: Tensor
    in_features: int


def planar_weight(packed: Tensor, in_features: int) -> PlanarWeight:
    """The planes of rows packed as on disk (`ternary_packing`); ValueError when these are damaged."""
    return PlanarWeight(pack_planes(unpack_ternary(packed, in_features)), in_features)


def pack_planes(codes_NK: Tensor) -> Tensor:
    """int8 codes (out, in) in {-1, 0, 1} -> uint8 (out, J)."""
    width = packed_width(codes_NK.shape[1])
    padded = torch.nn.functional.pad(codes_NK, (0, 4 * width - codes_NK.shape[1]))
    fields_N4J = padded.add(1).to(torch.uint8).unflatten(1, (4, width))
    planes = torch.zeros_like(fields_N4J[:, 0])
    for field, shift in enumerate(SHIFTS):
        planes |= fields_N4J[:, field] << shift
    return planes


def unpack_planes(weight: PlanarWeight) -> Tensor:
    """The int8 codes (out, in) again."""
    fields = torch.stack([(weight.planes >> shift) & 3 for shift in SHIFTS], dim=1).flatten(1)
    return fields[:, : weight.in_features].to(torch.int8) - 1
