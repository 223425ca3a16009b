"""Memory of this process: what it holds, what a model takes of it, and how it is given back."""

import ctypes
import gc
import sys
from itertools import chain
from pathlib import Path

import torch
from torch import nn


def resident_bytes() -> int | None:
    """Main memory that this process holds; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS")), None)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers of `model`, those that are shared counted once."""
    tensors = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


def give_back() -> None:
    """Return to the system what is no longer referred to; Python and the C library would keep much of it for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
        if trim is not None:
            trim(0)
