"""A model put to use on this machine: loaded, measured, given texts to encode, searched, exported.

Each step is a function of the configuration, and `commands` has the call of `bitembed` that does the same.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bitembed_core import BitEmbedder
from bitembed_core.files import atomic_path, write_json
from bitembed_core.storage.precisions import PRECISIONS, is_precision
from workbench.catalog.models import load_embedder
from workbench.catalog.task_data import RetrievalData
from workbench.catalog.tasks import TASKS
from workbench.config import option
from workbench.environment import environment
from workbench.memory import give_back, resident_bytes, weight_bytes
from workbench.model_export import load_for_export, size_on_disk
from workbench.search import PackedIndex, TextSource, encode_file
from workbench.search.engines import Export, export_index
from workbench.search.index import Hit
from workbench.speed import Speed, measure_speed

logger = logging.getLogger("bitembed")

TEXT_SETS = tuple(name for name, entry in TASKS.items() if entry.type == "retrieval")


@dataclass(frozen=True)
class DeployConfig:
    """Load an embedder, measure it on this machine, encode a file of texts with it, search them, export."""

    model: str = option("minilm", "model folder or run, catalog name, .gguf file or hub id")
    kernel: Literal["auto", "native", "int8", "reference", "triton"] = option(
        "auto", "what computes ternary layers; auto takes the best one here"
    )
    device: str | None = option(None, "cpu or cuda; none takes CUDA where there is some")
    max_length: int | None = option(None, "tokens of a text that are read; none leaves it to the model")
    batch_size: int = option(32, "texts encoded together")
    lengths: tuple[int, ...] = option((16, 64, 256), "tokens per text at which speed is measured")
    repeats: int = option(3, "timed runs, of which the median counts")
    input: str = option(
        "ret_consumer_contracts",
        "texts: a JSONL or Parquet file with a field text, a folder of them, hub:..., or the documents of a retrieval "
        "task of the catalog",
    )
    precision: str = option(
        "int8", "how vectors are stored: a format, or a shortened one such as int8-128d", suggested=PRECISIONS
    )
    out: str = option("runs/deploy", "folder of the index and of what is exported", changes_result=False)
    query: str = option("How can I end the contract?", "what is looked for")
    top: int = option(5, "hits")
    layout: Literal["usual", "packed", "release", "latent", "gguf", "none"] = option(
        "usual",
        "how the model is exported; usual is packed for a ternary one, release for a floating-point one",
    )
    token_table: Literal["stored", "float16", "int8", "int4"] = option(
        "stored",
        "embedding tables of layout packed; stored: as they are, or were trained with, float16 otherwise",
    )
    engine: Literal["none", "qdrant", "milvus", "lancedb", "pgvector", "vespa"] = option(
        "none", "search engine whose files the index is also written as"
    )

    def __post_init__(self) -> None:
        for name in ("batch_size", "repeats", "top"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError("lengths must be numbers of tokens, such as 16,64,256")
        if not is_precision(self.precision):
            raise ValueError(f"no precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")

    @property
    def index_path(self) -> Path:
        """Where the index is written; one for each precision."""
        return Path(self.out) / f"texts-{self.precision}.safetensors"

    def model_path(self, layout: str) -> Path:
        """Where the model is exported to."""
        return Path(self.out) / "model" / layout

    @property
    def engine_path(self) -> Path:
        """Where the files for a search engine are written."""
        return Path(self.out) / self.engine


@dataclass(frozen=True)
class Measurement:
    """A model's speed and memory here; `resident` is by how much loading and running it let this process grow."""

    model: str
    kernel: str
    hardware: str
    speed: Speed
    weights: int
    resident: int | None
    load_seconds: float


@dataclass(frozen=True)
class Answer:
    """What was found, and how long it took to encode the query and to compare it with every text."""

    query: str
    hits: list[Hit]
    encode_ms: float
    search_ms: float


def load_and_measure(config: DeployConfig) -> tuple[BitEmbedder, Measurement]:
    """The model, ready to encode, and its speed at several lengths.

    Raises:
        FileNotFoundError, PackageUnavailable: there is no such model.
        ValueError: it is damaged, the kernel does not run here, or `max_length` does not fit it.
    """
    give_back()
    before, began = resident_bytes(), time.perf_counter()
    embedder = load_embedder(config.model, config.device, config.kernel)
    if config.max_length is not None:
        embedder.max_length = config.max_length
    seconds = time.perf_counter() - began
    speed = measure_speed(embedder, config.lengths, config.batch_size, config.repeats)
    after = resident_bytes()
    here = environment()
    hardware = ", ".join(here["gpus"]) if embedder.device.type == "cuda" else here["cpu"]
    measured = Measurement(
        model=config.model,
        kernel=embedder.kernel,
        hardware=f"{hardware}, {here['threads']} threads",
        speed=speed,
        weights=weight_bytes(embedder.model),
        resident=None if before is None or after is None else max(0, after - before),
        load_seconds=seconds,
    )
    logger.info("%s runs with kernel %s on %s", config.model, measured.kernel, measured.hardware)
    for timing, alone in zip(*speed, strict=True):
        logger.info(
            "%d tokens a text: %.0f tokens/s, %.2f ms a text in batches, %.2f ms alone",
            timing.tokens_per_text,
            timing.tokens_per_second,
            timing.ms_per_text,
            alone.ms_per_text,
        )
    return embedder, measured


def texts_file(config: DeployConfig) -> str:
    """The source of the texts; the documents of a retrieval task are written into the output folder first.

    Raises:
        FileNotFoundError, PackageUnavailable: they cannot be had.
        ValueError: a file of another kind.
    """
    if config.input not in TEXT_SETS or Path(config.input).exists():
        if not TextSource(config.input).is_hub:
            _check_files(config.input)
        return config.input
    data = TASKS[config.input].load()
    assert isinstance(data, RetrievalData)
    path = Path(config.out) / f"{config.input}.jsonl"
    with atomic_path(path) as fresh, fresh.open("w", encoding="utf-8") as lines:
        for id_, (title, text) in data.corpus.items():
            lines.write(json.dumps({"id": id_, "title": title, "text": text}, ensure_ascii=False) + "\n")
    return str(path)


def encode(embedder: BitEmbedder, config: DeployConfig) -> PackedIndex:
    """An index of the texts at `config.precision`, saved at `config.index_path`; see `encode_file` for errors."""
    source, began = texts_file(config), time.perf_counter()
    index = encode_file(
        embedder,
        source,
        config.index_path,
        config.precision,
        batch_size=config.batch_size,
        show_progress_bar=False,
    )
    seconds = time.perf_counter() - began
    logger.info(
        "%d texts as %s, %.2f MB of vectors in %s, %.1f texts/s",
        len(index),
        index.format.name,
        index.vectors.nbytes / 1e6,
        config.index_path,
        len(index) / seconds,
    )
    return index


def search(embedder: BitEmbedder, index: PackedIndex, query: str, top: int) -> Answer:
    """The `top` texts nearest to `query`, which stays in floating point.

    Raises:
        ValueError: an empty query, or an index that another model made.
    """
    if not query.strip():
        raise ValueError("the query is empty: type what you look for")
    if embedder.dimension != index.dimension:
        raise ValueError(
            f"the index holds vectors of {index.dimension} dimensions, the model makes {embedder.dimension}: encode again"
        )
    began = time.perf_counter()
    query_1D = embedder.encode_query([query], show_progress_bar=False)
    encoded = time.perf_counter()
    (hits,) = index.search(query_1D, top)
    found = time.perf_counter()
    return Answer(query, hits, 1000 * (encoded - began), 1000 * (found - encoded))


def layout_of(embedder: BitEmbedder, config: DeployConfig) -> str:
    """The layout in which the model is exported; "usual" is what it is run from."""
    if config.layout != "usual":
        return config.layout
    return "packed" if embedder.is_ternary else "release"


def export_model(embedder: BitEmbedder, config: DeployConfig) -> dict[str, Any] | None:
    """Write the model in `config.layout`; its path and bytes, or None for layout "none".

    It is loaded again, with its latent weights where it has them; see `BitEmbedder.save_pretrained` for errors.
    """
    layout = layout_of(embedder, config)
    if layout == "none":
        return None
    path = config.model_path(layout)
    table: Any = None if layout != "packed" or config.token_table == "stored" else config.token_table
    load_for_export(config.model, layout).save_pretrained(path, layout=layout, token_table=table)  # type: ignore[arg-type]
    give_back()
    weights, whole = size_on_disk(path)
    logger.info("%s: %s layout, weights %.1f MB, all %.1f MB", path, layout, weights / 1e6, whole / 1e6)
    return {"layout": layout, "path": str(path), "weights": weights, "all": whole}


def export_to_engine(index: PackedIndex, config: DeployConfig) -> Export | None:
    """Write the index as the files of `config.engine`; None for "none". See `export_index` for errors."""
    if config.engine == "none":
        return None
    export = export_index(index, config.engine, config.engine_path)
    logger.info("%s: %d texts for %s", config.engine_path, export.rows, export.engine)
    return export


def write_report(
    config: DeployConfig,
    measured: Measurement,
    index: PackedIndex,
    answer: Answer,
    exported: Mapping[str, Any] | None,
) -> Path:
    """Everything that was measured and found, as `deploy.json` in the output folder."""
    path = Path(config.out) / "deploy.json"
    speed = {way: [t._asdict() for t in timings] for way, timings in measured.speed._asdict().items()}
    write_json(
        path,
        {
            "config": asdict(config),
            "environment": environment(),
            "measured": asdict(measured) | {"speed": speed},
            "index": {
                "path": str(config.index_path),
                "precision": index.format.name,
                "texts": len(index),
                "bytes_per_vector": index.format.bytes_per_vector,
                "bytes": index.vectors.nbytes,
            },
            "answer": asdict(answer) | {"hits": [[hit.id, hit.score] for hit in answer.hits]},
            "export": exported,
        },
    )
    for rank, hit in enumerate(answer.hits, start=1):
        logger.info("%2d  %.4f  %s  %s", rank, hit.score, hit.id, " ".join(hit.text.split())[:90])
    logger.info("everything is in %s", path)
    return path


def _check_files(spec: str) -> None:
    try:
        TextSource(spec).files()
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(
            f"{error}; or take the documents of a task of the catalog: {', '.join(TEXT_SETS)}"
        ) from error
