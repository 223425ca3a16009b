"""The native library of CPU operations (`kernels/cpu`): found, loaded, described. No library, no native kernel.

The library is built when the package is installed on a machine with a compiler. It holds every instruction set of the
architecture and takes the best that the processor has; the environment variable BITEMBED_ISA asks for another one, for
tests.
"""

import ctypes
import logging
import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

LIBRARY = Path("bitembed_core/ops/lib/libbitembed_cpu.so")
ISA_VARIABLE = "BITEMBED_ISA"


class Linear(ctypes.Structure):
    """`bitembed_linear` of `bitembed_cpu.h`; so the other structures."""

    tensors: tuple[Any, ...]  # what the addresses belong to, where it must live as long

    _fields_ = (
        ("panels", c_void_p),
        ("gain", c_void_p),
        ("bias", c_void_p),
        ("in_features", c_int64),
        ("out_features", c_int64),
        ("scale", c_float),
        ("norm_eps", c_float),
    )


class Norm(ctypes.Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("eps", c_float), ("kind", c_int32))


class Table(ctypes.Structure):
    _fields_ = (
        ("rows", c_void_p),
        ("scales", c_void_p),
        ("dimension", c_int64),
        ("group", c_int64),
        ("precision", c_int32),
        ("multiplier", c_float),
    )


LINEARS = ("query", "key", "value", "attention_output", "gate", "up", "down")
NORMS = ("attention_norm", "query_norm", "key_norm", "attention_output_norm", "ffn_norm", "ffn_output_norm")


class Layer(ctypes.Structure):
    _fields_ = (
        *((name, Linear) for name in LINEARS),
        *((name, Norm) for name in NORMS),
        ("rotations", c_void_p),
        ("window", c_int64),
    )


class Encoder(ctypes.Structure):
    _fields_ = (
        ("tokens", Table),
        ("positions", Table),
        ("types", Table),
        ("embedding_norm", Norm),
        ("final_norm", Norm),
        ("layers", POINTER(Layer)),
        ("layer_count", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("intermediate", c_int64),
        ("attention_scale", c_float),
        ("causal", c_int32),
        ("post_norm", c_int32),
        ("activation", c_int32),
        ("pooling", c_int32),
    )


NORM_KINDS = {"none": 0, "rms": 1, "layer": 2}
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2}
POOLINGS = {"last": 0, "mean": 1, "cls": 2}
PRECISIONS = {"float32": 0, "float16": 1, "int8": 2, "int4": 3}

FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "compiled": (c_char_p, []),
    "supported": (c_char_p, []),
    "isa": (c_char_p, []),
    "select": (c_int, [c_char_p]),
    "use_openmp": (None, [c_void_p, c_void_p, c_void_p]),
    "pack_panels": (c_int, [c_void_p, c_int64, c_int64, c_void_p, c_int]),
    "ternary_panels": (None, [c_void_p, c_int64, c_int64, c_float, c_void_p, c_void_p, c_int]),
    "panel_bytes": (c_int64, [c_int64, c_int64]),
    "any_zero_nibble": (c_int, [c_void_p, c_int64, c_int]),
    "any_field_3": (c_int, [c_void_p, c_int64, c_int]),
    "norm_quantize": (
        c_int,
        [c_void_p, c_int64, c_int64, c_void_p, c_float, c_void_p, c_void_p, c_void_p, c_int, c_int],
    ),
    "scale_sums": (None, [c_void_p, c_int64, c_int64, *[c_void_p] * 3, c_int, c_int]),
    "scale_gradient": (c_int, [c_void_p, c_int64, c_int64, *[c_void_p] * 3, c_int, c_int]),
    "norm_backward": (c_int, [*[c_void_p] * 2, c_int64, c_int64, *[c_void_p] * 4, *[c_int] * 3]),
    "linears": (c_int, [c_void_p, c_int64, POINTER(Linear), c_int64, POINTER(c_void_p), c_int, c_int]),
    "latent_linear": (c_int, [c_void_p, c_int64, POINTER(Linear), *[c_void_p] * 4, *[c_int] * 3]),
    "feed_forward": (c_int, [c_void_p, c_int64, *[POINTER(Linear)] * 3, c_int32, c_void_p, c_int]),
    "rotate": (None, [c_void_p, c_void_p, c_int64, c_int64, c_int64, POINTER(Norm), c_void_p, c_int]),
    "attention": (c_int, [*[c_void_p] * 4, *[c_int64] * 4, c_float, c_int32, c_int64, c_void_p, c_int]),
    "lookup": (None, [POINTER(Table), c_void_p, c_int64, c_void_p, c_int]),
    "pool": (c_int, [c_void_p, c_void_p, c_int64, c_int64, POINTER(Norm), c_int32, c_void_p, c_int]),
    "encode": (c_int, [POINTER(Encoder), c_void_p, c_void_p, c_int64, c_void_p, c_int]),
    "search": (
        c_int,
        [c_void_p, c_int64, *[c_void_p] * 2, *[c_int64] * 2, *[c_int32] * 2, c_int64, *[c_void_p] * 2, c_int],
    ),
    "trellis_encode": (c_int, [c_void_p, *[c_int64] * 2, *[c_int32] * 2, *[c_void_p] * 2, c_int]),
    "trellis_levels": (None, [c_void_p, *[c_int64] * 2, *[c_int32] * 2, *[c_void_p] * 2, c_int]),
    "graded_levels": (None, [c_void_p, *[c_int64] * 3, *[c_void_p] * 4, c_int]),
    "peak_gops": (c_double, [c_int]),
    "read_gbs": (c_double, [c_int]),
    "time_linears": (c_double, [c_void_p, c_int64, POINTER(Linear), c_int64, c_void_p, c_int64, c_int]),
}

# Of these, a result other than 0 means that there was not enough memory.
NEED_MEMORY = (
    *("norm_quantize", "scale_gradient", "norm_backward", "linears", "latent_linear"),
    *("feed_forward", "attention", "pool", "encode", "search", "trellis_encode"),
)
FLOATS = (torch.float32, torch.bfloat16)  # what the passes of training read and write


@cache
def load() -> ctypes.CDLL | None:
    """The library with its functions declared, or None, with one warning, where it was not built.

    Raises:
        ValueError: BITEMBED_ISA names an instruction set that this processor or this build does not have.
    """
    path = _find()
    if path is None:
        logger.warning(
            "the native operations were not built (no C++ compiler when bitembed was installed): ternary models run "
            "on slower kernels; install a compiler and bitembed again"
        )
        return None
    library = ctypes.CDLL(os.fspath(path))
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, f"bitembed_{name}")
        function.restype, function.argtypes = result, arguments
        if name in NEED_MEMORY:
            function.errcheck = _enough_memory
    _share_threads(library)
    asked = os.environ.get(ISA_VARIABLE)
    if asked and library.bitembed_select(asked.encode()):
        supported = library.bitembed_supported().decode().replace(" ", ", ")
        raise ValueError(f"{ISA_VARIABLE}={asked}: not on this machine, which has {supported}")
    return library


def _share_threads(library: ctypes.CDLL) -> None:
    """Let the library work on the threads of torch's OpenMP runtime, where that is one that can be shared."""
    if not torch.backends.openmp.is_available():
        return
    program = ctypes.CDLL(None)
    try:
        shared = [
            getattr(program, name) for name in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        ]
    except AttributeError:
        return
    library.bitembed_use_openmp(*[ctypes.cast(function, c_void_p) for function in shared])


def available() -> bool:
    """Whether native operations can run here."""
    return load() is not None


def native() -> ctypes.CDLL:
    """The library; RuntimeError where there is none."""
    library = load()
    if library is None:
        raise RuntimeError("the native operations were not built; choose another kernel")
    return library


def isa() -> str:
    """Name of the instruction set in use: "amx_int8", "avx512_vnni", "avx_vnni", "avx2", "neon_i8mm", "neon_dotprod" or
    "scalar"."""
    return native().bitembed_isa().decode()


def supported_isas() -> list[str]:
    """The instruction sets that run here, best first."""
    return native().bitembed_supported().decode().split()


def select_isa(name: str) -> None:
    """Use instruction set `name` from now on; ValueError when it does not run here."""
    if native().bitembed_select(name.encode()):
        raise ValueError(f"instruction set {name!r} does not run here; choose {', '.join(supported_isas())}")


def threads() -> int:
    """How many threads an operation uses: torch's number."""
    return torch.get_num_threads()


def pointer(tensor: Tensor | None) -> int | None:
    """Address of a contiguous CPU tensor's data, NULL for None."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"
    return tensor.data_ptr()


def float32_or_bfloat16(x: Tensor) -> Tensor:
    """`x` without its history, contiguous, in one of `FLOATS`: what is neither becomes float32."""
    return (x if x.dtype in FLOATS else x.float()).detach().contiguous()


def text_offsets(lengths: Sequence[int]) -> Tensor:
    """int64 (texts + 1,): where each text begins among the tokens of all, and where the last one ends."""
    return torch.cat([torch.zeros(1, dtype=torch.long), torch.tensor(lengths, dtype=torch.long).cumsum(0)])


def _enough_memory(result: int, _function: Any, _arguments: Any) -> None:
    if result:
        raise MemoryError("not enough memory for a native operation; give it fewer or shorter texts at once")


def _find() -> Path | None:
    places = [str(Path(__file__).parents[2]), sysconfig.get_path("platlib"), *site.getsitepackages()]
    places += [site.getusersitepackages(), *sys.path]
    return next((path for place in places if (path := Path(place) / LIBRARY).is_file()), None)
