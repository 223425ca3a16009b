"""The drawn block is the block of the model: every matrix and norm once, in the order in which tokens meet them."""

import re
from itertools import pairwise

import pytest
from torch import nn

from bitembed_core.conversion import Sites, bit_linears
from workbench.blocks import block_steps
from workbench.figures import block_diagram
from workbench.projections import by_kind, kind_and_layer

ARCHITECTURES = ["bert", "qwen3", "gemma3"]
LINEARS = {"bert": 6, "qwen3": 7, "gemma3": 7}
NORMS = {"bert": 2, "qwen3": 4, "gemma3": 6}  # of the backbone, in a block


def first_block(model):
    return (model.encoder.layer if hasattr(model, "encoder") else model.layers)[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steps_are_met_in_this_order(make_embedder, architecture):
    embedder = make_embedder(architecture)
    model = embedder.model
    steps = block_steps(model)
    met = []
    for step in steps:
        for name in step.names if step.kind in ("linear", "norm") else ():
            module = first_block(model).get_submodule(name)
            module.register_forward_hook(lambda *_, name=name: met.append(name))
    embedder.embed(embedder.tokenize(["a text"]))
    place = {
        name: met.index(name) for step in steps if step.kind in ("linear", "norm") for name in step.names
    }
    assert len(place) == LINEARS[architecture] + NORMS[architecture]
    serial = [step.names for step in steps if step.kind in ("linear", "norm")]
    for before, after in pairwise(serial):
        if after != ("self_attn.q_norm", "self_attn.k_norm"):  # each right behind its projection
            assert max(place[name] for name in before) < min(place[name] for name in after)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("sites", ["all", "output", "none"])
def test_drawing_has_the_norms_that_conversion_adds(make_embedder, architecture, sites: Sites):
    embedder = make_embedder(architecture)
    steps = block_steps(embedder.model)
    embedder.convert(sites)
    assert block_steps(embedder.model) == steps
    layers = [module for name, module in bit_linears(embedder.model) if kind_and_layer(name)[1] == 0]
    drawing = block_diagram(steps, sites).markup
    labelled = re.findall(r"<rect class='(\w+)'[^>]*/><text", drawing)
    in_block = {kind: labelled.count(kind) for kind in ("linear", "norm", "added")}
    legend = 1  # a box with its meaning
    assert in_block["linear"] - legend == len(layers)
    assert in_block["norm"] - legend == NORMS[architecture]
    norms = sum(module.norm is not None for module in layers)
    assert in_block["added"] - (legend if norms else 0) == norms


def test_unknown_blocks_are_refused_by_name(tiny_embedder):
    first_block(tiny_embedder.model).adapter = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"BertModel.*adapter"):
        block_steps(tiny_embedder.model)


def test_names_are_taken_apart():
    assert kind_and_layer("encoder.layer.11.attention.output.dense") == ("attention.output.dense", 11)
    assert kind_and_layer("up") == ("up", 0)
    assert by_kind(["layers.0.a", "layers.0.b", "layers.1.a"]) == {
        "a": {0: "layers.0.a", 1: "layers.1.a"},
        "b": {0: "layers.0.b"},
    }
