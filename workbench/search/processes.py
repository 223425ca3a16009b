"""The processes that work on one call, as `accelerate launch` and `torchrun` start them."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

LONGEST_WAIT = timedelta(days=7)  # for the slowest process
SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Processes:
    """One of `count` processes; they share files and nothing else but the waiting for each other."""

    rank: int = 0
    count: int = 1

    def wait(self, number: int = 0, meanwhile: Callable[[], object] = lambda: None) -> int:
        """Wait until every process is here, calling `meanwhile` now and then; the sum of their numbers.

        Raises:
            OSError: another process has stopped.
        """
        if self.count == 1:
            return number
        total = torch.tensor(number)
        try:
            work = dist.all_reduce(total, async_op=True)
            while not work.is_completed():
                meanwhile()
                time.sleep(SECONDS_BETWEEN_LOOKS)
            work.wait()
        except RuntimeError as error:
            raise OSError("another process of this call has stopped; the same call goes on") from error
        return int(total)


ALONE = Processes()


@contextmanager
def launched_processes() -> Iterator[Processes]:
    """Which process this is of those that a launcher started; the only one without a launcher."""
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield Processes(rank, count)
    finally:
        if count > 1:
            dist.destroy_process_group()


def own_device() -> str | None:
    """The GPU of this process where a launcher started several and there are some; else None."""
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is None or not torch.cuda.is_available():
        return None
    return f"cuda:{int(local_rank) % torch.cuda.device_count()}"
