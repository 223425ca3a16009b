"""Tiles of the Triton kernels. Nothing is measured while a model runs: a first call costs one compilation of a kernel."""

from functools import cache
from typing import Any, NamedTuple

import torch

from bitembed_core.ops import gpu

KIB = 1024


class Tile(NamedTuple):
    """Of an integer product: tokens and weight rows of a tile, bytes of a packed row taken at a time (four weights each)."""

    tokens: int
    rows: int
    bytes: int
    warps: int
    stages: int

    def launch(self) -> dict[str, Any]:
        """The tile as arguments of a product kernel."""
        return {
            "TOKENS": self.tokens,
            "ROWS": self.rows,
            "BYTES": self.bytes,
            "num_warps": self.warps,
            "num_stages": self.stages,
            "enable_fp_fusion": False,  # scales, then the bias, as the integer kernel rounds them
        }

    @property
    def stage_bytes(self) -> int:
        """Shared memory of a stage: packed weights and the four stretches of the tokens that they meet."""
        return self.bytes * (self.rows + 4 * self.tokens)


# Largest first: the larger a tile, the fewer times operands are read. With them an H100 gives
# kernels/benchmarks/results/gpu_linears_h100.json; on other cards they have not been tried.
TILES = (
    Tile(128, 128, 64, 8, 3),
    Tile(64, 128, 64, 4, 3),
    Tile(64, 64, 64, 4, 3),
    Tile(32, 64, 128, 4, 4),
    Tile(16, 64, 128, 4, 4),
)
INTERPRETED = Tile(64, 32, 32, 1, 1)


class Card(NamedTuple):
    """What the choice of a tile needs to know of a CUDA device."""

    multiprocessors: int
    shared_bytes: int  # that a block may have


@cache
def card(device: torch.device) -> Card:
    """Of `device`."""
    properties = torch.cuda.get_device_properties(device)
    shared_bytes = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]  # unknown to the stub
    return Card(properties.multi_processor_count, shared_bytes)


def tile_for(tokens: int, rows: int, device: torch.device) -> Tile:
    """The tile of a product of `tokens` with `rows` weight rows: the largest of which every multiprocessor gets one,
    or the smallest."""
    if gpu.interpreting():
        return INTERPRETED
    return choose_tile(tokens, rows, card(device))


def choose_tile(tokens: int, rows: int, card: Card) -> Tile:
    """The same for a card."""
    enough = (
        tile for tile in TILES if -(-tokens // tile.tokens) * -(-rows // tile.rows) >= card.multiprocessors
    )
    return fitted(next(enough, TILES[-1]), card)


def fitted(tile: Tile, card: Card) -> Tile:
    """The tile with as many of its stages as the card has shared memory for."""
    return tile._replace(stages=max(1, min(tile.stages, card.shared_bytes // tile.stage_bytes)))


def warps_for(block: int) -> int:
    """Warps of a program that handles a row of `block` values."""
    return min(16, max(1, block // 256))
