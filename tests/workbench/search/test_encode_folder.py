"""From a source to an index folder: interrupted, killed, by several processes, and onto what does not fit."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench.search import IndexFolder, TextSource, encode_file, encode_to_folder
from workbench.search.manifest import Manifest
from workbench.search.processes import Processes
from workbench.search.shards import Keeper, Shards

# BITEMBED_KILLS=20 takes minutes; worth it whenever the code of encoding into folders changes.
KILLS = int(os.environ.get("BITEMBED_KILLS", "1"))


def write(path: Path, count: int, **changes: dict) -> Path:
    """Rows t0, t1 ...; `t3={"text": "x"}` changes one of them."""
    rows = [{"id": f"t{i}", "text": f"text number {i}", "year": 1900 + i} for i in range(count)]
    rows = [row | changes.get(row["id"], {}) for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def contents(path: Path) -> tuple[dict, list]:
    """What `index.json` says, and the rows of each segment with the checksum of its vectors."""
    segments = [pq.ParquetFile(file) for file in sorted(path.glob("segment-*.parquet"))]
    rows = [
        (file.read().to_pylist(), file.metadata.metadata[b"bitembed.vectors_sha256"]) for file in segments
    ]
    return json.loads((path / "index.json").read_text()), rows


def interrupt(embedder, monkeypatch, after: int) -> None:
    """Let the embedder be interrupted after so many calls."""
    calls, encode = iter(range(after)), embedder.encode_document

    def interrupted(texts, **options):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return encode(texts, **options)

    monkeypatch.setattr(embedder, "encode_document", interrupted)


def count_texts(embedder, monkeypatch) -> list[str]:
    encoded, encode = [], embedder.encode_document
    monkeypatch.setattr(
        embedder,
        "encode_document",
        lambda texts, **options: encoded.extend(texts) or encode(texts, **options),
    )
    return encoded


def test_it_goes_on_where_it_was_interrupted(tiny_embedder, tmp_path, monkeypatch):
    source, out = write(tmp_path / "t.jsonl", 15), tmp_path / "index"
    whole = encode_file(tiny_embedder, source, tmp_path / "v.safetensors", "binary")
    with monkeypatch.context() as patch:
        interrupt(tiny_embedder, patch, after=2)
        with pytest.raises(KeyboardInterrupt):
            encode_to_folder(tiny_embedder, source, out, "binary", shard_size=4)
    assert IndexFolder.open(out).ids() == [f"t{i}" for i in range(8)]
    encoded = count_texts(tiny_embedder, monkeypatch)
    done = encode_to_folder(tiny_embedder, source, out, "binary", shard_size=4)
    assert (done.texts, done.new) == (15, 7)
    assert encoded == [f"text number {i}" for i in range(8, 15)]
    index = IndexFolder.open(out)
    assert list(index.rows()) == whole.rows(range(15))
    query = tiny_embedder.encode(["text number 11"])
    assert index.search(query, 15) == whole.search(query, 15)
    assert not (out / ".shards").exists()
    assert encode_to_folder(tiny_embedder, source, out, "binary", shard_size=4).new == 0


def test_rows_that_were_added_to_the_source_are_encoded(tiny_embedder, tmp_path):
    source = write(tmp_path / "t.jsonl", 6)
    encode_to_folder(tiny_embedder, source, tmp_path / "index", shard_size=4)
    write(source, 13)
    assert encode_to_folder(tiny_embedder, source, tmp_path / "index", shard_size=4).new == 7
    index = IndexFolder.open(tmp_path / "index")
    assert index.ids() == [f"t{i}" for i in range(13)]
    index.compact()
    assert encode_to_folder(tiny_embedder, source, tmp_path / "index", shard_size=4).new == 0


def test_what_does_not_fit_is_left_alone(tiny_embedder, tmp_path):
    source, out = write(tmp_path / "t.jsonl", 9), tmp_path / "index"
    encode_to_folder(tiny_embedder, source, out, shard_size=4)
    before = contents(out)

    def refused(reason, precision="int8", source=source):
        with pytest.raises(ValueError, match=reason):
            encode_to_folder(tiny_embedder, source, out, precision, shard_size=4)

    refused("not StorageFormat", "binary")
    refused("another metadata", source=TextSource(str(source), metadata=()))
    refused("another text column", source=TextSource(str(source), "id"))
    refused("rows 5 to 8", source=write(tmp_path / "text.jsonl", 12, t5={"text": "edited"}))
    refused("rows 1 to 4", source=write(tmp_path / "metadata.jsonl", 12, t2={"year": 1}))
    refused("rows 9 to 9", source=write(tmp_path / "shorter.jsonl", 8))
    refused("lies in", source=f"{out}/*.parquet")
    tiny_embedder.max_length = 7
    refused("another max length")
    tiny_embedder.max_length = 128
    tiny_embedder.settings.prompts["document"] = "doc: "
    refused("another prompt")
    del tiny_embedder.settings.prompts["document"]
    with pytest.raises(FileNotFoundError):
        encode_to_folder(tiny_embedder, tmp_path / "nowhere.jsonl", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert contents(out) == before
    next(tiny_embedder.model.parameters()).data.add_(1)
    refused("another model")
    IndexFolder.open(out).delete(["t3"])
    refused("were deleted")


def test_a_damaged_segment_is_refused(tiny_embedder, tmp_path):
    source, out = write(tmp_path / "t.jsonl", 9), tmp_path / "index"
    encode_to_folder(tiny_embedder, source, out, shard_size=4)
    segment = sorted(out.glob("*.safetensors"))[1]
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{segment.name}.*encode the texts again"):
        encode_to_folder(tiny_embedder, source, out, shard_size=4)


def test_an_id_in_two_shards_is_refused(tiny_embedder, tmp_path):
    source, out = write(tmp_path / "t.jsonl", 12, t6={"id": "t1"}), tmp_path / "index"
    with pytest.raises(ValueError, match=r"row 7: the id 't1' was used before, in row 2"):
        encode_to_folder(tiny_embedder, source, out, shard_size=4)
    write(source, 12)  # mended: the shard that was finished and refused is encoded again
    encode_to_folder(tiny_embedder, source, out, shard_size=4)
    assert IndexFolder.open(out).ids() == [f"t{i}" for i in range(12)]
    with pytest.raises(ValueError, match=r"row 2: the id 't0' was used before, in row 1"):
        encode_to_folder(tiny_embedder, write(tmp_path / "u.jsonl", 3, t1={"id": "t0"}), tmp_path / "u")


class Alone(Processes):
    """One of two processes, the other of which does not come."""

    def wait(self, number=0, meanwhile=lambda: None):
        return number


@pytest.fixture
def half(tiny_embedder, tmp_path, monkeypatch):
    """The source and the folder of an encoding in which the first of two processes did nothing."""
    source, out = write(tmp_path / "t.jsonl", 15), tmp_path / "index"
    with monkeypatch.context() as patch:
        interrupt(tiny_embedder, patch, after=0)
        with pytest.raises(KeyboardInterrupt):
            encode_to_folder(tiny_embedder, source, out, shard_size=4, processes=Alone(0, 2))
    encode_to_folder(tiny_embedder, source, out, shard_size=4, processes=Alone(1, 2))
    assert Shards(out).finished() == {4, 12}
    assert len(IndexFolder.open(out)) == 0
    return source, out


def test_finished_shards_of_others_are_used(half, tiny_embedder, tmp_path, monkeypatch):
    source, out = half
    encoded = count_texts(tiny_embedder, monkeypatch)
    encode_to_folder(tiny_embedder, source, out, shard_size=4)
    assert encoded == [f"text number {i}" for i in (0, 1, 2, 3, 8, 9, 10, 11)]
    encode_to_folder(tiny_embedder, source, tmp_path / "whole", shard_size=4)
    assert contents(out) == contents(tmp_path / "whole")


def test_shards_that_do_not_fit_are_encoded_again(half, tiny_embedder, monkeypatch):
    source, out = half
    shards = Shards(out)
    write(source, 15, t5={"text": "edited"})
    shards.file(12).write_bytes(shards.file(12).read_bytes()[:-3])
    encoded = count_texts(tiny_embedder, monkeypatch)
    encode_to_folder(tiny_embedder, source, out, shard_size=4)
    assert len(encoded) == 15
    assert [row.text for row in IndexFolder.open(out).rows()][5] == "edited"


def test_a_shard_that_is_lost_is_said(half, tiny_embedder):
    source, out = half
    Shards(out).remove(4)
    with pytest.raises(ValueError, match="has 4 of 15 texts"):
        encode_to_folder(tiny_embedder, source, out, shard_size=4, processes=Alone(0, 2))
    assert len(IndexFolder.open(out)) == 4


def test_one_call_at_a_time(half, tiny_embedder):
    source, out = half
    keeper = Keeper(out, "")
    with pytest.raises(OSError, match="another call is encoding"):
        encode_to_folder(tiny_embedder, source, out, shard_size=4)
    keeper.close()
    with pytest.raises(ValueError, match="at least 1"):
        encode_to_folder(tiny_embedder, source, out, shard_size=0)


def test_without_links_a_shard_is_copied(tiny_embedder, tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError("not on this file system")

    monkeypatch.setattr(os, "link", no_links)
    encode_to_folder(tiny_embedder, write(tmp_path / "t.jsonl", 6), tmp_path / "index", shard_size=4)
    assert len(IndexFolder.open(tmp_path / "index")) == 6


def test_ids_whose_digests_agree_are_told_apart(tiny_embedder, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.search.shards.xxhash.xxh3_64_intdigest", len)
    encode_to_folder(tiny_embedder, write(tmp_path / "t.jsonl", 9), tmp_path / "index", shard_size=4)
    assert len(IndexFolder.open(tmp_path / "index")) == 9


def command(model: Path, source: Path, out: Path, processes: int) -> list[str]:
    # See tests/workbench/recipes/test_distributed.py on --multi_gpu.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    launch += ["--main_process_port", "0"]
    encode = ["-m", "workbench.cli", "encode", "--model", model, "--input", source, "--out", out]
    words = [sys.executable, *(launch if processes > 1 else []), *encode]
    return [str(word) for word in (*words, "--shard-size", "20", "--device", "cpu")]


SURROUNDINGS = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}


def test_two_processes_make_the_same_index_as_one(tiny_embedder, tiny_model_folder, tmp_path):
    source = write(tmp_path / "t.jsonl", 250)
    encode_to_folder(tiny_embedder, source, tmp_path / "one", shard_size=20)
    done = subprocess.run(
        command(tiny_model_folder, source, tmp_path / "two", 2),
        env=SURROUNDINGS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("250 texts as int8") == 1  # one of them reports for both
    assert "250 now" in done.stdout
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def kill(victim: subprocess.Popen, generator: random.Random) -> None:
    """Kill the launcher, a worker or all of them, and wait until whatever is left of them has ended too."""
    with suppress(psutil.NoSuchProcess):
        tree = [launcher := psutil.Process(victim.pid), *launcher.children(recursive=True)]
        for process in generator.choice([tree, [generator.choice(tree)]]):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        victim.wait(60)
        _, left = psutil.wait_procs(tree[1:], timeout=60)
        assert not left


def test_killed_at_any_moment(tiny_embedder, tiny_model_folder, tmp_path):
    source = write(tmp_path / "t.jsonl", 2000)
    encode_to_folder(tiny_embedder, source, tmp_path / "whole", shard_size=20)
    generator = random.Random(0)
    for number in range(KILLS):
        out = tmp_path / f"killed-{number}"
        for processes in generator.sample([1, 2], 2):
            victim = subprocess.Popen(
                command(tiny_model_folder, source, out, processes),
                env=SURROUNDINGS,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while victim.poll() is None and not Manifest.is_in(out):
                time.sleep(0.01)
            time.sleep(generator.uniform(0, 1.5))
            kill(victim, generator)
            ids = IndexFolder.open(out).ids()
            assert ids == [f"t{i}" for i in range(len(ids))]
        encode_to_folder(tiny_embedder, source, out, shard_size=20, show_progress_bar=False)
        assert contents(out) == contents(tmp_path / "whole")
        shutil.rmtree(out)


@pytest.mark.parametrize("spec", ["{}", "{}/*.parquet", "hub:{}", "hub:{}:train"])
def test_many_files_are_one_source(spec, tiny_embedder, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for part in range(3):
        ids = [f"{part}-{i}" for i in range(5)]
        columns = {"id": ids, "body": ids, "stars": range(5), "vector": [[1.0]] * 5}
        pq.write_table(pa.table(columns), folder / f"train-{part}.parquet")
    source = TextSource(spec.format(folder), "body")
    encode_to_folder(tiny_embedder, source, tmp_path / "index", shard_size=4)
    rows = list(IndexFolder.open(tmp_path / "index").rows())
    assert [row.id for row in rows] == [f"{part}-{i}" for part in range(3) for i in range(5)]
    assert [row.metadata for row in rows] == [{"stars": i} for _ in range(3) for i in range(5)]


def test_an_interruption_within_a_shard_changes_nothing(tiny_embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("workbench.search.encode_file"), "TEXTS_PER_CHUNK", 3)
    source = write(tmp_path / "t.jsonl", 10)
    encode_to_folder(tiny_embedder, source, tmp_path / "whole", shard_size=4)
    with monkeypatch.context() as patch:
        interrupt(tiny_embedder, patch, after=3)
        with pytest.raises(KeyboardInterrupt):
            encode_to_folder(tiny_embedder, source, tmp_path / "index", shard_size=4)
    encode_to_folder(tiny_embedder, source, tmp_path / "index", shard_size=4)
    assert contents(tmp_path / "index") == contents(tmp_path / "whole")
