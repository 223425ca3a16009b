"""Texts in one row give what they give with padding: states, captured attention states and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

from bitembed_core.attention import attend, capture_attention_states
from bitembed_core.packed_attention import (
    FROM_PADDING,
    FROM_ZERO,
    PackedTexts,
    TextGroup,
    can_pack,
    packed_attention,
)

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
SOME_OPTIONS = {"mistral": {"sliding_window": 5}, "phi3": {"sliding_window": 9}}  # shorter than some texts
OF_FIXTURES = {"bert": "bert", "qwen3": "qwen3", "gemma3_text": "gemma3"}
ENCODERS = {"bert", "electra", *FROM_PADDING}
LENGTHS = [[3, 1, 7], [8, 8], [40, 33, 21, 17]]  # of groups of texts; the second has no padding


@pytest.fixture(params=sorted(FROM_ZERO | FROM_PADDING))
def model(request: pytest.FixtureRequest, make_embedder: Callable) -> PreTrainedModel:
    torch.manual_seed(0)
    if request.param in OF_FIXTURES:
        return make_embedder(OF_FIXTURES[request.param]).model
    grouped = {} if request.param in ENCODERS else {"num_key_value_heads": 2}
    some = SOME_OPTIONS.get(request.param, {})
    config = AutoConfig.for_model(request.param, **SIZES, **grouped, **some)
    with torch.no_grad():
        model = AutoModel.from_config(config).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def groups_of_texts(side: str = "right") -> list[dict[str, Tensor]]:
    torch.manual_seed(1)
    groups = []
    for lengths in LENGTHS:
        longest = max(lengths)
        positions = torch.arange(longest)
        if side == "left":
            positions = longest - 1 - positions
        mask = (positions < torch.tensor(lengths)[:, None]).long()
        groups.append({"input_ids": torch.randint(3, 50, mask.shape), "attention_mask": mask})
    return groups


def options(model: PreTrainedModel) -> dict[str, bool]:
    return {} if model.config.model_type in ENCODERS else {"use_cache": False}


def test_states_and_gradients_are_those_of_padded_texts(model: PreTrainedModel) -> None:
    assert can_pack(model)
    groups = groups_of_texts()
    texts = PackedTexts(model, groups)
    found, weights = [], []
    for way in ("packed", "padded"):
        model.zero_grad()
        if way == "packed":
            with packed_attention(model, texts, 0, 1) as capture:
                last = texts.split(model(**texts.inputs, **options(model)).last_hidden_state[0])
            layers = capture.by_layer_and_group
        else:
            last, layers = [], [[], []]
            for group in groups:
                with capture_attention_states(model, 0, 1) as capture:
                    last.append(model(**group, **options(model)).last_hidden_state)
                for layer, states in zip(layers, capture.by_layer, strict=True):
                    layer.append(states)
        real = [group["attention_mask"].bool() for group in groups]
        tensors = [x[mask] for x, mask in zip(last, real, strict=True)]
        for layer in layers:
            for states, mask in zip(layer, real, strict=True):
                tensors += [phi.transpose(1, 2)[mask] for phi in states]
        if not weights:
            weights = [torch.randn_like(x) for x in tensors]
        sum((x * w).sum() for x, w in zip(tensors, weights, strict=True)).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append(([x.detach() for x in tensors], gradients))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    largest = max(float(g.abs().max()) for g in found[1][1])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-5 * largest)
    assert model.config._attn_implementation == "sdpa"


def test_a_text_knows_nothing_of_its_neighbours(model: PreTrainedModel) -> None:
    groups = groups_of_texts()
    changed = [dict(group) for group in groups]
    changed[2]["input_ids"] = changed[2]["input_ids"].clone()
    changed[2]["input_ids"][1] = 4
    states = []
    for some in (groups, changed):
        texts = PackedTexts(model, some)
        with torch.no_grad(), packed_attention(model, texts):
            states.append(texts.split(model(**texts.inputs, **options(model)).last_hidden_state[0]))
    for group in (0, 1):
        assert torch.equal(states[0][group], states[1][group])
    others = [0, 2, 3]
    real = groups[2]["attention_mask"].bool()[others]
    assert torch.equal(states[0][2][others][real], states[1][2][others][real])
    assert not torch.equal(states[0][2][1], states[1][2][1])


def test_padding_on_the_left_is_padding_too(model: PreTrainedModel) -> None:
    right, left = groups_of_texts(), groups_of_texts("left")
    for a, b in zip(right, left, strict=True):
        b["input_ids"][b["attention_mask"].bool()] = a["input_ids"][a["attention_mask"].bool()]
    rows = []
    for groups in (right, left):
        texts = PackedTexts(model, groups)
        with torch.no_grad(), packed_attention(model, texts):
            rows.append(model(**texts.inputs, **options(model)).last_hidden_state)
    torch.testing.assert_close(rows[0], rows[1], rtol=1e-5, atol=1e-5)


def test_the_forward_ends_with_the_states_that_were_asked_for(model: PreTrainedModel) -> None:
    texts = PackedTexts(model, groups_of_texts())
    reached = []
    hook = model.get_submodule(last_block(model)).register_forward_pre_hook(lambda *_: reached.append(1))
    with torch.no_grad():
        with packed_attention(model, texts, 0) as whole:
            model(**texts.inputs, **options(model))
        assert reached == [1]
        with packed_attention(model, texts, 0, and_stop=True) as part:
            model(**texts.inputs, **options(model))
    hook.remove()
    assert reached == [1]
    for ours, theirs in zip(part.by_layer_and_group[0], whole.by_layer_and_group[0], strict=True):
        assert all(map(torch.equal, ours, theirs))


def last_block(model: PreTrainedModel) -> str:
    return "encoder.layer.1" if model.config.model_type in ENCODERS else "layers.1"


def test_padding_gets_no_gradient_and_gives_none() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    group = TextGroup(mask)
    x = torch.randn(6, 4, 2, dtype=torch.float64, requires_grad=True)
    padded = group.padded(x)
    assert padded.shape == (3, 3, 4, 2)
    assert torch.equal(padded[mask.bool()], x)
    assert torch.equal(group.without_padding(padded), x)
    weight = torch.randn_like(padded)
    (padded * weight).sum().backward()
    assert torch.equal(x.grad, weight[mask.bool()])
    y = torch.randn(3, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(6, 4, 2, dtype=torch.float64)
    (group.without_padding(y) * upstream).sum().backward()
    assert torch.equal(y.grad[mask.bool()], upstream)
    assert not y.grad[~mask.bool()].any()


def test_bfloat16_attention_is_computed_in_float32_where_it_needs_gradients() -> None:
    torch.manual_seed(0)
    module = torch.nn.Module()
    module.is_causal = False
    states = [torch.randn(2, 4, 9, 8).bfloat16().requires_grad_() for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = attend(module, *states, None)
    assert output.dtype == torch.bfloat16
    q, k, v = (x.detach().double() for x in states)
    expected = ((q @ k.mT / 8**0.5).softmax(-1) @ v).transpose(1, 2)
    torch.testing.assert_close(output.double(), expected, rtol=2**-8, atol=1e-6)  # rounded once
    output.float().square().sum().backward()
    assert all(x.grad.dtype == torch.bfloat16 and x.grad.any() for x in states)
