"""README.md of a saved model: what it is, where it comes from, how good it is, how to use it.

The usage snippet is run on the very files that were written before the card is; what it printed stands below it, and
how far the embeddings of the files are from those of the model in memory. A model that cannot be loaded is not saved.
"""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitembed_core.storage import StorageFormat

if TYPE_CHECKING:
    from bitembed_core.embedder import BitEmbedder

CARD_FILE = "README.md"
QUERIES = ["How are a million vectors stored in little memory?"]
DOCUMENTS = [
    "Quantization keeps a few bits of every number of a vector.",
    "The cat sat on the mat.",
]
LEAST_AGREEMENT = 0.99  # cosine below which what was written without rounding is another model
PRECISIONS = ("float16", "int8", "int4", "int2", "binary")
SPDX = {"Apache-2.0": "apache-2.0", "MIT": "mit"}
SNIPPET = """from bitembed_core import BitEmbedder

embedder = BitEmbedder.from_pretrained({source!r})
queries = embedder.encode_query({queries!r})
documents = embedder.encode_document({documents!r})
print((queries @ documents.T).round(3))
"""
LAYOUT_NOTES = {
    "release": "the published layout: the backbone's tensor names, projection norms, latent weights",
    "latent": "training layout: exact latent weights, for BitEmbedder only",
    "packed": "ternary weights at two bits each; needs `import bitembed_core`",
    "gguf": "one GGUF file",
    None: "floating-point weights",
}


@dataclass(frozen=True)
class Trial:
    """What came of running the snippet."""

    printed: str
    agreement: float
    """Smallest cosine of an embedding by the files to the same one by the model in memory."""


def try_out(embedder: "BitEmbedder", written: Path, exact: bool) -> Trial:
    """Run the snippet on the model in `written`, and compare it with `embedder`.

    Args:
        exact: nothing was rounded when the files were written, so that their embeddings are the same.

    Raises:
        ValueError: the files do not load, or give clearly other embeddings than they should.
    """
    code = SNIPPET.format(source=str(written), queries=QUERIES, documents=DOCUMENTS)
    scope: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "<usage snippet>", "exec"), scope)
    texts = zip(
        np.concatenate([scope["queries"], scope["documents"]]),
        np.concatenate([embedder.encode_query(QUERIES), embedder.encode_document(DOCUMENTS)]),
        strict=True,
    )
    agreement = min(float(ours @ theirs) for ours, theirs in texts)
    if not agreement >= (LEAST_AGREEMENT if exact else -1.0):
        raise ValueError(
            f"the written files give other embeddings than the model in memory (cosine {agreement:.3f}); "
            "nothing was kept"
        )
    return Trial(printed.getvalue().strip(), agreement)


def model_card(
    embedder: "BitEmbedder", layout: str | None, name: str, files: Mapping[str, int], trial: Trial
) -> str:
    """The card as Markdown.

    Args:
        layout: of the written files.
        name: of the model, as a user would type it.
        files: name -> bytes of the weight files.
    """
    history = embedder.settings.provenance
    base = history.base_model or "unknown"
    licence = history.licence or "unknown"
    sections = [
        _front_matter(history.base_model, licence),
        f"# {name}\n\nA {'ternary' if embedder.is_ternary else 'floating-point'} text embedder of {embedder.dimension} "
        f"dimensions, written by [BitEmbed Workbench](https://arxiv.org/abs/2606.25674).",
        "## Use\n\n```python\n"
        + SNIPPET.format(source=name, queries=QUERIES, documents=DOCUMENTS)
        + f"```\n\nThis was run when the model was saved, and printed\n\n```\n{trial.printed}\n```\n\n"
        f"The smallest cosine between these embeddings and those of the model in memory was {trial.agreement:.6f}.",
        "## Lineage\n\n" + _table(["", ""], [["backbone", base], ["licence of the backbone", licence]]),
        "## Training\n\n" + _stages(history.stages),
        "## Text to vector\n\n" + _table(["", ""], _text_rows(embedder)),
        "## Formats\n\n" + _formats(embedder, layout, files),
        "## Results\n\n" + _results(history.results),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(base_model: str, licence: str) -> str:
    spdx = SPDX.get(licence, "gemma" if licence.startswith("Gemma") else "other")
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        f"license: {spdx}",
    ]
    if "/" in base_model and " " not in base_model:
        lines.append(f"base_model: {base_model}")
    return "\n".join([*lines, "tags: [bitembed, ternary, text-embeddings]", "---"])


def _stages(stages: list[dict[str, Any]]) -> str:
    if not stages:
        return "Nothing is recorded of how this model was trained."
    rows = [
        [
            str(number),
            str(stage.get("stage", "")),
            ", ".join(f"{key} {_short(value)}" for key, value in stage.items() if key != "stage"),
        ]
        for number, stage in enumerate(stages, start=1)
    ]
    return _table(["", "stage", "with"], rows)


def _text_rows(embedder: "BitEmbedder") -> list[list[str]]:
    prompts = [[f"prompt `{name}`", f"`{text!r}`"] for name, text in embedder.prompts.items()] or [
        ["prompts", "none"]
    ]
    parts = (
        ("output map", embedder.output_map),
        ("centre", embedder.centre),
        ("rotation", embedder.rotation),
    )
    return [
        ["pooling", embedder.pooling],
        ["then", ", ".join(name for name, part in parts if part is not None) or "nothing"],
        ["normalisation", "L2"],
        ["tokens read of a text", str(embedder.max_length)],
        *prompts,
    ]


def _formats(embedder: "BitEmbedder", layout: str | None, files: Mapping[str, int]) -> str:
    vectors = [
        [form.name, str(form.bytes_per_vector)]
        for form in (StorageFormat(precision, embedder.dimension) for precision in PRECISIONS)
    ]
    weights = [[f"`{name}`", f"{size / 1e6:.1f} MB", LAYOUT_NOTES[layout]] for name, size in files.items()]
    return (
        _table(["weights", "size", ""], weights)
        + "\n\n"
        + _table(["stored vectors", "bytes each, scale included"], vectors)
    )


def _results(results: Mapping[str, Any] | None) -> str:
    if not results:
        return (
            "This model was not evaluated when it was saved: `bitembed evaluate --model ... --tasks offline`."
        )
    columns = list(results["mean"])
    rows = [[name, *_scores(scores, columns)] for name, scores in results["tasks"].items()]
    rows.append(["**mean over task types**", *_scores(results["mean"], columns)])
    hardware = results.get("environment", {}).get("cpu", "unknown hardware")
    return (
        f"mteb's main scores times 100 by stored precision; kernel {results.get('kernel')}, {hardware}, "
        f"commit {results.get('commit')}"
        + (f"; tasks shortened: {', '.join(results['caps'])}" if results.get("caps") else "")
        + ".\n\n"
        + _table(["task", *columns], rows)
    )


def _scores(scores: Mapping[str, float], columns: list[str]) -> list[str]:
    return [f"{100 * scores[column]:.2f}" if column in scores else "" for column in columns]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
