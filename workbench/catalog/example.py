"""The unit of training text: a query, the text that answers it, and texts that do not."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A training pair; `negatives` are texts known or mined not to answer the query."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.query, self.positive, *self.negatives)


@dataclass(frozen=True)
class ExampleSource:
    """Examples of one origin. `in_batch` False: another example's positive may answer this query as well,
    so only an example's own negatives may be used."""

    name: str
    origin: str
    licence: str
    examples: list[Example]
    in_batch: bool = True
