"""How large the inputs of a model's linears are, token by token: what has to be rounded to 8 bits."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitembed_core.bitlinear import BitLinear
from bitembed_core.ops.ternary_linear import Norm
from bitembed_core.ops.ternary_linear.reference import normalised


class InputSizes(NamedTuple):
    """What one linear was given for N real tokens, after its own norm where it has one."""

    rms: NDArray[np.float32]
    """(N,) root mean square of each token's vector."""
    largest: NDArray[np.float32]
    """(N,) max|x| of each token's vector: the scale that Eq 2 rounds it with."""

    @property
    def outlier_ratio(self) -> NDArray[np.float32]:
        """(N,) max|x| / rms. Rounding to steps of max|x| / 127 costs a token about ratio / (127 sqrt(12)) of its size."""
        return np.divide(self.largest, self.rms, out=np.zeros_like(self.rms), where=self.rms > 0)


class InputRecorder:
    """While entered, looks at what the named linears of `model` are given whenever it runs; padding is left out.

    The model has to run through its own modules with an `attention_mask` (`BitEmbedder.embed` does).
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._model = model
        self._seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
        self._real_BT = torch.empty(0, dtype=torch.bool)
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        def note_mask(_model: nn.Module, _inputs: tuple[Any, ...], batch: Mapping[str, Tensor]) -> None:
            self._real_BT = batch["attention_mask"].bool()

        handle = self._model.register_forward_pre_hook(note_mask, with_kwargs=True)
        self._hooks.callback(handle.remove)
        for name, seen in self._seen.items():
            self._watch(self._model.get_submodule(name), seen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()

    def sizes(self) -> dict[str, InputSizes]:
        """What was seen so far, by name."""
        return {
            name: InputSizes(*(torch.cat(parts).cpu().numpy() for parts in zip(*seen, strict=True)))
            for name, seen in self._seen.items()
            if seen
        }

    def _watch(self, linear: nn.Module, seen: list[tuple[Tensor, Tensor]]) -> None:
        norm = linear.norm if isinstance(linear, BitLinear) else None

        @torch.no_grad()
        def look(_linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = normalised(inputs[0], None if norm is None else Norm(norm.weight, norm.eps))
            x_ND = x.float().reshape(-1, x.shape[-1])[self._real_BT.flatten()]
            seen.append((x_ND.square().mean(dim=-1).sqrt(), x_ND.abs().amax(dim=-1)))

        self._hooks.callback(linear.register_forward_pre_hook(look).remove)
