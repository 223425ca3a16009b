"""The native library works on the threads of torch's OpenMP runtime, and on its own where it cannot."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from bitembed_core.ops import library
from bitembed_core.ops.ternary_linear import Norm, passes
from bitembed_core.ops.ternary_linear.passes import NATIVE

pytestmark = pytest.mark.skipif(not library.available(), reason="the native library was not built")

SCRIPT = """
import os, torch
from bitembed_core.ops import library
from bitembed_core.ops.ternary_linear.passes import NATIVE

library.load()
x, w = torch.randn(300, 40), torch.randn(20, 40)
torch.set_num_threads(1)
alone = NATIVE.forward(x, w, None, None, torch.float32).y
before = len(os.listdir("/proc/self/task"))
torch.set_num_threads(3)
assert torch.equal(NATIVE.forward(x, w, None, None, torch.float32).y, alone)
torch.randn(1 << 20).add_(1)  # large enough for torch's threads
print(len(os.listdir("/proc/self/task")) - before)
"""


def threads_started(**environment: str) -> int:
    """How many threads a native operation and one of torch's start together, when they are told to use three."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
def test_torch_and_the_library_use_the_same_threads() -> None:
    assert threads_started() == 2


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
def test_a_runtime_that_gives_fewer_threads_than_asked_for() -> None:
    assert threads_started(OMP_THREAD_LIMIT="1") == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        passes, "torch_multiplies_faster", lambda: False
    )  # torch itself has no threads after a fork
    x, w, norm = torch.randn(300, 70), torch.randn(50, 70), Norm(torch.randn(70), 1e-6)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    expected = NATIVE.forward(x, w, None, norm, torch.float32).y
    child = os.fork()
    if child == 0:
        same = torch.equal(NATIVE.forward(x, w, None, norm, torch.float32).y, expected)
        os._exit(0 if same else 1)
    torch.set_num_threads(threads)
    status = None
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
