"""What a comparison of relations leaves behind: a page to look at, numbers to compute with, words to decide by."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from bitembed_core.files import write_json
from bitembed_core.losses import relation_layer
from workbench.environment import environment
from workbench.figures import Section, write_report
from workbench.figures.relations import (
    divergence_by_head,
    divergence_by_layer,
    divergence_by_token,
    relation_map,
    strongest_relation,
)
from workbench.relations import AFTER, BEFORE, PHIS, LayerDivergence, Phi, Relations, RelationsConfig

logger = logging.getLogger("bitembed")


def save(config: RelationsConfig, shown: Relations, mean: LayerDivergence) -> Path:
    """Write relations.json and report.html into `config.out`, log a table, and return the folder.

    The report has the relations of one text, `shown`, at the layer of the paper's choice, in relation head 0.
    """
    folder = Path(config.out)
    write_json(folder / "relations.json", as_numbers(config, mean))
    layer = relation_layer(mean.layers)
    sections = [
        Section(
            "Which layer to distil",
            in_words(mean),
            [layer_figure(mean), *(f for phi in PHIS for f in head_figures(mean, phi))],
        )
    ]
    for phi in PHIS:
        tokens = token_figure(shown, phi, layer, head=0)
        maps = map_figures(shown, phi, layer, head=0)
        sections.append(
            Section(
                f"{phi}-{phi} relations",
                f"Layer {layer}, head 0, of a text of {len(shown.tokens)} tokens.",
                [*maps, tokens],
            )
        )
    write_report(
        folder / "report.html",
        "How a ternary student relates tokens",
        f"{config.student or 'The untrained student'} against {config.teacher}, over {mean.texts} texts.",
        sections,
    )
    logger.info("%s\n%s\n%s", as_table(mean), in_words(mean), folder / "report.html")
    return folder


def as_numbers(config: RelationsConfig, mean: LayerDivergence) -> dict[str, Any]:
    """What relations.json holds: divergences in nats by student, phi, layer and head."""
    divergence = {
        student: {
            "mean": mean.by_layer(student).tolist(),
            **{
                phi: {
                    "by_layer": mean.by_layer(student, phi).tolist(),
                    "by_head": mean.by_head[student][phi].tolist(),
                }
                for phi in PHIS
            },
        }
        for student in mean.students
    }
    return {
        "config": asdict(config),
        "texts": mean.texts,
        "tokens": mean.tokens,
        "layers": mean.layers,
        "paper_layer": relation_layer(mean.layers),
        "divergence": divergence,
        "environment": environment(),
    }


def as_table(mean: LayerDivergence) -> str:
    """Divergence by layer, a column for every student and phi, as text."""
    columns = [(student, phi) for student in mean.students for phi in (*PHIS, None)]
    header = "layer" + "".join(f"{student + ' ' + (phi or 'mean'):>13}" for student, phi in columns)
    values = [mean.by_layer(student, phi) for student, phi in columns]
    rows = [
        f"{layer:5d}" + "".join(f"{value[layer]:13.4f}" for value in values) for layer in range(mean.layers)
    ]
    return "\n".join([header, *rows])


def in_words(mean: LayerDivergence) -> str:
    """Which layer the paper would distil, and what the divergences of this student say about it."""
    layer = relation_layer(mean.layers)
    before = mean.by_layer(BEFORE)
    words = (
        f"Of {mean.layers} layers, counted from 0, the paper would distil layer {layer}, at about 60 % of the depth. "
        f"Before distillation the student diverges there by {before[layer]:.3f} nats a token, "
        f"and most in layer {before.argmax()} ({before.max():.3f})."
    )
    if AFTER not in mean.students:
        return words
    after = mean.by_layer(AFTER)
    change = after[layer] / before[layer] - 1 if before[layer] else 0.0
    return (
        f"{words} Afterwards it is {after[layer]:.3f} ({change:+.0%}), and most is left in layer {after.argmax()} "
        f"({after.max():.3f})."
    )


def layer_figure(mean: LayerDivergence) -> go.Figure:
    """Divergence by layer of every student, with the paper's choice marked."""
    by_student = {
        student: {"mean": mean.by_layer(student), **{phi: mean.by_layer(student, phi) for phi in PHIS}}
        for student in mean.students
    }
    return divergence_by_layer(
        by_student, relation_layer(mean.layers), f"{mean.tokens} tokens of {mean.texts} texts"
    )


def head_figures(mean: LayerDivergence, phi: Phi) -> list[go.Figure]:
    """Divergence by layer and head, a figure for every student, all with the same colours."""
    largest = max(float(mean.by_head[student][phi].max()) for student in mean.students)
    return [
        divergence_by_head(mean.by_head[student][phi], student, phi, largest) for student in mean.students
    ]


def map_figures(relations: Relations, phi: Phi, layer: int, head: int) -> list[go.Figure]:
    """The relation map of every model, the teacher's first, all with the same colours."""
    maps = {name: by_phi[phi][layer, head] for name, by_phi in relations.maps.items()}
    largest = max(map(strongest_relation, maps.values()))
    return [relation_map(relations.tokens, map_TT, name, phi, largest) for name, map_TT in maps.items()]


def token_figure(relations: Relations, phi: Phi, layer: int, head: int) -> go.Figure:
    """Divergence of every token's relations, of every student."""
    by_student = {name: by_phi[phi][layer, head] for name, by_phi in relations.divergence.items()}
    return divergence_by_token(relations.tokens, by_student, phi)
