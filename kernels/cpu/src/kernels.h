// What one instruction set offers: the operations of the C interface, compiled for it.
#pragma once

#include "bitembed_cpu.h"

namespace bitembed {

struct Kernels {
    const char* name;
    decltype(&bitembed_pack_panels) pack_panels;
    decltype(&bitembed_ternary_panels) ternary_panels;
    decltype(&bitembed_norm_quantize) norm_quantize;
    decltype(&bitembed_scale_sums) scale_sums;
    decltype(&bitembed_scale_gradient) scale_gradient;
    decltype(&bitembed_norm_backward) norm_backward;
    decltype(&bitembed_linears) linears;
    decltype(&bitembed_latent_linear) latent_linear;
    decltype(&bitembed_feed_forward) feed_forward;
    decltype(&bitembed_rotate) rotate;
    decltype(&bitembed_attention) attention;
    decltype(&bitembed_lookup) lookup;
    decltype(&bitembed_pool) pool;
    decltype(&bitembed_encode) encode;
    decltype(&bitembed_search) search;
    decltype(&bitembed_trellis_encode) trellis_encode;
    decltype(&bitembed_trellis_levels) trellis_levels;
    decltype(&bitembed_graded_levels) graded_levels;
    decltype(&bitembed_peak_gops) peak_gops;
};

// Defined where the library is compiled for that instruction set.
const Kernels& scalar_kernels();
const Kernels& avx2_kernels();
const Kernels& avx_vnni_kernels();
const Kernels& avx512_vnni_kernels();
const Kernels& amx_int8_kernels();
const Kernels& neon_dotprod_kernels();
const Kernels& neon_i8mm_kernels();

}  // namespace bitembed
