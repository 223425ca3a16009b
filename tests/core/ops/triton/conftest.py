"""Triton kernels run compiled where there is a CUDA device, and in Triton's interpreter elsewhere; outputs begin as NaN."""

import pytest
import torch

from bitembed_core.ops import gpu

pytest.importorskip("triton")

POISON = {torch.int8: 77, torch.uint8: 201, torch.int32: 1 << 30, torch.int64: 1 << 40}


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What is allocated without being written must show."""

    def poison(make):
        def made(*arguments, **options):
            tensor = make(*arguments, **options)
            if tensor.dtype in POISON:
                return tensor.fill_(POISON[tensor.dtype])
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))


@pytest.fixture
def everywhere(monkeypatch):
    """Operations take their Triton kernels on every device, as they do on CUDA."""
    monkeypatch.setattr(gpu, "automatic", lambda device: True)
