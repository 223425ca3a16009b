"""Levels of the trellis codes, fitted to normally distributed values once, by `fitted`: rotated embeddings look
like those.
"""

from typing import NamedTuple, Self

import torch

from bitembed_core.ops.trellis import encode, levels
from bitembed_core.ops.trellis.graded import Graded
from bitembed_core.ops.trellis.reference import TOP, WINDOWS, Trellis

SAMPLES, DIM, ITERATIONS = 2000, 240, 25


class TrellisCode(NamedTuple):
    """A trellis, and the value of its highest level, in root mean squares of the vector."""

    trellis: Trellis
    reach: float

    @classmethod
    def of(cls, step_bits: int, step_values: int, reach: float, levels: str) -> Self:
        """`levels` in hexadecimal digits, window by window."""
        flat = torch.tensor(list(bytes.fromhex(levels)), dtype=torch.uint8)
        return cls(Trellis(step_bits, step_values, flat.view(WINDOWS, step_values)), reach)


TRELLISES = {
    "trellis-2bit": TrellisCode.of(
        2,
        1,
        2.875359,
        "d77ea25098bf5b8037a178714c7d9cc78a554b61b981b84827587a668916ad73784569bc5c658ca57a5d8aab96c84779cc71"
        "17a6da71ac8d6296375693ad7460436998ff77a7d140a6926bc081598776bd9de26d8cdca225512fa87c898d613a8eb55586"
        "63a77c3443461a8fba9d8d61a973764dcb873d6b9dc991766a3d51916c9684c6ab8e76b65add4370609f5639ad2c7a945b3f"
        "686875008c45a0c58254b8878ba73476576f81895e487a6fb69d863b5f6fada2820e7f56cca4be947cb190b2d07545648d5a"
        "6695b48629735da34b6da58978a8778fb2805b9165ea9aba97c4ad7f9188af615568d79064826299989dbe44734bfb698e6c"
        "a0cb4871268b",
    ),
    "trellis-1.5bit": TrellisCode.of(
        3,
        2,
        2.580537,
        "cc89ac4d75c3654c349c88816186a0ac974b5858aba4db59136e69797f1c9f6f8d3e4dcb5d69aba1986286907ec94478e94f"
        "31bfb476a5a3548539536bac8269517073ff8dadbd3ac7965aae806b977cc1b6da7ba4e9ad2c4535a4817792765894a87786"
        "50af6b4425350a9fbd8b9963886e8450f38a306986e2a5846c305d9b7c7a9ac8a97c79aa43d7646b4f985b34d21b6f9f7757"
        "4e606c0ba55fa8b99a44c3777fc5277f51808d8674596d96b9b29f3f5257a18c9702815fd280d8bd7ea08dc1c69e566f8a54"
        "728fae6803784aba5c6c8b6b8c967499c27352a262f6a9c484c8a3879481ae47346ce892656f65a394a7b8596b61f4659083"
        "a6bb335e309992921d92593c768287d6104ba667527e43c67492536c8d5982bb84953995b68b5048e35a7788a07954ed7cc6"
        "3085829ab66a99aab5c658aa9216769d8f767b4c1fd7707da23cbe963e559daf66b88b5abc742d6b7d65989966b240966e75"
        "4b33697f487d934c72b77c25b9a6b56734be703855a18d5fb4ef79705a70b936939d76cc7195b18d9d6d736e60332290bd3d"
        "634f883e343acbab4b87a61d61c67a9e9b78a743cea81eb057514c85939e776ec993737ec54596805aa880368bd34b5fa86b"
        "4bc36388504090a634836965c4e3fda99f7352a57b3ba5ae3f0cca644b78868dc3c5224e6d745da376398f60c57c5e8f987b"
        "6c1f7556c853847398a078d7",
    ),
    "trellis-1bit": TrellisCode.of(
        1,
        1,
        2.219778,
        "a753ac5b72ba5c7e34928678397aa1c98e4f5a61c98fb12f398a7371852cbd6d794959a25d729db48a448fb3a6dd5167dc74"
        "29b2cf61aa8f439a236471968f58276f89e67eabbe4bce8e6dca813b7d78d3a5e05c7ee096414b02a3829d9858398aa9599c"
        "53aa77425d440098c287ab66c3727d32cc71418592e28e796e2f589f51a46ad4ac7a6eb763ec498069a5571dc8268aa4533e"
        "61858c299a4697d2864bb2957fc5328c527d81985843665dbc9f711b8f55afaa791b8847b3aad59060b877c4d96e2958957e"
        "829fb45b248564bb3f70a09581954b91c982489460f59ed56acead5fac75ae635c77e29b678d58987eb5a5466130ee749058"
        "83b11c7b218a",
    ),
}


class GradedCode(NamedTuple):
    """Two codes in one, and the codes of its parts."""

    trellis: Graded
    first: TrellisCode
    second: TrellisCode

    @classmethod
    def of(cls, first: TrellisCode, second: TrellisCode) -> Self:
        return cls(Graded(first.trellis, second.trellis), first, second)


GRADED = {"graded-1bit": GradedCode.of(TRELLISES["trellis-2bit"], TRELLISES["trellis-1bit"])}


def fitted(step_bits: int, step_values: int, seed: int = 0) -> TrellisCode:
    """A trellis whose levels are the means of what they stand for (Lloyd's algorithm, with the encoder of the trellis in
    place of the nearest level), begun at random."""
    generator = torch.Generator().manual_seed(seed)
    samples_ND = torch.randn(SAMPLES, DIM, generator=generator)
    values_WV = torch.randn(WINDOWS, step_values, generator=generator)
    for _ in range(ITERATIONS):
        trellis, reach = _on_grid(values_WV, step_bits)
        codes = encode((samples_ND * TOP / reach).round().short(), trellis)
        by_window = Trellis(step_bits, 1, torch.arange(WINDOWS, dtype=torch.uint8)[:, None])
        windows_M = levels(codes, DIM // step_values, by_window).flatten().long()
        sums_WV = torch.zeros_like(values_WV).index_add_(0, windows_M, samples_ND.reshape(-1, step_values))
        counts_W1 = torch.bincount(windows_M, minlength=WINDOWS)[:, None]
        values_WV = torch.where(counts_W1 > 0, sums_WV / counts_W1.clamp(min=1), values_WV)
    return _on_grid(values_WV, step_bits)


def _on_grid(values_WV: torch.Tensor, step_bits: int) -> TrellisCode:
    reach = float(values_WV.abs().max())
    grid_WV = ((values_WV / reach + 1) / 2 * TOP).round().to(torch.uint8)
    return TrellisCode(Trellis(step_bits, values_WV.shape[1], grid_WV), reach)
