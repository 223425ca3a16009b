"""A training run survives kill -9 at any moment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# BITEMBED_KILLS=200 takes minutes; worth it whenever the code that saves and resumes changes.
KILLS = int(os.environ.get("BITEMBED_KILLS", "6"))
ROOT = Path(__file__).parents[3]


def test_killed_at_any_moment(tiny_model_folder: Path, tmp_path: Path, made_up_source: Any) -> None:
    tiny_model_folder.rename(tmp_path / "model")
    rows = [
        json.dumps({"query": e.query, "positive": e.positive}) for e in made_up_source("pairs", 60).examples
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    worker = Path(__file__).with_name("killed_training.py")
    done = subprocess.run(
        [sys.executable, worker, tmp_path, str(KILLS)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["kills"] == KILLS
