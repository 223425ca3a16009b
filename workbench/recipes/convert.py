"""Conversion without training: a pretrained embedder made ternary, and how much of it is left.

The model is measured at every step of the way: in floating point with norms of gain 1, in floating point with
calibrated norms, and ternary. What each step costs is what training has to win back.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bitembed_core import BitEmbedder
from bitembed_core.conversion import ConversionReport, bit_linears, block_linears
from bitembed_core.ops.ternary_linear import TernaryLinearKernel, unquantized_linear
from bitembed_core.tokenization import length_batches, token_ids
from workbench.activations import InputRecorder, InputSizes
from workbench.catalog.examples import unlabelled_texts
from workbench.catalog.models import load_embedder
from workbench.config import option
from workbench.memory import give_back
from workbench.runs import Run

logger = logging.getLogger("bitembed")

Vectors = NDArray[np.float32]
TEXTS_AT_ONCE = 32


@dataclass(frozen=True)
class ConvertConfig:
    """Make a pretrained embedder ternary, without training it, and measure what is left of its embeddings."""

    backbone: str = option("minilm", "model to convert: a catalog name, a folder or a hub id")
    out: str = option("runs/convert", "folder of the run", changes_result=False)
    sites: Literal["all", "output"] = option(
        "all", "norms before every ternary linear (released checkpoints), or two per block (paper, Eq 3)"
    )
    calibration_texts: str = option(
        "demo", "sample text: a mix, source names joined by commas, a JSONL or Parquet file, hub:..."
    )
    calibration_size: int = option(256, "texts that set the gains of the norms")
    held_out_size: int = option(128, "other texts, on which the embeddings are compared")
    seed: int = option(0, "decides which texts")
    overwrite: bool = option(False, "replace the run that is in the run folder", changes_result=False)

    def __post_init__(self) -> None:
        if self.calibration_size < 1:
            raise ValueError(f"calibration_size must be at least 1, not {self.calibration_size}")
        if self.held_out_size < 2:
            raise ValueError(f"held_out_size must be at least 2, not {self.held_out_size}")


@dataclass(frozen=True)
class Agreement:
    """How a changed model's embeddings of n texts relate to the original's."""

    cosines: NDArray[np.float32]
    """(n,) cosine of each text's two embeddings."""
    similarities: tuple[NDArray[np.float32], NDArray[np.float32]]
    """(n (n - 1) / 2,) cosines of all pairs of texts, by the original and by the changed model."""
    rank_correlation: float
    """Spearman correlation of these two: does it still see what is alike?"""


@dataclass(frozen=True)
class Converted:
    """A converted embedder, what was done to it, and its agreement with the original, step by step.

    Args:
        inputs: what the linears are given in the original ("before") and in the ternary model ("after"), by name.
    """

    embedder: BitEmbedder
    report: ConversionReport
    agreement: dict[str, Agreement]
    inputs: dict[str, dict[str, InputSizes]]
    folder: Path


def convert(config: ConvertConfig) -> Converted:
    """Convert `config.backbone`, compare it with itself, and save it latent, ready for training.

    Raises:
        FileExistsError: there is a run in `config.out`, and it is not to be overwritten.
        FileNotFoundError: no such model.
        ValueError: the model is ternary already, or there are too few texts.
    """
    run = Run(Path(config.out))
    run.check_free(config.overwrite)
    wanted = config.calibration_size + config.held_out_size
    texts = unlabelled_texts(config.calibration_texts, wanted, config.seed)
    if len(texts) < wanted:
        raise ValueError(
            f"{config.calibration_texts!r} has {len(texts)} different texts; "
            f"calibration_size and held_out_size ask for {wanted}"
        )
    calibration, held_out = texts[: config.calibration_size], texts[config.calibration_size :]
    give_back()  # a model that was converted before in this process
    embedder = load_embedder(config.backbone, trainable=True)
    logger.info("embedding %d texts with %s", len(held_out), config.backbone)
    linears = list(block_linears(embedder.model))
    with InputRecorder(embedder.model, linears) as before:
        original = embed(embedder, held_out)
    logger.info("converting, with gains calibrated on %d other texts", len(calibration))
    report = embedder.convert(config.sites, calibration_texts=calibration)
    vectors: dict[str, Vectors] = {}
    with unrounded(embedder.model):
        with unit_gains(embedder.model):
            vectors["norms with gain 1"] = embed(embedder, held_out)
        vectors["calibrated norms"] = embed(embedder, held_out)
    with InputRecorder(embedder.model, linears) as after:
        vectors["ternary"] = embed(embedder, held_out)
    agreement = {name: compare(original, changed) for name, changed in vectors.items()}
    for name, one in agreement.items():
        logger.info(
            "%s: mean cosine %.3f, rank correlation %.3f", name, one.cosines.mean(), one.rank_correlation
        )
    run = Run.create(config.out, config, config.overwrite)
    embedder.save_pretrained(run.latent, layout="latent")
    inputs = {"before": before.sizes(), "after": after.sizes()}
    return Converted(embedder, report, agreement, inputs, run.latent)


@torch.inference_mode()
def embed(embedder: BitEmbedder, texts: Sequence[str]) -> Vectors:
    """(n, d) through the model's own modules, where `unrounded` and hooks take effect; a native encoder passes them by."""
    ids, _ = token_ids(embedder.tokenizer, texts, embedder.max_length)
    vectors = np.empty((len(texts), embedder.dimension), dtype=np.float32)
    for rows in length_batches([len(tokens) for tokens in ids], TEXTS_AT_ONCE):
        vectors[rows] = embedder.embed(embedder.tokenize([texts[row] for row in rows])).cpu()
    return vectors


def compare(original: Vectors, changed: Vectors) -> Agreement:
    """Agreement of two (n, d) sets of unit vectors of the same n texts."""
    pairs = np.triu_indices(len(original), k=1)
    before, after = ((vectors @ vectors.T)[pairs] for vectors in (original, changed))
    correlation = np.atleast_2d(np.corrcoef([_ranks(before), _ranks(after)]))[0, 1]
    return Agreement((original * changed).sum(axis=1), (before, after), float(correlation))


@contextmanager
def unrounded(model: nn.Module) -> Iterator[None]:
    """Inside, the BitLinears of `model` compute with their latent weights and activations as they are."""
    with ExitStack() as after:
        for _, module in bit_linears(model):
            after.callback(setattr, module, "kernel", module.kernel)
            module.kernel = TernaryLinearKernel(
                "unrounded", latent=unquantized_linear, frozen=module.kernel.frozen
            )
        yield


@contextmanager
def unit_gains(model: nn.Module) -> Iterator[None]:
    """Inside, the norms of the BitLinears of `model` have gain 1."""
    gains = [module.norm.weight for _, module in bit_linears(model) if module.norm is not None]
    kept = [gain.detach().clone() for gain in gains]
    with torch.no_grad():
        for gain in gains:
            gain.fill_(1)
        try:
            yield
        finally:
            for gain, old in zip(gains, kept, strict=True):
                gain.copy_(old)


def _ranks(values: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.argsort(np.argsort(values))
