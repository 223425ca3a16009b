"""The reference documentation of web service interfaces inside botocore: operations, shapes and members."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from workbench.catalog.example import Example
from workbench.catalog.packages import Package, fetch_package
from workbench.catalog.text import cached_rows, clip, fold, squash, strip_markup

BOTOCORE = Package(
    "pypi",
    "botocore",
    "1.44.5",
    "8f16a56d1dff125dd65322ae021efa7ba5195a6db5102b96862566055b748921",
    megabytes=17,
)
BLOCK_TAGS = r"/?(?:p|li|ul|ol|note|important|h\d|div|br)[^>]*"


def pairs(kind: Literal["operation", "shape", "member"]) -> Iterator[Example]:
    for row in cached_rows("aws-api", _documented_names):
        if row["kind"] == kind:
            yield Example(row["query"], row["text"])


def _documented_names() -> Iterator[dict[str, str]]:
    """Everything with a description of its own; a text that several names share is kept for the first one."""
    seen = set()
    for service, model in _service_models():
        metadata = model["metadata"]
        title = metadata.get("serviceAbbreviation") or metadata.get("serviceFullName", service)
        for kind, query, documentation in _names(model):
            text = clip(_plain(documentation), 700)
            key = fold(text)
            if len(text) >= 50 and key not in seen and not text.lower().startswith("this section"):
                seen.add(key)
                yield {"kind": kind, "query": f"{title}: {query}", "text": text}


def _names(model: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, operation in model["operations"].items():
        yield "operation", _spaced(name), operation.get("documentation") or ""
    for name, shape in model["shapes"].items():
        yield "shape", _spaced(name), shape.get("documentation") or ""
        for member, details in shape.get("members", {}).items():
            yield "member", f"{_spaced(name)}, {_spaced(member)}", details.get("documentation") or ""


def _service_models() -> Iterator[tuple[str, dict[str, Any]]]:
    """The newest model of every service."""
    newest: dict[str, Path] = {}
    for path in sorted((fetch_package(BOTOCORE) / "botocore" / "data").glob("*/*/service-2.json*")):
        newest[path.parent.parent.name] = path
    for service, path in sorted(newest.items()):
        content = path.read_bytes()
        yield service, json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


def _spaced(name: str) -> str:
    """CreateVpcEndpoint -> create vpc endpoint."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name).lower()


def _plain(documentation: str) -> str:
    """Block tags separate words; inline tags, which `strip_markup` would turn into spaces, do not."""
    inline_free = re.sub(r"<[^>]+>", "", re.sub(rf"<{BLOCK_TAGS}>", " ", documentation))
    return squash(strip_markup(inline_free))
