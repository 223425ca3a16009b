"""Tiles of integer products: every multiprocessor gets one if there are enough, and a tile fits the card."""

import pytest

from bitembed_core.ops.tuning import TILES, Card, choose_tile

H100 = Card(132, 227 * 1024)


def tiles_of(tokens: int, rows: int, card: Card) -> int:
    tile = choose_tile(tokens, rows, card)
    return -(-tokens // tile.tokens) * -(-rows // tile.rows)


@pytest.mark.parametrize("tokens", [1, 16, 100, 1000, 4096, 100_000])
@pytest.mark.parametrize("rows", [1, 256, 1024, 3072])
def test_no_multiprocessor_waits_where_smaller_tiles_would_serve_it(tokens: int, rows: int) -> None:
    if choose_tile(tokens, rows, H100) != TILES[-1]:
        assert tiles_of(tokens, rows, H100) >= 132


def test_many_tokens_get_the_largest_tile_and_few_the_smallest() -> None:
    assert choose_tile(16384, 3072, H100) == TILES[0]
    assert choose_tile(1, 1024, H100) == TILES[-1]


@pytest.mark.parametrize("shared", [48 * 1024, 99 * 1024, 163 * 1024])
@pytest.mark.parametrize("tokens", [1, 16384])
def test_stages_fit_the_card(shared: int, tokens: int) -> None:
    tile = choose_tile(tokens, 3072, Card(132, shared))
    assert tile.stages >= 1
    assert tile.stages * tile.bytes * (tile.rows + 4 * tile.tokens) <= shared
