"""The Common Weakness Enumeration: names, descriptions and explanations of programming errors."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from workbench.catalog.example import Example
from workbench.catalog.packages import Package, fetch_package
from workbench.catalog.text import clip, squash

CWE = Package(
    "pypi",
    "cwe2",
    "3.0.0",
    "abef03eb853f5c1851df6af5167bd9fe73a53dddb119fdbc5c3afc7d50b9f55b",
    megabytes=9,
)


def weakness_pairs() -> Iterator[Example]:
    """Name and description; description and extended description."""
    newest = max(fetch_package(CWE).glob("cwe2/database_v49/cwec_v*.xml"))
    root = ElementTree.parse(newest).getroot()
    namespace = re.match(r"\{.*\}", root.tag)
    prefix = namespace.group() if namespace else ""
    for weakness in root.iter(f"{prefix}Weakness"):
        description = _text(weakness.find(f"{prefix}Description"))
        extended = _text(weakness.find(f"{prefix}Extended_Description"))
        if description:
            yield Example(weakness.get("Name", ""), description)
            if len(extended) > 100:
                yield Example(description, clip(extended, 1200))


def _text(element: ElementTree.Element | None) -> str:
    return "" if element is None else squash("".join(element.itertext()))
