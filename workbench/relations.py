"""Relations between the tokens of a text, in every layer and head: a teacher's, and a student's before and after.

The relations are those of `bitembed_core.losses.AttentionRelationDistillation` (Eq 8), `R = softmax(A A^T / t)` per
relation head, and so is their divergence, `KL(R_teacher || R_student)` for every token. Names of models are "teacher",
"before" (the student made ternary, not distilled) and "after".
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitembed_core import BitEmbedder
from bitembed_core.attention import AttentionStates, capture_attention_states
from bitembed_core.divergence import kl_divergence
from bitembed_core.losses import AttentionRelationDistillation, matching_layer
from bitembed_core.tokenization import pad, token_ids
from workbench.catalog.models import load_embedder
from workbench.catalog.user_examples import is_example_file, read_texts
from workbench.config import option
from workbench.recipes.stages import origin_of

logger = logging.getLogger("bitembed")

Array = NDArray[np.float32]
Phi = Literal["Q", "K", "V"]
PHIS: tuple[Phi, ...] = ("Q", "K", "V")
MOST_TEXTS = 100
TEACHER, BEFORE, AFTER = "teacher", "before", "after"

SAMPLE_TEXTS = (
    "The bank raised its interest rate after the river had flooded the old town.",
    "How do I store a million vectors in less memory?",
    "She put the trophy into the suitcase because it was small enough.",
    "A ternary weight is minus one, zero or one, so multiplying becomes adding.",
    "Neither the doctor nor the nurses had seen the patient leave the room.",
    "Restart the service, then check that port 8080 answers again.",
)


@dataclass(frozen=True)
class RelationsConfig:
    """Compare how a teacher and its ternary student relate the tokens of a text, before and after distillation."""

    teacher: str = option("minilm", "model that was imitated: a catalog name, a folder or a hub id")
    student: str | None = option(None, "distilled model or its run; none shows the state before only")
    before: str | None = option(
        None,
        "the student before distillation, such as its stage 1; a floating-point model is made ternary, without any "
        "training; none is what the student's run began with, or the teacher",
    )
    texts: str | None = option(
        None,
        f"a text, or a .jsonl or .parquet file of {{text}}, of which the first {MOST_TEXTS} are read; none is a few "
        "sample sentences",
    )
    heads: int | None = option(
        None, "heads that the relations are split into; none is as many as the teacher's attention has"
    )
    temperature: float | None = option(
        0.1, "temperature of the relations; none is sqrt of the head width as in Eq 8 (BitDistill: 1)"
    )
    max_length: int = option(48, "tokens of a text that are read")
    sites: Literal["all", "output"] = option(
        "all",
        "norms of a model that is made ternary here: before every linear, or two per block (paper, Eq 3)",
    )
    out: str = option("runs/relations", "folder of report.html and relations.json", changes_result=False)

    def __post_init__(self) -> None:
        if self.heads is not None and self.heads < 1:
            raise ValueError(f"heads must be at least 1, not {self.heads}")
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        if self.max_length < 2:
            raise ValueError(f"max_length must be at least 2, not {self.max_length}")


@dataclass(frozen=True)
class TextStates:
    """What attention is computed from in one text of T tokens."""

    tokens: list[str]
    """(T,) readable pieces of the text, special tokens included."""
    cut: bool
    """Whether the text goes on."""
    layers: Mapping[str, Sequence[AttentionStates]]
    """By model: the states of every layer of the student, and of the teacher's layer that it is compared with."""


@dataclass(frozen=True)
class Relations:
    """Relations of one text of T tokens in L layers and R relation heads; R may differ between Q, K and V."""

    tokens: list[str]
    cut: bool
    maps: Mapping[str, Mapping[Phi, Array]]
    """By model and phi, (L, R, T, T): row i is how token i relates to every token; rows sum to 1."""
    divergence: Mapping[str, Mapping[Phi, Array]]
    """By student and phi, (L, R, T): KL(teacher || student) of every token's row, in nats."""


@dataclass(frozen=True)
class LayerDivergence:
    """Divergence averaged over the tokens of several texts, as the loss averages it."""

    texts: int
    tokens: int
    by_head: Mapping[str, Mapping[Phi, Array]]
    """By student and phi, (L, R)."""

    @property
    def students(self) -> list[str]:
        return list(self.by_head)

    @property
    def layers(self) -> int:
        return len(next(iter(self.by_head.values()))["Q"])

    def by_layer(self, student: str, phi: Phi | None = None) -> Array:
        """(L,): the mean over heads of one phi, or over all three: `L_attn`, had it been taken at that layer."""
        chosen = PHIS if phi is None else (phi,)
        return np.mean([self.by_head[student][name].mean(axis=1) for name in chosen], axis=0)


def load_models(config: RelationsConfig) -> dict[str, BitEmbedder]:
    """The teacher and the student before and, if there is one, after distillation.

    Raises:
        FileNotFoundError: no such model.
        ValueError: there is nothing to compare, or the students differ in depth.
    """
    logger.info("loading %s", config.teacher)
    models = {TEACHER: load_embedder(config.teacher), BEFORE: undistilled(config)}
    if config.student is not None:
        logger.info("loading %s", config.student)
        models[AFTER] = load_embedder(config.student)
    depths = {name: depth_of(embedder) for name, embedder in models.items() if name != TEACHER}
    if len(set(depths.values())) > 1:
        raise ValueError(
            f"the student has {depths[BEFORE]} layers before and {depths[AFTER]} after: give --before"
        )
    return models


def undistilled(config: RelationsConfig) -> BitEmbedder:
    """The student before distillation: as it was saved, or a floating-point model made ternary and left so.

    Gains of new norms are calibrated on random tokens, which changes little and needs no text.
    """
    source = config.before or (config.teacher if config.student is None else origin_of(config.student))
    if (
        config.before is None and source == config.student
    ):  # not a run: it does not tell what it was made from
        source = config.teacher
    embedder = load_embedder(source, trainable=True)
    if not embedder.is_ternary:
        logger.info("making %s ternary, without training", source)
        embedder.convert(config.sites)
        embedder.freeze()
    elif config.before is None:
        raise ValueError(f"{source} is ternary already: name what the student was before with --before")
    return embedder


def depth_of(embedder: BitEmbedder) -> int:
    layers: int = embedder.model.config.num_hidden_layers
    return layers


def texts_of(config: RelationsConfig) -> list[str]:
    """The texts to look at.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file has no texts, or the text is empty.
    """
    if config.texts is None:
        return list(SAMPLE_TEXTS)
    if not is_example_file(config.texts):
        texts = [config.texts]
    elif not (texts := read_texts(Path(config.texts))):
        raise ValueError(f"{config.texts} has no field `text`")
    if not all(text.strip() for text in texts):
        raise ValueError("a text to compare is empty")
    return texts[:MOST_TEXTS]


@torch.inference_mode()
def read(models: Mapping[str, BitEmbedder], text: str, max_length: int) -> TextStates:
    """Run every model once over `text`, without a prompt, and keep the attention states of its real tokens.

    Raises:
        ValueError: the models have different tokens, or the text none.
    """
    teacher = models[TEACHER]
    limit = min(max_length, *(embedder.max_length for embedder in models.values()))
    (ids,), cut = token_ids(teacher.tokenizer, [text], limit)
    if not ids:
        raise ValueError("the text has no tokens")
    depth = depth_of(models[BEFORE])
    layers = {}
    for name, embedder in models.items():
        if token_ids(embedder.tokenizer, [text], limit)[0] != [ids]:
            raise ValueError(
                "relations are compared token by token, but teacher and student have different tokenizers"
            )
        own_depth = depth_of(embedder)
        wanted = [matching_layer(layer, depth, own_depth) for layer in range(depth)]
        batch = pad([ids], embedder.tokenizer.pad_token_id)
        with capture_attention_states(embedder.model, *dict.fromkeys(wanted)) as capture:
            embedder.model(**{key: tensor.to(embedder.device) for key, tensor in batch.items()})
        received = dict(zip(capture.layers, capture.by_layer, strict=True))
        layers[name] = [real_tokens(received[layer], len(ids)) for layer in wanted]
    return TextStates([token_label(teacher, token) for token in ids], bool(cut), layers)


def real_tokens(states: AttentionStates, tokens: int) -> AttentionStates:
    """The states of the first `tokens` tokens, without the padding on the right, in float32 on the CPU."""
    return AttentionStates(*(phi_1HTD[:, :, :tokens].float().cpu() for phi_1HTD in states))


def token_label(embedder: BitEmbedder, token: int) -> str:
    """A token as it reads, without the marks of its vocabulary; a piece of a character keeps its raw name."""
    tokenizer = embedder.tokenizer
    text: str = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if "\N{REPLACEMENT CHARACTER}" in text:
        return str(tokenizer.convert_ids_to_tokens(token))
    readable = text.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}").strip().removeprefix("##")
    return readable or "\N{OPEN BOX}"


@torch.inference_mode()
def relate(states: TextStates, heads: int, temperature: float | None) -> Relations:
    """Relations and divergences of one text in every layer and head.

    Args:
        heads: where it does not divide the widths of all models' Q (or K, or V), their greatest common divisor
            with it is used for that one.
        temperature: None is sqrt(d_r), the width of a relation head.
    """
    loss = AttentionRelationDistillation(heads, temperature)
    maps: dict[str, dict[Phi, Array]] = {name: {} for name in states.layers}
    divergence: dict[str, dict[Phi, Array]] = {name: {} for name in states.layers if name != TEACHER}
    for index, phi in enumerate(PHIS):
        by_model = {
            name: torch.cat([layer[index] for layer in layers]) for name, layers in states.layers.items()
        }
        common = loss.common_heads(*by_model.values())
        logits = {name: relation_logits(loss, a_LHTD, common) for name, a_LHTD in by_model.items()}
        for name, logits_LRTT in logits.items():
            maps[name][phi] = logits_LRTT.softmax(dim=-1).numpy()
            if name != TEACHER:
                divergence[name][phi] = kl_divergence(logits[TEACHER], logits_LRTT).numpy()
    return Relations(states.tokens, states.cut, maps, divergence)


def relation_logits(loss: AttentionRelationDistillation, states_LHTD: Tensor, heads: int) -> Tensor:
    """(L, R, T, T): A A^T / temperature of every layer and relation head; every token is real."""
    real_LT = torch.ones(states_LHTD.shape[0], states_LHTD.shape[2], dtype=torch.bool)
    a_LRTd = loss.relation_heads_of(states_LHTD, heads, real_LT)
    return a_LRTd @ a_LRTd.transpose(-1, -2) / loss.divisor(a_LRTd)


def relation_heads(config: RelationsConfig, models: Mapping[str, BitEmbedder]) -> int:
    """The number asked for, or that of the teacher's attention heads."""
    return config.heads or int(models[TEACHER].model.config.num_attention_heads)


def average(relations: Iterable[Relations]) -> LayerDivergence:
    """The mean over all tokens of several texts, of which one at a time is held."""
    texts = tokens = 0
    sums: dict[str, dict[Phi, Array]] = {}
    for one in relations:
        texts, tokens = texts + 1, tokens + len(one.tokens)
        for student, by_phi in one.divergence.items():
            sum_of = sums.setdefault(student, {})
            for phi, divergence_LRT in by_phi.items():
                sum_of[phi] = sum_of.get(phi, 0) + divergence_LRT.sum(axis=2)
    by_head = {
        student: {phi: sum_LR / np.float32(tokens) for phi, sum_LR in sum_of.items()}
        for student, sum_of in sums.items()
    }
    return LayerDivergence(texts, tokens, by_head)


def rows_of(relations: Relations, phi: Phi, layer: int, head: int, token: int) -> dict[str, Array]:
    """By model, (T,): how it relates `token` to every token."""
    return {name: by_phi[phi][layer, head, token] for name, by_phi in relations.maps.items()}


def most_changed_pair(relations: Relations, phi: Phi, layer: int, head: int) -> tuple[int, int]:
    """The token whose relations the (last) student changed most, and the other token for which they changed most."""
    student = list(relations.divergence)[-1]
    row = int(relations.divergence[student][phi][layer, head].argmax())
    rows = rows_of(relations, phi, layer, head, row)
    change_T = np.abs(rows[TEACHER] - rows[student])
    change_T[row] = -1.0  # its relation to itself is always there
    return row, int(change_T.argmax())
