"""Safetensors files that are checked before a tensor of theirs is used.

What we write carries a checksum of the whole file in its header, so that a flipped bit is an error and not another
embedding; it is XXH3, faster than a disk, since it guards against damage and not against forgery. Tensors are mapped,
not read: a page comes into memory when it is first used.
"""

import hashlib
import json
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

DIGEST_KEY = "xxh3_128"
DIGESTS: dict[str, Callable[[], Any]] = {
    DIGEST_KEY: xxhash.xxh3_128,
    "sha256": hashlib.sha256,
}  # the latter until version 2
READABLE_BY_ALL = 0o644
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U8": torch.uint8,
    "I8": torch.int8,
}
ZIP_MAGIC, PICKLE_MAGIC = b"PK\x03\x04", b"\x80"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with `metadata` and its own digest in the header.

    Raises:
        ValueError: a floating-point tensor has values that are NaN or infinite.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has values that are NaN or infinite; nothing was written")
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    nothing = "0" * len(DIGESTS[DIGEST_KEY]().hexdigest())
    save_file(contiguous, path, metadata={"format": "pt", **metadata, DIGEST_KEY: nothing})
    digest = file_digest(map_file(path), DIGEST_KEY, nothing)
    with path.open("r+b") as file:
        file.seek(_header(path).index(nothing.encode()))
        file.write(digest.encode())
    path.chmod(READABLE_BY_ALL)  # safetensors lets only the owner read


def read_tensors(paths: Iterable[Path]) -> dict[str, Tensor]:
    """Name -> mapped tensor, of all the files together; see also `verify_digests`.

    Raises:
        ValueError: a file is missing, damaged or a pickle.
    """
    tensors: dict[str, Tensor] = {}
    for path in paths:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                if name in tensors:
                    raise ValueError(f"{path} repeats the tensor {name} of another file")
                tensors[name] = file.get_tensor(name)
    return tensors


def map_tensors(path: Path, mapped: Callable[[str, torch.dtype], bool]) -> dict[str, Tensor]:
    """Name -> tensor of one file: those that are `mapped` stay in the file until they are used, the rest is read.

    A mapped tensor may be written to; the file does not change.

    Raises:
        ValueError: the file is missing, damaged or a pickle.
    """
    tensor_names([path])  # which checks the header
    tensors = {}
    for name, (dtype, shape, stored) in tensor_bytes(path, map_file(path)).items():
        aligned = stored.storage_offset() % dtype.itemsize == 0
        kept = stored if aligned and mapped(name, dtype) else stored.clone()
        tensors[name] = kept.view(dtype).reshape(shape)
    return tensors


def tensor_names(paths: Iterable[Path]) -> set[str]:
    """Names of the tensors in all the files; ValueError as in `read_tensors`, without looking at the data."""
    names: set[str] = set()
    for path in paths:
        with _opened(path) as file:
            names |= set(file.keys())
    return names


def refuse_pickle(path: Path) -> None:
    """ValueError when `path` is absent or a pickle, whatever it is called: unpickling runs code from the file."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    with path.open("rb") as file:
        start = file.read(9)
    looks_pickled = (
        start.startswith(PICKLE_MAGIC) and start[8:] != b"{"
    )  # a safetensors header has its brace there
    if path.suffix in PICKLE_SUFFIXES or start.startswith(ZIP_MAGIC) or looks_pickled:
        raise ValueError(
            f"{path} is a pickle, which can run any code when it is opened; "
            "ask for the model in safetensors, or convert it where you trust it"
        )


def refuse_pickled_folder(folder: Path) -> None:
    """ValueError when `folder` has weights in pickles only."""
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        refuse_pickle(pickles[0])


def verify_digests(paths: Iterable[Path], required: bool = False) -> None:
    """Compare every file's digest with the one in its header.

    Args:
        required: a file without a digest is an error; otherwise it is believed.

    Raises:
        ValueError: they differ, or there is none although it is `required`.
    """
    for path in paths:
        verify_digest(path, map_file(path), required)


def verify_digest(path: Path, bytes_N: Tensor, required: bool = False) -> None:
    """`verify_digests` of one file that is mapped already."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
    kind = next((kind for kind in DIGESTS if kind in metadata), None)
    if kind is None:
        if required:
            raise ValueError(
                f"{path} has no checksum in its header: bitembed did not write it, or it is damaged"
            )
    elif not re.fullmatch("([0-9a-f]{32}){1,2}", metadata[kind]) or (
        file_digest(bytes_N, kind, metadata[kind]) != metadata[kind]
    ):
        raise ValueError(
            f"{path} is damaged: its content does not match the checksum in its header; fetch it again"
        )


def file_digest(bytes_N: Tensor, kind: str, written: str) -> str:
    """Checksum of a safetensors file in whose header the checksum itself, now `written`, is replaced by zeros.

    All that follows the header is one call, which leaves Python to other threads.
    """
    base = 8 + int.from_bytes(bytes(bytes_N[:8].tolist()), "little")
    header = bytes_N[:base].numpy().tobytes()
    digest = DIGESTS[kind]()
    digest.update(header.replace(written.encode(), b"0" * len(written), 1))
    digest.update(bytes_N[base:].numpy())
    return digest.hexdigest()


def map_file(path: Path) -> Tensor:
    """The bytes of a file, uint8 (n,), read when they are looked at; with the tensor they leave memory again.

    Whoever writes to the tensor has a copy of that page, and the file stays as it is.

    Raises:
        ValueError: there is no such file, or it is empty or a pickle.
    """
    refuse_pickle(path)
    if not os.path.getsize(path):
        raise ValueError(f"{path} is damaged or cut short: it is empty")
    with path.open("rb") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)


def tensor_bytes(path: Path, bytes_N: Tensor) -> dict[str, tuple[torch.dtype, list[int], Tensor]]:
    """Name -> type, shape and bytes of the tensors in a mapped file whose header was validated before.

    Raises:
        ValueError: a tensor is empty or of a type that no model of ours has.
    """
    base, entries = _entries(path)
    found = {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None or begin == end:
            raise ValueError(f"{path}: the tensor {name} is empty or of type {entry['dtype']}")
        found[name] = (dtype, entry["shape"], bytes_N[base + begin : base + end])
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """safetensors' view of a file; ValueError where it is missing, damaged or a pickle."""
    refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error


def _entries(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the data begins, and what the header says of every tensor; the file was validated before."""
    header = _header(path)
    entries = json.loads(header[8:])
    entries.pop("__metadata__", None)
    return len(header), entries


def _header(path: Path) -> bytes:
    size = os.path.getsize(path)
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if length > size - 8:
            raise ValueError(f"{path} is damaged or cut short: its header is longer than the file")
        return prefix + file.read(length)
