"""What an engine is given for each vector of an index, and what its distances mean.

An engine that quantizes by itself is given values (`float32`, `float16`), and inner products with unit queries are the
index's own scores. An engine with a type for our codes is given the codes: `bits` in the order of `numpy.packbits`, compared
by Hamming distance, or `int8`, the levels 0 .. 255 moved to -128 .. 127 and compared by cosine, in which the scale of each
vector does not count. There queries are rounded to the same codes; the index leaves them in floating point, so that packed
codes find somewhat less in an engine than here.
"""

from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from bitembed_core import PackedEmbeddings, StorageFormat
from bitembed_core.storage.packed import unit_rows

VectorType = Literal["float32", "float16", "int8", "bits"]
VECTORS = ("float16", "float32", "packed")
CODES: dict[str, VectorType] = {"int8": "int8", "binary": "bits", "binary-fitted": "bits"}
ROUNDED: dict[VectorType, str] = {"int8": "int8", "bits": "binary"}  # formats of queries
SIGN = np.uint8(0x80)


def vector_type(
    form: StorageFormat, vectors: str, engine: str, supported: tuple[VectorType, ...]
) -> VectorType:
    """The type in which an engine is given vectors of a format.

    Args:
        vectors: one of VECTORS.

    Raises:
        ValueError: `vectors` is none of VECTORS, or the engine has no type for the format's codes.
    """
    if vectors not in VECTORS:
        raise ValueError(f"vectors are exported as one of {', '.join(VECTORS)}, not {vectors!r}")
    if vectors != "packed":
        return cast(VectorType, vectors)
    type_ = CODES.get(form.precision)
    if type_ is None or type_ not in supported:
        fitting = ", ".join(name for name, type_ in CODES.items() if type_ in supported)
        raise ValueError(
            f"{engine} has no type for {form.precision} codes, only for those of {fitting}: encode the texts again in one "
            "of these formats, or export the vectors as float16"
        )
    return type_


def stored(vectors: PackedEmbeddings, type_: VectorType) -> NDArray[Any]:
    """What an engine keeps: float32, float16 or int8 (n, kept), or of bits uint8 (n, ceil(kept / 8))."""
    if type_ == "bits":
        return vectors.codes
    if type_ == "int8":
        return (vectors.codes ^ SIGN).view(np.int8)
    values_NK = vectors.decode()[:, : vectors.format.kept]
    scheme = vectors.format.scheme
    if scheme is None or not scheme.fitted:  # fitted ones have a length that makes inner products right
        values_NK = unit_rows(values_NK).astype(np.float32)
    return values_NK.astype(np.dtype(type_))


def asked(queries_QD: NDArray[np.floating], form: StorageFormat, type_: VectorType) -> NDArray[Any]:
    """Queries as `stored` has the vectors that they are compared with; floating point ones are unit vectors in float32."""
    queries_QK = unit_rows(queries_QD[:, : form.kept]).astype(np.float32)
    if type_ in ROUNDED:
        return stored(StorageFormat(ROUNDED[type_], form.kept).encode(queries_QK), type_)
    return queries_QK


def hamming_score(distance: float, form: StorageFormat) -> float:
    """The cosine similarity of two vectors of -1 and 1 that differ in so many places."""
    return 1 - 2 * distance / form.kept
