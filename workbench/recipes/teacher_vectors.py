"""A teacher's vectors on disk, so that a text is embedded once: over epochs, runs and ablations.

<folder>/<teacher>/           named by the teacher's weights, pooling, rotation and arithmetic
    about.json                the same in words
    <anything>.safetensors    keys (N,) int64: hashes of token ids; vectors (N, d) float16

Prompt, truncation and tokenizer show in the token ids, so the settings of a run need not agree with those of the run that
wrote. Files are never changed, and appear whole, so several processes may read and write: what two of them embed at
once is there twice, and a kill costs the vectors that were not written yet. With n texts, two share a key with a
probability of n^2 / 2^65: 3e-6 for ten million.

float16 is exact enough for unit vectors: of 600 passages, with MiniLM, it changes similarities by 1.6e-5 (root mean
square), and computing in bfloat16 by 5.1e-4. A vector is rounded before its first use, so training does not depend on what
was there before.
"""

import hashlib
import logging
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitembed_core import BitEmbedder
from bitembed_core.files import atomic_path, write_json
from workbench.fingerprint import weights_fingerprint
from workbench.recipes.forward import Tokens

logger = logging.getLogger("bitembed")

VECTORS_PER_FILE = 2**16  # so many are held in memory before they are written


def token_keys(tokens: Tokens) -> NDArray[np.int64]:
    """The keys (N,) of tokens (N, T), padded on the right."""
    ids_NT = tokens["input_ids"].cpu().numpy().astype(np.int32)
    lengths_N = tokens["attention_mask"].sum(dim=1).tolist()
    hashes = [
        xxhash.xxh3_64_intdigest(ids[:length].tobytes())
        for ids, length in zip(ids_NT, lengths_N, strict=True)
    ]
    return np.array(hashes, dtype=np.uint64).view(np.int64)


class TeacherVectors:
    """The vectors of `teacher` that are kept in `folder`, as it computes them in `dtype`."""

    def __init__(self, folder: Path, teacher: BitEmbedder, dtype: torch.dtype) -> None:
        self._about = {
            "teacher": teacher.provenance.base_model,
            "weights": weights_fingerprint(teacher),
            "pooling": teacher.pooling,
            "arithmetic": str(dtype),
            "dimension": teacher.dimension,
        }
        content = "\n".join(str(self._about[name]) for name in ("weights", "pooling", "arithmetic"))
        self.folder = folder / hashlib.sha256(content.encode()).hexdigest()[:32]
        self.dimension = teacher.dimension
        self._fresh: dict[int, NDArray[np.float16]] = {}
        self._files: list[Path] = []
        self._vectors: list[NDArray[np.float16]] = []  # of each file, mapped from disk
        self._keys = np.empty(0, dtype=np.int64)  # of all files, ascending
        self._places = np.empty((0, 2), dtype=np.int32)  # file and row of each
        self._look_for_files()

    def __len__(self) -> int:
        return len(self._keys) + len(self._fresh)

    def missing(self, keys_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places in `keys_N` of those that are not here, each once."""
        unique, places = np.unique(keys_N, return_index=True)
        absent = ~self._find(unique)[1] & [key not in self._fresh for key in unique.tolist()]
        return np.sort(places[absent])

    def add(self, keys_N: NDArray[np.int64], vectors_ND: Tensor) -> None:
        """Keep vectors; those that are here already stay as they are."""
        new = self.missing(keys_N)
        rounded_ND = vectors_ND.detach().cpu()[new].to(torch.float16).numpy()
        self._fresh.update(zip(keys_N[new].tolist(), rounded_ND, strict=True))
        if len(self._fresh) >= VECTORS_PER_FILE:
            self.write()

    def get(self, keys_N: NDArray[np.int64]) -> Tensor:
        """Vectors (N, d), float32, of keys none of which is missing."""
        vectors_ND = np.empty((len(keys_N), self.dimension), dtype=np.float16)
        where_N, on_disk_N = self._find(keys_N)
        places_M2 = self._places[where_N[on_disk_N]]
        rows_M = np.flatnonzero(on_disk_N)
        for file in np.unique(places_M2[:, 0]).tolist():
            here = places_M2[:, 0] == file
            vectors_ND[rows_M[here]] = self._vectors[file][places_M2[here, 1]]
        for row in np.flatnonzero(~on_disk_N).tolist():
            vectors_ND[row] = self._fresh[int(keys_N[row])]
        return torch.from_numpy(vectors_ND).float()

    def write(self) -> None:
        """Put everything on disk, and see what other processes have put there."""
        if self._fresh:
            if not (self.folder / "about.json").exists():
                write_json(self.folder / "about.json", self._about)
            keys = torch.tensor(list(self._fresh), dtype=torch.int64)
            vectors = torch.from_numpy(np.stack(list(self._fresh.values())))
            with atomic_path(self.folder / f"{uuid4().hex}.safetensors") as fresh:
                save_file({"keys": keys, "vectors": vectors}, fresh)
            self._fresh = {}
        self._look_for_files()

    def _find(self, keys_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where each key is among those on disk, and whether it is there."""
        if not len(self._keys):
            return np.zeros(len(keys_N), dtype=np.int64), np.zeros(len(keys_N), dtype=bool)
        where_N = np.searchsorted(self._keys, keys_N).clip(max=len(self._keys) - 1)
        return where_N, self._keys[where_N] == keys_N

    def _look_for_files(self) -> None:
        all_keys, all_places = [self._keys], [self._places]
        for path in sorted(set(self.folder.glob("*.safetensors")) - set(self._files)):
            try:
                with safe_open(path, "pt") as file:
                    keys, vectors = (file.get_tensor(name).numpy() for name in ("keys", "vectors"))
            except SafetensorError as error:
                logger.warning("%s is damaged and left out: %s", path, error)
                keys, vectors = np.empty(0, np.int64), np.empty((0, self.dimension), np.float16)
            all_keys.append(keys)
            all_places.append(np.stack([np.full(len(keys), len(self._files)), np.arange(len(keys))], axis=1))
            self._files.append(path)
            self._vectors.append(vectors)
        keys, first = np.unique(np.concatenate(all_keys), return_index=True)
        self._keys, self._places = keys, np.concatenate(all_places)[first].astype(np.int32)
