"""A computation of many small kernels, recorded as CUDA graphs: one launch instead of hundreds."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOST_GRAPHS = 64  # that are kept; they share their memory


class Recorded(NamedTuple):
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    outputs: Tensor


class Graphs:
    """Graphs of `run(inputs, *sizes)`, one for each of the latest sizes that came twice; before, it runs as it is.

    `run` must launch the same kernels whenever the sizes are the same, and keep what it reads besides its inputs alive.
    """

    def __init__(self, run: Callable[..., Tensor]) -> None:
        self._run = run
        self._recorded: OrderedDict[tuple[int, ...], Recorded] = OrderedDict()
        self._seen: set[tuple[int, ...]] = set()
        self._pool: Any = None
        self._lock = threading.Lock()

    def __call__(self, inputs: Tensor, *sizes: int) -> Tensor:
        """What `run` returns, of its own."""
        with self._lock:
            if sizes not in self._recorded:
                if sizes not in self._seen:  # kernels are compiled, which no graph may record
                    self._seen.add(sizes)
                    return self._run(inputs, *sizes)
                self._record(inputs, *sizes)
            self._recorded.move_to_end(sizes)
            graph, own, outputs = self._recorded[sizes]
            own.copy_(inputs)
            graph.replay()
            return outputs.clone()

    def _record(self, inputs: Tensor, *sizes: int) -> None:
        if len(self._recorded) >= MOST_GRAPHS:
            self._recorded.popitem(last=False)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        own, graph = inputs.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = self._run(own, *sizes)
        self._recorded[sizes] = Recorded(graph, own, outputs)
