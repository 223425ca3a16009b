"""Every kernel compiles for the cards it is meant for, on machines without one too.

`BITEMBED_EVERY_TILE=1` compiles them in every tile that the tuner may try, which takes minutes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a block may have


@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_kernels_compile(capability: int, tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, Path(__file__).with_name("compile_kernels.py"), str(capability)]
    command += ["every"] if os.environ.get("BITEMBED_EVERY_TILE") else []
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = json.loads(done.stdout.splitlines()[-1])
    assert len({kernel["kernel"] for kernel in kernels}) == 15
    for kernel in kernels:
        assert kernel["shared"] <= SHARED_MEMORY[capability], kernel
