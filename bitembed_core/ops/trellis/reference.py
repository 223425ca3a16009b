"""Trellis codes step by step: what the native operations are tested against, and what runs on other devices.

All arithmetic is in integers, so that a vector has the same code everywhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

WINDOW_BITS = 8
WINDOWS = 1 << WINDOW_BITS
TOP = 255  # of the levels: z stands for 2 z - 255
LARGEST_TARGET = 4095  # squares of differences stay in 32 bits however long a path is
FAR = 1 << 29  # cost of a state that no path has reached
VECTORS_AT_ONCE = 1 << 10


@dataclass(frozen=True, eq=False)
class Trellis:
    """A code of `step_bits / step_values` bits a value.

    A vector's code is a string of bits. Each step appends `step_bits` of them, and the last eight bits, the window, choose
    the step's values among 256 rows of levels; before the first bit there are zeros. So values that follow each other share
    bits: of every bit eight steps or so make use, and the encoder, which looks for the best string as a whole (Viterbi's
    algorithm), comes nearer to the vector than codes of single values can.

    Args:
        step_bits: new bits of a step, 1 to 7.
        step_values: values of a step.
        levels_WV: uint8 (256, step_values), of each window.
    """

    step_bits: int
    step_values: int
    levels_WV: Tensor

    def __post_init__(self) -> None:
        if not 1 <= self.step_bits < WINDOW_BITS or self.levels_WV.shape != (WINDOWS, self.step_values):
            raise ValueError(
                f"a trellis has 1 to 7 new bits a step and levels (256, {self.step_values}), not {self.step_bits} and "
                f"{tuple(self.levels_WV.shape)}"
            )

    @property
    def bits(self) -> float:
        """Bits per value."""
        return self.step_bits / self.step_values

    def steps(self, dim: int) -> int:
        return -(-dim // self.step_values)

    def code_bytes(self, dim: int) -> int:
        """Bytes of one vector's code."""
        return -(-self.steps(dim) * self.step_bits // 8)


def encode(targets_ND: Tensor, trellis: Trellis) -> Tensor:
    """The codes uint8 (n, code_bytes) whose values `2 z - 255` have the least squared distance from int16 targets (n, dim).

    Targets lie within +-LARGEST_TARGET. Of equal distances the code is taken whose windows, from the last to the first, have
    the smallest first bits.
    """
    codes = [_encode(part, trellis) for part in targets_ND.split(VECTORS_AT_ONCE)]
    return (
        torch.cat(codes) if codes else targets_ND.new_zeros(0, trellis.code_bytes(targets_ND.shape[1])).byte()
    )


def _encode(targets_ND: Tensor, trellis: Trellis) -> Tensor:
    (n, dim), k, device = targets_ND.shape, trellis.step_bits, targets_ND.device
    steps, states, branches = trellis.steps(dim), WINDOWS >> k, 1 << k
    filled = torch.nn.functional.pad(targets_ND.int(), (0, steps * trellis.step_values - dim))
    targets_TNV = filled.view(n, steps, trellis.step_values).transpose(0, 1)
    values_WV = 2 * trellis.levels_WV.to(device).int() - TOP
    first_bits = torch.arange(branches, device=device)[:, None]
    cost_NS = torch.full((n, states), FAR, dtype=torch.int32, device=device)
    cost_NS[:, 0] = 0
    chosen_TNS = torch.empty(steps, n, states, dtype=torch.uint8, device=device)
    # A window is a state and the bits that follow it; its last bits are the next state. Of the windows that lead to a state
    # the first bits differ.
    for t, y_NV in enumerate(targets_TNV):
        distance_NW = (y_NV[:, None] - values_WV).square().sum(dim=2, dtype=torch.int32)
        reached_NBS = (cost_NS.repeat_interleave(branches, dim=1) + distance_NW).view(n, branches, states)
        best_NS = (reached_NBS.long() * branches + first_bits).amin(dim=1)
        chosen_TNS[t] = (best_NS % branches).byte()
        cost_NS = (best_NS // branches).int()
        cost_NS = cost_NS - cost_NS.amin(dim=1, keepdim=True)
    state_N = (cost_NS.long() * states + torch.arange(states, device=device)).amin(dim=1) % states
    new_bits_NT = torch.empty(n, steps, dtype=torch.int64, device=device)
    for t in range(steps - 1, -1, -1):
        window_N = chosen_TNS[t].gather(1, state_N[:, None])[:, 0].long() * states + state_N
        new_bits_NT[:, t] = window_N % branches
        state_N = window_N >> k
    return _packed(new_bits_NT, k)


def levels(codes_NB: Tensor, dim: int, trellis: Trellis) -> Tensor:
    """The levels uint8 (n, dim) that codes (n, code_bytes) stand for."""
    device = codes_NB.device
    # Eight zero bits in front: then the window of step t begins at bit (t + 1) k.
    bytes_NB = torch.nn.functional.pad(codes_NB.int(), (1, 1))
    begins_T = torch.arange(1, trellis.steps(dim) + 1, device=device) * trellis.step_bits
    pairs_NT = bytes_NB[:, begins_T // 8] * 256 + bytes_NB[:, begins_T // 8 + 1]
    windows_NT = (pairs_NT >> (8 - begins_T % 8)) & (WINDOWS - 1)
    return trellis.levels_WV.to(device)[windows_NT.long()].flatten(1)[:, :dim]


def _packed(new_bits_NT: Tensor, step_bits: int) -> Tensor:
    """The bytes that hold the bits of all steps one after the other, the first in the highest place."""
    shifts = torch.arange(step_bits - 1, -1, -1, device=new_bits_NT.device)
    bits_NB = ((new_bits_NT[:, :, None] >> shifts) & 1).flatten(1)
    bits_NB = torch.nn.functional.pad(bits_NB, (0, -bits_NB.shape[1] % 8))
    places = 1 << torch.arange(7, -1, -1, device=bits_NB.device)
    return (bits_NB.view(len(bits_NB), bits_NB.shape[1] // 8, 8) * places).sum(dim=2).byte()
