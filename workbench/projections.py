"""The names of a model's linears, taken apart: which kind of projection, in which layer."""

from collections.abc import Iterable


def kind_and_layer(name: str) -> tuple[str, int]:
    """`("attention.output.dense", 3)` for `encoder.layer.3.attention.output.dense`; layer 0 where the name has no number."""
    parts = name.split(".")
    number = max((index for index, part in enumerate(parts) if part.isdigit()), default=None)
    if number is None:
        return name, 0
    return ".".join(parts[number + 1 :]) or name, int(parts[number])


def by_kind(names: Iterable[str]) -> dict[str, dict[int, str]]:
    """Kind of projection -> layer -> whole name, kinds in order of first appearance."""
    kinds: dict[str, dict[int, str]] = {}
    for name in names:
        kind, layer = kind_and_layer(name)
        kinds.setdefault(kind, {})[layer] = name
    return kinds
