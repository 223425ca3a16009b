"""What a process knows of the others that were launched with it."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from workbench.search.processes import ALONE, launched_processes, own_device

WORKER = """
import os, signal
from workbench.search.processes import launched_processes
with launched_processes() as processes:
    print(processes.rank, processes.wait(10 + processes.rank), flush=True)
    if processes.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        processes.wait()
    except OSError as error:
        print(error)
"""


def test_without_a_launcher_there_is_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with launched_processes() as processes:
        assert processes == ALONE
        assert processes.wait(3) == 3
    assert own_device() is None


@pytest.mark.parametrize(("local_rank", "device"), [("0", "cuda:0"), ("1", "cuda:1"), ("2", "cuda:0")])
def test_each_process_has_its_own_gpu(local_rank, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert own_device() == device


def test_they_wait_for_each_other_and_notice_when_one_has_gone():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", WORKER], env=here | {"RANK": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in "01"
    )
    assert first.communicate(timeout=120)[0].splitlines() == [
        "0 21",
        "another process of this call has stopped; the same call goes on",
    ]
    assert second.communicate(timeout=120)[0].split() == ["1", "21"]
