"""Pure functions from plain data to plotly figures and HTML tables, for marimo, Jupyter and reports alike."""

from workbench.figures.activations import activation_ranges
from workbench.figures.agreement import agreement_by_text, similarities_before_and_after
from workbench.figures.block import block_diagram
from workbench.figures.footprint import bytes_bars
from workbench.figures.html import Html
from workbench.figures.precision import retention_by_precision, storage_versus_accuracy
from workbench.figures.report import Section, write_report
from workbench.figures.tables import Neighbours, find_neighbours, nearest_neighbours, score_table
from workbench.figures.training import loss_curves, training_health
from workbench.figures.weights import (
    floating_point_table,
    projection_summary,
    projection_table,
    weight_histogram,
    zero_share_by_layer,
)

__all__ = [
    "Html",
    "Neighbours",
    "Section",
    "activation_ranges",
    "agreement_by_text",
    "block_diagram",
    "bytes_bars",
    "find_neighbours",
    "floating_point_table",
    "loss_curves",
    "nearest_neighbours",
    "projection_summary",
    "projection_table",
    "retention_by_precision",
    "score_table",
    "similarities_before_and_after",
    "storage_versus_accuracy",
    "training_health",
    "weight_histogram",
    "write_report",
    "zero_share_by_layer",
]
