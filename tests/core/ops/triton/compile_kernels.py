"""Compiles every Triton kernel for CUDA cards without having one; run by test_compilation.py, since Triton must not be
interpreting. Prints a JSON list: kernel, capability, bytes of shared memory.

    python compile_kernels.py 90 [every]

Without "every" products are compiled for the smallest and the largest tile, and gated ones with each
activation for the smallest."""

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bitembed_core.ops import tuning
from bitembed_core.ops.attention.triton import (
    attention_kernel,
    fitted_queries,
    fitted_span,
    prepare_heads_kernel,
)
from bitembed_core.ops.candidate_losses.triton import contrastive_kernel, distillation_kernel
from bitembed_core.ops.norm_quantize.joined import join_kernel
from bitembed_core.ops.norm_quantize.triton import norm_backward_kernel, norm_quantize_kernel
from bitembed_core.ops.output_quantize.triton import output_quantize_kernel
from bitembed_core.ops.packed_scores.triton import packed_scores_kernel
from bitembed_core.ops.relation_divergence.triton import relation_gradient_kernel, relation_rows_kernel
from bitembed_core.ops.ternary_linear.product import gated_kernel, product_kernel
from bitembed_core.ops.weight_quantize.triton import partial_sums_kernel, ternary_kernel

SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # that a block may have
SMALL_CARD = 99 * 1024  # as with compute capability 8.6 and 8.9
POINTERS = {
    "codes_ptr": "*i8",
    "real_ptr": "*i8",
    "target_ptr": "*i64",
    "owner_ptr": "*i64",
    "parts_ptr": "*fp64",
}
FLOATS = {"eps", "margin", "inverse_temperature", "student_inverse", "teacher_inverse", "scale"}
FLOATS |= {"own_eps", "after_eps", "before_eps"}
RELATIONS = {"ROWS": 64, "STUDENT_WIDTH": 32, "TEACHER_WIDTH": 64}


def compiled(
    kernel: Any, capability: int, constants: dict[str, Any], types: dict[str, str], **options: int
) -> dict[str, Any]:
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = types.get(name, POINTERS.get(name, "*fp32"))
        else:
            signature[name] = "fp32" if name in FLOATS else "i32"
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind[0] == "*"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    result = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert result.asm["cubin"]
    return {"kernel": kernel.__name__, "capability": capability, "shared": result.metadata.shared, **options}


def products(capability: int, every: bool) -> list[dict[str, Any]]:
    rows = []
    card = tuning.Card(multiprocessors=108, shared_bytes=SHARED_BYTES[capability])
    tiles = [tuning.fitted(tile, card) for tile in tuning.TILES]
    ends = tiles[0], tiles[-1]
    for tile in tiles if every else ends:
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        sizes = {"TOKENS": tile.tokens, "ROWS": tile.rows, "BYTES": tile.bytes, "GROUP": 8}
        flags = {"PROJECTIONS": 3, "PACKED": True, "HAS_BIAS": True, "HAS_RESIDUAL": True}
        types = {
            "x_ptr": "*i8",
            "w_ptr": "*u8",
            "bias_ptr": "*bf16",
            "residual_ptr": "*bf16",
            "y_ptr": "*bf16",
        }
        rows.append(compiled(product_kernel, capability, sizes | flags, types, **options))
        if tile in ends:
            flags = {"PROJECTIONS": 1, "PACKED": False, "HAS_BIAS": False, "HAS_RESIDUAL": False}
            none = {"bias_ptr": None, "residual_ptr": None}
            types = {"x_ptr": "*i8", "w_ptr": "*i8", "y_ptr": "*bf16"}
            rows.append(compiled(product_kernel, capability, sizes | flags | none, types, **options))
            types = {"x_ptr": "*i8", "gate_ptr": "*u8", "up_ptr": "*u8", "y_ptr": "*bf16"}
            for activation in range(3 if every or tile == tiles[0] else 1):
                flags = {"HAS_GATE": True, "HAS_BIAS": True, "ACTIVATION": activation}
                rows.append(compiled(gated_kernel, capability, sizes | flags, types, **options))
    return rows


def others(capability: int) -> list[dict[str, Any]]:
    x = {"x_ptr": "*bf16"}
    return [
        compiled(norm_quantize_kernel, capability, {"PROJECTIONS": 3, "HAS_GAIN": True, "BLOCK": 1024}, x),
        compiled(
            norm_quantize_kernel,
            capability,
            {"PROJECTIONS": 1, "HAS_GAIN": False, "BLOCK": 4096, "gain_ptr": None},
            x,
        ),
        compiled(
            norm_backward_kernel,
            capability,
            {"TOKENS_OF_A_PROGRAM": 64, "BLOCK": 1024},
            x | {"grad_ptr": "*bf16", "grad_x_ptr": "*bf16"},
        ),
        compiled(partial_sums_kernel, capability, {"BLOCK": 4096}, {}, num_warps=8),
        compiled(ternary_kernel, capability, {"MOST_PARTS": 1024, "BLOCK": 4096}, {}, num_warps=8),
        compiled(output_quantize_kernel, capability, {"BITS": (1, 2, 4, 8, 16), "BLOCK": 1024}, {}),
        compiled(contrastive_kernel, capability, {"HAS_OWNER": True, "HAS_MARGIN": True, "BLOCK": 1024}, {}),
        compiled(distillation_kernel, capability, {"HAS_OWNER": True, "BLOCK": 1024}, {}),
        compiled(relation_rows_kernel, capability, RELATIONS, {}),
        compiled(relation_gradient_kernel, capability, RELATIONS, {}),
        *(
            compiled(
                packed_scores_kernel,
                capability,
                {"BITS": bits, "INTEGER": integer, "QUERIES": 16, "DOCUMENTS": 64, "BYTES": 64}
                | ({"second_ptr": None} if integer else {}),
                {"codes_ptr": "*u8"} | ({"first_ptr": "*i8"} if integer else dict.fromkeys(HALVES, "*fp16")),
            )
            for bits in (1, 8)
            for integer in (True, False)
        ),
    ]


def attentions(capability: int, shared_bytes: int) -> list[dict[str, Any]]:
    rows = []
    for width in (32, 128, 256):
        queries = fitted_queries(width, shared_bytes)
        for dtype, size in (("*bf16", 2), ("*fp32", 4)):
            span = fitted_span(width, queries, size, shared_bytes)
            sizes = {"WIDTH": width, "BLOCK_WIDTH": width, "QUERIES": queries, "KEYS": span.keys}
            flags = {"CAUSAL": True, "HAS_WINDOW": True, "PRECISION": "tf32x3"}
            types = {"qkv_ptr": dtype, "y_ptr": dtype, **dict.fromkeys(BLOCKS, "*i32")}
            options = {"num_warps": 4, "num_stages": span.stages}
            rows.append(compiled(attention_kernel, capability, sizes | flags, types, **options))
            assert rows[-1]["shared"] <= shared_bytes, (rows[-1], shared_bytes)
    return rows


def encoders(capability: int) -> list[dict[str, Any]]:
    rows = attentions(capability, SHARED_BYTES[capability])
    if capability == 80:
        rows += attentions(capability, SMALL_CARD)
    sizes = {"HALF": 128, "BLOCK_HEADS": 8, "BLOCK_HALF": 128, "HAS_NORM": True, "HAS_ROTATION": True}
    types = {"qkv_ptr": "*bf16", "position_ptr": "*i32"}
    rows.append(compiled(prepare_heads_kernel, capability, sizes, types))
    flags = {"OWN": 1, "AFTER": 2, "BEFORE": 1, "HAS_RESIDUAL": True, "STORES": True, "HAS_GAIN": True}
    types = dict.fromkeys(("x_ptr", "residual_ptr", "states_ptr"), "*bf16")
    none = {"own_bias_ptr": None, "before_bias_ptr": None}
    rows.append(compiled(join_kernel, capability, flags | none | {"PROJECTIONS": 2, "BLOCK": 1024}, types))
    return rows


HALVES = ("first_ptr", "second_ptr")
BLOCKS = ("start_ptr", "first_ptr", "end_ptr")

if __name__ == "__main__":
    capability = int(sys.argv[1])
    rows = products(capability, every=sys.argv[2:] == ["every"])
    print(json.dumps(rows + others(capability) + encoders(capability)))
