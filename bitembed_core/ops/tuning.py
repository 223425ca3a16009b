"""Launch configurations of the Triton kernels that have a choice: which tiles are tried, and on which cards.

The autotuner measures them when a kernel first meets a shape and keeps the winner in Triton's cache on disk. Under the
interpreter there is one. Figures in the tables are reasoned, not yet measured (`kernels/benchmarks/gpu.py` measures).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton

from bitembed_core.ops import gpu

Configs = list[triton.Config]


class Tile(NamedTuple):
    """Of an integer product: tokens and weight rows of a tile, bytes of a packed row taken at a time (four weights each)."""

    tokens: int
    rows: int
    bytes: int
    warps: int
    stages: int


# Few tokens: the time is that of reading weights, so many rows are on their way at once and tiles are small.
FEW_TOKENS = (
    Tile(16, 16, 128, 4, 4),
    Tile(16, 32, 128, 4, 4),
    Tile(16, 32, 64, 2, 5),
    Tile(16, 64, 64, 4, 4),
)
# Many tokens: two-bit weights are unpacked once for every tile of tokens, so tiles are as tall as registers allow.
TILES = {
    "ampere": (
        *FEW_TOKENS,
        Tile(64, 64, 32, 4, 4),
        Tile(64, 128, 32, 4, 3),
        Tile(128, 64, 32, 4, 3),
        Tile(128, 128, 32, 8, 3),
    ),
    "hopper": (
        *FEW_TOKENS,
        Tile(64, 64, 32, 4, 4),
        Tile(64, 128, 32, 4, 4),
        Tile(128, 128, 32, 8, 4),
        Tile(128, 128, 64, 8, 3),
        Tile(128, 256, 32, 8, 3),
    ),
    "blackwell": (
        *FEW_TOKENS,
        Tile(64, 128, 32, 4, 4),
        Tile(128, 128, 32, 8, 4),
        Tile(128, 128, 64, 8, 3),
    ),
}
INTERPRETED = Tile(64, 32, 32, 1, 1)
FEW = 16  # tokens


def card(device: int | None = None) -> str:
    """The family of a CUDA card, a key of TILES."""
    major, _ = torch.cuda.get_device_capability(device)
    return "ampere" if major < 9 else "hopper" if major == 9 else "blackwell"


def tile_config(tile: Tile) -> triton.Config:
    """A tile in the product kernels' parameters."""
    parameters = {"TOKENS": tile.tokens, "ROWS": tile.rows, "BYTES": tile.bytes}
    return triton.Config(parameters, num_warps=tile.warps, num_stages=tile.stages)


def product_configs() -> Configs:
    """What the product kernels are tried with here."""
    if gpu.interpreting() or not torch.cuda.is_available():
        return [tile_config(INTERPRETED)]
    return [tile_config(tile) for tile in TILES[card()]]


def tokens_class(tokens: int) -> int:
    """Token counts that share a measurement: the next power of two, between 16 and 16384."""
    return min(max(FEW, 1 << (tokens - 1).bit_length()), 1 << 14)


def _fitting(configs: Configs, arguments: dict[str, Any], **_: Any) -> Configs:
    """Small tiles for few tokens, large ones for many."""
    few = arguments["tokens_class"] <= FEW
    fitting = [config for config in configs if (config.kwargs["TOKENS"] <= FEW) == few]
    return fitting or configs


def tuned_product(kernel: Any) -> Callable[..., Any]:
    """`kernel` with its configuration chosen by measuring."""
    return triton.autotune(
        configs=product_configs(),
        key=["tokens_class", "in_features", "out_features"],
        prune_configs_by={"early_config_prune": _fitting},
        cache_results=True,
    )(kernel)


def warps_for(block: int) -> int:
    """Warps of a program that handles a row of `block` values."""
    return min(16, max(1, block // 256))
