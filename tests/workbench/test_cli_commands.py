"""`bitembed` as a person uses it: commands that work, and mistakes that cost one line."""

import json
import subprocess
import sys

import pytest

from bitembed_core import BitEmbedder
from workbench import cli, doctor
from workbench.environment import environment


@pytest.fixture
def task_folder(tmp_path):
    folder = tmp_path / "tasks"
    (folder / "ret_mine").mkdir(parents=True)
    for name in ("corpus", "queries"):
        rows = [{"_id": f"{name[0]}{i}", "text": f"{name} text {i}"} for i in range(5)]
        (folder / "ret_mine" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "ret_mine" / "qrels.tsv").write_text("".join(f"q{i}\tc{i}\t1\n" for i in range(5)))
    return folder


@pytest.fixture
def texts(tmp_path, sentences):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences[:6]))
    return path


def fails(capsys, *argv: object) -> str:
    """The single line that a failing command prints."""
    assert cli.main([str(word) for word in argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("bitembed ")]
    assert len(lines) == 1
    assert "Traceback" not in said.err
    return lines[0]


def test_evaluate_writes_results_and_prints_the_table(tiny_model_folder, task_folder, tmp_path, capsys):
    out = tmp_path / "out" / "results.json"
    argv = ["evaluate", "--model", tiny_model_folder, "--teacher", tiny_model_folder, "--tasks", task_folder]
    argv += ["--precisions", "float16,int8", "--out", out, "--max-length", 16, "--cap", 4]
    assert cli.main([str(word) for word in argv]) == 0
    results = json.loads(out.read_text())
    assert list(results["tasks"]["ret_mine"]) == ["teacher", "float16", "int8"]
    assert results["model"] == results["teacher"] == "tiny"
    assert results["max_length"] == 16
    assert str(tmp_path) not in out.read_text()
    said = capsys.readouterr()
    assert "mean over types" in said.out
    assert "4 of 5 queries" in said.out
    assert "ret_mine  int8" in said.err


def test_evaluate_with_rescoring(tiny_model_folder, task_folder, tmp_path, capsys):
    out = tmp_path / "results.json"
    argv = ["evaluate", "--model", tiny_model_folder, "--tasks", task_folder, "--precisions", "int8,binary"]
    argv += ["--float-queries", "--out", out]
    assert cli.main([str(word) for word in [*argv, "--rescore", "int8", "--oversampling", 3]]) == 0
    results = json.loads(out.read_text())
    assert results["retrieval_index"]["rescored"] == ["binary"]
    assert results["retrieval_index"]["oversampling"] == 3
    assert results["tasks"]["ret_mine"]["binary"] == results["tasks"]["ret_mine"]["int8"]  # of five documents
    capsys.readouterr()
    assert "nothing to rescore" in fails(capsys, *argv, "--rescore", "binary")


@pytest.mark.parametrize("name", ["vectors.safetensors", "index"])
def test_encode_then_search(name, tiny_model_folder, texts, sentences, tmp_path, capsys):
    out = tmp_path / name
    model = ["--model", str(tiny_model_folder)]
    assert cli.main(["encode", *model, "--input", str(texts), "--out", str(out), "--precision", "int8"]) == 0
    assert "6 texts as int8, 36 bytes each" in capsys.readouterr().out
    query = sentences[3]
    assert cli.main(["search", *model, "--index", str(out), "--query", query, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == query
    assert lines[1].split(maxsplit=2)[2] == f"3  {query}"
    assert len(lines) == 3


@pytest.mark.parametrize("engine", ["faiss", "usearch:f16"])
def test_search_through_a_graph_and_wider_codes(engine, tiny_model_folder, texts, tmp_path, capsys):
    pytest.importorskip(engine.partition(":")[0])
    model = ["--model", str(tiny_model_folder)]
    for precision in ("int2", "int8"):
        out = tmp_path / f"{precision}.safetensors"
        argv = ["encode", *model, "--input", str(texts), "--out", str(out), "--precision", precision]
        assert cli.main(argv) == 0
    capsys.readouterr()
    query = ["--query", "x", "--query", "the cat", "--top", "3"]
    assert cli.main(["search", *model, "--index", str(tmp_path / "int8.safetensors"), *query]) == 0
    exact = capsys.readouterr().out
    narrow = ["search", *model, "--index", str(tmp_path / "int2.safetensors"), *query]
    options = ["--approximate", engine, "--rescore", str(tmp_path / "int8.safetensors")]
    assert cli.main([*narrow, *options, "--oversampling", "2"]) == 0  # 6 texts of 6 are rescored
    assert capsys.readouterr().out == exact
    texts.write_text(texts.read_text().partition("\n")[0])
    for out in (tmp_path / "one.safetensors", tmp_path / "one"):
        assert cli.main(["encode", *model, "--input", str(texts), "--out", str(out)]) == 0
        capsys.readouterr()
        assert "only one of them has the id" in fails(capsys, *narrow, "--rescore", out)
    assert "'annoy'" in fails(capsys, *narrow, "--approximate", "annoy")


def test_metadata_are_shown_with_hits(tiny_model_folder, tmp_path, capsys):
    rows = [{"body": f"text {i}", "year": 1900 + i, "url": f"u{i}"} for i in range(5)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encode = ["encode", "--model", tiny_model_folder, "--input", tmp_path, "--text-column", "body"]
    search = ["search", "--model", tiny_model_folder, "--query", "text 3", "--top", "1", "--index"]
    for names, shown in (
        ([], ["year=1903, url=u3"]),
        (["--metadata", "url"], ["url=u3"]),
        (["--metadata", "none"], []),
    ):
        out = tmp_path / f"index{len(shown)}{names}"
        assert cli.main([str(word) for word in (*encode, "--out", out, "--shard-size", 2, *names)]) == 0
        assert "(kernel float; 5 now, " in capsys.readouterr().out
        assert cli.main([str(word) for word in (*search, out)]) == 0
        assert [line.strip() for line in capsys.readouterr().out.splitlines()[2:]] == shown


@pytest.mark.parametrize("layout", ["release", "packed", "latent"])
def test_export(tiny_embedder, tmp_path, layout, capsys):
    tiny_embedder.convert()
    tiny_embedder.save_pretrained(tmp_path / "ternary", layout="latent")
    out = tmp_path / "out"
    argv = ["export", "--model", str(tmp_path / "ternary"), "--layout", layout, "--out", str(out)]
    assert cli.main(argv) == 0
    assert f"{layout} layout" in capsys.readouterr().out
    assert BitEmbedder.from_pretrained(out, device="cpu").is_ternary


def test_bench_names_kernel_and_hardware(tiny_model_folder, capsys):
    argv = ["bench", "--model", str(tiny_model_folder), "--repeats", "2", "--batch-size", "2"]
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny, kernel float, batch size 2"
    assert environment()["cpu"] in lines[1]
    *rows, memory = lines[3:]
    tokens = [int(line.split()[0]) for line in rows]
    assert tokens == [pytest.approx(16, abs=3), pytest.approx(64, abs=3)]  # the model reads 128, not 256
    assert all(float(line.split()[2]) > 0 and float(line.split()[-1]) > 0 for line in rows)
    assert memory.startswith("memory: 0.1 MB of weights")


def test_bench_of_a_model_that_reads_little(tiny_model_folder, capsys):
    argv = ["bench", "--model", str(tiny_model_folder), "--repeats", "1", "--batch-size", "2", "--max-length"]
    assert cli.main([*argv, "8"]) == 0
    assert int(capsys.readouterr().out.splitlines()[3].split()[0]) <= 8


def test_mistakes_in_evaluate(tiny_model_folder, task_folder, capsys):
    model = ("evaluate", "--model", tiny_model_folder, "--tasks", task_folder)
    assert "'int3'" in fails(capsys, *model, "--precisions", "float16,int3")
    assert "no precision" in fails(capsys, *model, "--precisions", ",")
    assert "unknown task 'sts_nothing'" in fails(capsys, *model[:-1], "sts_nothing")
    assert "is a folder" in fails(capsys, *model, "--out", task_folder)
    queries = task_folder / "ret_mine" / "queries.jsonl"
    queries.write_text(queries.read_text().replace('{"_id": "q2"', '{"_id": q2'))
    assert "queries.jsonl:3" in fails(capsys, *model)
    (task_folder / "ret_mine" / "qrels.tsv").unlink()
    assert "qrels.tsv" in fails(capsys, *model)


def test_mistakes_in_the_model(task_folder, texts, tmp_path, capsys):
    (tmp_path / "no_model").mkdir()
    for folder in ("no_model", "nowhere/at/all"):
        line = fails(capsys, "evaluate", "--model", tmp_path / folder, "--tasks", task_folder)
        assert folder in line


def test_mistakes_in_encode_and_search(tiny_model_folder, make_embedder, texts, tmp_path, capsys):
    out = tmp_path / "vectors.safetensors"
    encode = ("encode", "--model", tiny_model_folder, "--input", texts, "--out")
    assert "'float7'" in fails(capsys, *encode, out, "--precision", "float7")
    assert ".safetensors" in fails(capsys, *encode, tmp_path / "vectors.bin")
    with texts.open("a") as file:
        file.write('{"text": \n')
    assert "texts.jsonl:7" in fails(capsys, *encode, out)
    search = ("search", "--model", tiny_model_folder, "--index", out, "--query", "x")
    assert "vectors.safetensors" in fails(capsys, *search)
    texts.write_text('{"text": "one"}\n')
    assert cli.main([str(word) for word in (*encode, out)]) == 0
    capsys.readouterr()
    assert "text 0 is empty" in fails(capsys, *search[:-1], " ")
    assert "at least 1" in fails(capsys, *search, "--top", 0)


def test_mistakes_in_export(tiny_model_folder, tmp_path, capsys):
    export = ("export", "--model", tiny_model_folder, "--out", tmp_path / "out", "--layout")
    assert "GGUF is written for qwen3 and gemma3_text, not for bert" in fails(capsys, *export, "gguf")
    assert "is for layout 'packed'" in fails(capsys, *export, "release", "--token-table", "int8")
    assert "floating-point model" in fails(capsys, *export, "packed")
    assert not (tmp_path / "out").exists()


def test_mistakes_in_bench(tiny_embedder, tmp_path, capsys):
    tiny_embedder.convert()
    tiny_embedder.save_pretrained(tmp_path / "ternary")
    bench = ("bench", "--model", tmp_path / "ternary")
    assert "--repeats" in fails(capsys, *bench, "--repeats", 0)
    assert "kernel" in fails(capsys, *bench, "--kernel", "warp9")


def test_a_full_disk_is_one_line(tiny_model_folder, task_folder, tmp_path, capsys, monkeypatch):
    import workbench.evaluation

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workbench.evaluation, "write_results", full_disk)
    argv = ("evaluate", "--model", tiny_model_folder, "--tasks", task_folder, "--precisions", "int8")
    assert "No space left" in fails(capsys, *argv, "--out", tmp_path / "results.json")


def test_help_needs_no_heavy_import():
    code = "import sys, workbench.cli as c; c.parser().format_help(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("command", ["evaluate", "encode", "search", "export", "bench", "doctor"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: bitembed {command}" in capsys.readouterr().out


def test_public_names_hide_paths(tmp_path):
    (tmp_path / "demo" / "model").mkdir(parents=True)
    assert cli.public_name(str(tmp_path / "demo")) == "demo"
    assert cli.public_name(str(tmp_path / "demo" / "model")) == "demo"
    assert cli.public_name("minilm") == "minilm"
    assert cli.public_name("owner/name") == "owner/name"


def test_doctor(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("BITEMBED_CACHE", str(tmp_path / "cache"))
    status = cli.main(["doctor"])
    out = capsys.readouterr().out
    checks = doctor.examine()
    assert status == int(any(check.state == "missing" for check in checks))
    for subject in ("torch", "processor", "memory", "cache", "pip", "npm", "apt-get", "kernel reference"):
        assert any(line.split(maxsplit=1)[1].startswith(subject) for line in out.splitlines()[:-1]), subject
    assert "OK" in next(line for line in out.splitlines() if "kernel reference" in line)


def test_doctor_reports_what_is_missing():
    checks = [doctor.Check("a", "OK", "1"), doctor.Check("bb", "missing", "pip install bb")]
    assert doctor.report(checks).splitlines() == [
        "OK       a   1",
        "missing  bb  pip install bb",
        "missing: bb",
    ]


def test_environment_is_json_without_paths(tmp_path):
    text = json.dumps(environment())
    assert "/" not in text.replace("git", "")
    assert {"python", "cpu", "cores", "packages", "commit"} <= set(json.loads(text))
