"""The job scripts start both stages with the recipe, and again with --resume: run with stand-ins for the launchers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAND_INS = {
    "accelerate": 'echo "$@" >> "$CALLS"',
    "srun": 'shift; "$@"',
    "scontrol": "echo first-node; echo second-node",
    "nvidia-smi": "echo GPU 0; echo GPU 1",
}
SLURM = {"SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "SLURM_NODEID": "1"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(("script", "processes"), [("node.sh", 2), ("slurm.sh", 4)])
def test_both_stages_are_started_and_resumed(tmp_path, script, processes) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in STAND_INS.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    environment = (
        os.environ | SLURM | {"PATH": f"{tools}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    )

    def launched(**variables: str) -> list[str]:
        (tmp_path / "calls").unlink(missing_ok=True)
        command = ["bash", ROOT / "notebooks" / "jobs" / script, "minilm-full"]
        subprocess.run(command, cwd=tmp_path, env=environment | variables, check=True)
        return (tmp_path / "calls").read_text().splitlines()

    first = launched()
    assert [call.split("notebooks/")[1] for call in first] == [
        "pretrain.py --recipe minilm-full",
        "distill.py --recipe minilm-full",
    ]
    assert all(f"--num_processes {processes} " in call for call in first)
    assert all(call.startswith("launch --multi_gpu --num_machines") for call in first)
    shards = launched(PARALLEL="--use_fsdp --fsdp_version 2")
    assert all(call.startswith("launch --use_fsdp --fsdp_version 2 --num_machines") for call in shards)
    nodes = "--num_machines 2 --num_processes 4 --machine_rank 1 --main_process_ip first-node"
    assert all((nodes in call) == (script == "slurm.sh") for call in first)
    run = tmp_path / "runs" / "minilm-full" / "pretrain"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    assert [call.endswith("--resume") for call in launched()] == [True, False]
