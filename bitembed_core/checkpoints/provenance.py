"""Where a model comes from and what was done to it: kept in `bitembed.json` beside the weights, shown in the model card."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from bitembed_core.files import read_json, write_json

PROVENANCE_FILE = "bitembed.json"


@dataclass
class Provenance:
    """A model's history.

    Args:
        base_model: what it was made from, by a name that others know.
        licence: of that model.
        stages: what was done to it, in order; each has a `stage` and whatever describes it (`data`, `steps`, `teacher`).
        results: a results file (`tasks`, `mean`, `retention`, `commit`, ...) of this very model, if it was evaluated.
    """

    base_model: str = ""
    licence: str = ""
    stages: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, Any] | None = None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The history of the model in `folder`, empty where nothing was written down."""
        path = folder / PROVENANCE_FILE
        return cls.from_json(read_json(path)) if path.is_file() else cls()

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """ValueError when `value` is not what `to_json` gives."""
        if not isinstance(value, dict) or not isinstance(value.get("stages", []), list):
            raise ValueError(f"{PROVENANCE_FILE} does not describe a model's history")
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def write(self, folder: Path) -> None:
        write_json(folder / PROVENANCE_FILE, self.to_json())

    @property
    def token_table(self) -> str | None:
        """The precision that the token table was rounded to before training, unless that is float16."""
        return next((stage["token_table"] for stage in self.stages if "token_table" in stage), None)

    def add(self, stage: str, **description: Any) -> None:
        """Append a stage; results of the model as it was before are dropped."""
        self.stages.append({"stage": stage, **description})
        self.results = None
