"""The GGUF container, version 3, little-endian: typed metadata, a table of tensors, aligned tensor data.

The reader believes nothing: every length is compared with what is left of the file before anything is allocated, and tensor
data is mapped, not read. What the writer writes carries the sha256 of the whole file under `bitembed.sha256`, which other
readers ignore. (The `gguf` package does not know I2_S and refuses files that have it.)
"""

import hashlib
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAGIC, VERSION = b"GGUF", 3
ALIGNMENT = 32
F32, F16, BF16, TQ1_0, TQ2_0, I2_S = 0, 1, 30, 34, 35, 36
BLOCKS = {F32: (1, 4), F16: (1, 2), BF16: (1, 2), TQ1_0: (256, 54), TQ2_0: (256, 66)}  # values, bytes
I2_S_TAIL = 32
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MOST_DIMENSIONS = 4
DIGEST_KEY, NO_DIGEST = "bitembed.sha256", "0" * 64
READ_AT_ONCE = 1 << 22

Metadata = Mapping[str, Any]


class TensorToWrite(NamedTuple):
    """A tensor of a new file: its shape with the fastest axis last, its ggml type, its bytes."""

    name: str
    shape: tuple[int, ...]
    type: int
    data: NDArray[np.uint8]


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a file: its shape with the fastest axis last, its ggml type, where its bytes begin."""

    shape: tuple[int, ...]
    type: int
    begin: int


class GGUFFile:
    """An opened file: `metadata` by key, `tensors` by name, their bytes on request.

    Raises:
        ValueError: the file is no GGUF file, of another version, cut short, contradictory, or not what its checksum says.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            if path.stat().st_size < 24:
                raise ValueError(f"{path} is too short to be a GGUF file")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        cursor = _Cursor(self._bytes, path)
        if cursor.take(4) != MAGIC:
            raise ValueError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}")
        version = cursor.number("I")
        if version != VERSION:
            raise ValueError(f"{path} is GGUF version {version}; this release reads version {VERSION}")
        tensor_count, key_count = cursor.number("Q"), cursor.number("Q")
        self.metadata: dict[str, Any] = {}
        for _ in cursor.repeat(key_count, at_least=13):
            key = cursor.string()
            if key in self.metadata:
                raise ValueError(f"{path} is damaged: it has the key {key!r} twice")
            self.metadata[key] = cursor.value()
        self.tensors = self._tensor_table(cursor, tensor_count)
        self._check_digest()

    def data(self, name: str) -> NDArray[np.uint8]:
        """The bytes of tensor `name`, mapped.

        Raises:
            ValueError: there is no such tensor, or it is of a type that this reader has not.
        """
        if name not in self.tensors:
            raise ValueError(f"{self.path} lacks the tensor {name}")
        entry = self.tensors[name]
        size = stored_size(entry.type, entry.shape)
        if size is None:
            raise ValueError(
                f"{self.path}: the tensor {name} is of ggml type {entry.type}, which is not read here"
            )
        return np.frombuffer(self._bytes, dtype=np.uint8, count=size, offset=entry.begin)

    def _tensor_table(self, cursor: "_Cursor", count: int) -> dict[str, TensorEntry]:
        entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in cursor.repeat(count, at_least=24):
            name, dimensions = cursor.string(), cursor.number("I")
            if not 1 <= dimensions <= MOST_DIMENSIONS or name in entries:
                raise ValueError(
                    f"{self.path} is damaged: tensor {name!r} has {dimensions} axes or comes twice"
                )
            shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
            entries[name] = (shape, cursor.number("I"), cursor.number("Q"))
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if (
            not isinstance(alignment, int)
            or alignment < 1
            or alignment & (alignment - 1)
            or alignment > 1 << 20
        ):
            raise ValueError(f"{self.path} is damaged: it claims an alignment of {alignment}")
        start = -(-cursor.position // alignment) * alignment
        end = start
        tensors: dict[str, TensorEntry] = {}
        for name, (shape, kind, offset) in sorted(entries.items(), key=lambda item: item[1][2]):
            size = stored_size(kind, shape)
            begin = start + offset
            if min(shape) < 1 or begin < end or begin % alignment or begin + (size or 0) > len(self._bytes):
                raise ValueError(
                    f"{self.path} is damaged or cut short: the data of tensor {name} {shape} does not fit into the file"
                )
            end = begin + (size or 0)
            tensors[name] = TensorEntry(shape, kind, begin)
        return tensors

    def _check_digest(self) -> None:
        written = self.metadata.get(DIGEST_KEY)
        if written is None:
            return
        key = struct.pack("<Q", len(DIGEST_KEY)) + DIGEST_KEY.encode()
        place = self._bytes.find(key) + len(key) + 12
        if len(str(written)) != len(NO_DIGEST) or file_digest(self.path, place) != written:
            raise ValueError(
                f"{self.path} is damaged: its content does not match its checksum; fetch it again"
            )


def write_gguf(path: Path, metadata: Metadata, tensors: Iterable[TensorToWrite]) -> None:
    """Write a file; the types of the metadata follow from Python's (int is uint32, in a list int32; float is float32)."""
    tensors = list(tensors)
    head = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata) + 1))
    for key, value in metadata.items():
        head += _string(key) + _typed(value)
    head += _string(DIGEST_KEY) + struct.pack("<IQ", STRING, len(NO_DIGEST))
    place = len(head)
    head += NO_DIGEST.encode()
    offset = 0
    for tensor in tensors:
        if tensor.data.nbytes != stored_size(tensor.type, tensor.shape):
            raise ValueError(f"{tensor.name} has {tensor.data.nbytes} bytes, which is not its size")
        dimensions = tensor.shape[::-1]
        head += _string(tensor.name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        head += struct.pack("<IQ", tensor.type, offset)
        offset += tensor.data.nbytes + -tensor.data.nbytes % ALIGNMENT
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT))
        for tensor in tensors:
            file.write(tensor.data.data)
            file.write(bytes(-tensor.data.nbytes % ALIGNMENT))
    digest = file_digest(path, place)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(digest.encode())


def stored_size(kind: int, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor of ggml type `kind`; None for a type this module does not know."""
    if kind == I2_S:
        return prod(shape) // 4 + I2_S_TAIL
    if kind not in BLOCKS:
        return None
    values, size = BLOCKS[kind]
    return prod(shape[:-1]) * (-(-shape[-1] // values)) * size


def file_digest(path: Path, place: int) -> str:
    """sha256 of a file whose own digest, at byte `place`, counts as zeros."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(place))
        file.read(len(NO_DIGEST))
        digest.update(NO_DIGEST.encode())
        while block := file.read(READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


class _Cursor:
    """Reads forward through the head of a file, and never beyond its end."""

    def __init__(self, content: mmap.mmap, path: Path) -> None:
        self.content, self.path, self.position = content, path, 0

    def take(self, size: int) -> bytes:
        if size > len(self.content) - self.position:
            raise ValueError(f"{self.path} is damaged or cut short: it ends in the middle of its header")
        taken = self.content[self.position : self.position + size]
        self.position += size
        return taken

    def repeat(self, count: int, at_least: int) -> Iterator[int]:
        """`range(count)`, if so many items of `at_least` bytes can be there."""
        if count * at_least > len(self.content) - self.position:
            raise ValueError(f"{self.path} is damaged: it claims {count} entries, more than fit into it")
        return iter(range(count))

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def string(self) -> str:
        try:
            return self.take(self.number("Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path} is damaged: a text in its header is not UTF-8") from error

    def value(self) -> Any:
        kind = self.number("I")
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.number(self._code(kind))
        item, count = self.number("I"), self.number("Q")
        if item == STRING:
            return [self.string() for _ in self.repeat(count, at_least=8)]
        code = self._code(item)
        raw = self.take(count * struct.calcsize(f"<{code}"))
        return np.frombuffer(raw, dtype=f"<{'u1' if code == '?' else np.dtype(code).str[1:]}").tolist()

    def _code(self, kind: int) -> str:
        if kind not in SCALARS:
            raise ValueError(f"{self.path} is damaged: there is no metadata type {kind}")
        return SCALARS[kind]


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return struct.pack("<Q", len(encoded)) + encoded


def _typed(value: Any) -> bytes:
    """A metadata value behind its type, which follows from Python's."""
    if not isinstance(value, list):
        kind, encoded = _encoded(value)
        return struct.pack("<I", kind) + encoded
    kind = {4: 5}.get(_encoded(value[0])[0], _encoded(value[0])[0])  # whole numbers in lists are signed
    if kind in (5, 6):
        body = np.asarray(value, dtype={5: "<i4", 6: "<f4"}[kind]).tobytes()
    else:
        body = b"".join(_encoded(item)[1] for item in value)
    return struct.pack("<IIQ", ARRAY, kind, len(value)) + body


def _encoded(value: Any) -> tuple[int, bytes]:
    if isinstance(value, str):
        return STRING, _string(value)
    for type_, kind, code in ((bool, 7, "?"), (int, 4, "I"), (float, 6, "f")):
        if isinstance(value, type_):
            return kind, struct.pack(f"<{code}", value)
    raise TypeError(f"GGUF metadata cannot hold {type(value).__name__}")
