"""Where Triton kernels run: on CUDA devices, and on the CPU under Triton's interpreter (TRITON_INTERPRET=1), for tests."""

import logging
import os
from functools import cache
from importlib.util import find_spec

import torch

logger = logging.getLogger(__name__)

INTERPRETER_VARIABLE = "TRITON_INTERPRET"


def installed() -> bool:
    """Whether Triton can be imported."""
    return find_spec("triton") is not None


def interpreting() -> bool:
    """Whether kernels are interpreted; Triton reads the variable when a kernel is defined."""
    return os.environ.get(INTERPRETER_VARIABLE) == "1"


def runs_on(device: torch.device) -> bool:
    """Whether a Triton kernel can take tensors on `device`."""
    return installed() and (device.type == "cuda" or (device.type == "cpu" and interpreting()))


def automatic(device: torch.device) -> bool:
    """Whether operations on `device` take their Triton kernel without being asked to."""
    if device.type == "cuda" and not installed():
        _say_it_is_missing()
    return device.type == "cuda" and installed()


@cache
def _say_it_is_missing() -> None:
    logger.warning(
        "Triton is not installed: on CUDA devices models and losses run on slower kernels; install the package triton"
    )
