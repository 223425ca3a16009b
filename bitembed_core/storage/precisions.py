"""The names of storage formats."""

import re
from typing import Any

import numpy as np

from bitembed_core.ops.trellis.tables import GRADED, TRELLISES
from bitembed_core.storage.schemes import FITTED, Scheme

FLOATS: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
SCHEMES = {
    "int8": Scheme(255),
    "int4": Scheme(15),
    "int2": Scheme(3),
    "binary": Scheme(1),
    **{name: Scheme(top, fitted=True) for name, top in FITTED.items()},
    **{name: Scheme(255, fitted=True, trellis=code) for name, code in (TRELLISES | GRADED).items()},
}
PRECISIONS = (*FLOATS, *SCHEMES)
SHORTENED = re.compile(r"(?P<precision>.+)-(?P<kept>[1-9]\d*)d")


def split_name(name: str) -> tuple[str, int | None]:
    """The precision in a format's name, and how many components it keeps; None for all."""
    shortened = SHORTENED.fullmatch(name)
    return (name, None) if shortened is None else (shortened["precision"], int(shortened["kept"]))


def is_precision(name: str) -> bool:
    """Whether `name` is that of a storage format, shortened or not."""
    return split_name(name)[0] in PRECISIONS


def by_width(name: str) -> tuple[int, float]:
    """A key that sorts names of formats like PRECISIONS, and those of one precision from long to short."""
    precision, kept = split_name(name)
    return PRECISIONS.index(precision), -float("inf") if kept is None else -kept
