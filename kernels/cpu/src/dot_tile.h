// The inner product tile of every instruction set: int8 activations of T tokens times B blocks of sixteen ternary rows.
//
// Panels hold fields 0, 1 and 2 for the weights -1, 0 and 1, so a tile computes the sum of (w + 1) a, starting from minus
// the sum of a. All instruction sets compute the same integers: products are at most 254, and where pairs are added in 16
// bits (AVX2), they move to 32 bits before they can overflow.
#pragma once

#include "quantize.h"

namespace {

// The tokens of a tile and the blocks of the weight that meet them.
struct TileInput {
    const int8_t* codes;  // of the first token; tokens lie `stride` bytes apart
    int64_t stride;
    const uint8_t* panel;  // the first block; blocks lie `block_bytes` apart, with 64 bytes for 16 activations, `steps` times
    int64_t block_bytes;
    int64_t steps;
    const int32_t* code_sum;  // (T,)
    const uint8_t* ahead;     // what to ask for meanwhile, as much as the blocks have
};

// y[t * stride + n] = sum * (scale[t] * weight_scale) + bias[n]; all 16 B values of a token are written. `past`: y and its rows
// begin with lines of the caches, and AVX-512 writes them to memory past these.
struct TileOutput {
    const float* scale;  // (T,)
    float weight_scale;
    const float* bias;  // (16 B,) or NULL
    float* y;
    int64_t stride;
    bool past = false;
};

template <int T, int B>
inline void finish(const i32x16 (&sums)[T][B], const TileOutput& to) {
    BITEMBED_UNROLL for (int t = 0; t < T; t++) {
        const float scale = to.scale[t] * to.weight_scale;
        BITEMBED_UNROLL for (int b = 0; b < B; b++) {
            const f32x16 y = to_float(sums[t][b]) * scale;
            store(to.y + t * to.stride + b * LANES, to.bias ? y + load(to.bias + b * LANES) : y);
        }
    }
}

#if defined(__AVX512VNNI__)

constexpr int TILE_TOKENS = 8, TILE_BLOCKS = 3;

inline void dot(__m512i& acc, __m512i weights, __m512i codes) {
    // Inline, since compilers otherwise rearrange the loop so that accumulators are spilled.
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(weights), "v"(codes));
}

template <int T, int B>
void dot_tile(const TileInput& in, const TileOutput& to) {
    const int8_t* codes = in.codes;
    const uint8_t* panel = in.panel;
    const int64_t stride = in.stride;
    const int64_t block_bytes = in.block_bytes;
    const uint8_t* ahead = in.ahead;
    // With few tokens every field has sums of its own: one chain of sums would take longer than reading the weights. Fields
    // then stay where they lie in a byte, without a shift, and their sums are 4, 16 and 64 times too large (which 32 bits hold
    // up to half a million features).
    constexpr int CHAINS = T <= 2 ? 4 : 1;
    __m512i acc[CHAINS][T][B];
    BITEMBED_UNROLL for (int t = 0; t < T; t++) {
        BITEMBED_UNROLL for (int b = 0; b < B; b++) {
            acc[0][t][b] = _mm512_set1_epi32(-in.code_sum[t]);
            BITEMBED_UNROLL for (int f = 1; f < CHAINS; f++) acc[f][t][b] = _mm512_setzero_si512();
        }
    }
    for (int64_t step = 0; step < in.steps; step++, panel += 64, ahead += 64, codes += 16) {
        // Into the second cache: the first one takes too few requests at a time to keep up with the memory.
        BITEMBED_UNROLL for (int b = 0; b < B; b++) _mm_prefetch(ahead + b * block_bytes, _MM_HINT_T1);
        BITEMBED_UNROLL for (int f = 0; f < 4; f++) {
            const int in_place = CHAINS == 4 ? f : 0;
            const __m512i field_mask = _mm512_set1_epi8(static_cast<char>(3 << 2 * in_place));
            __m512i weights[B];
            BITEMBED_UNROLL for (int b = 0; b < B; b++) {
                const __m512i packed = _mm512_loadu_si512(panel + b * block_bytes);
                weights[b] = _mm512_and_si512(f > in_place ? _mm512_srli_epi32(packed, 2 * f) : packed, field_mask);
            }
            BITEMBED_UNROLL for (int t = 0; t < T; t++) {
                __m512i four;
                asm("vpbroadcastd %1, %0" : "=v"(four) : "m"(*reinterpret_cast<const int32_t*>(codes + t * stride + 4 * f)));
                BITEMBED_UNROLL for (int b = 0; b < B; b++) dot(acc[in_place][t][b], weights[b], four);
            }
        }
    }
    BITEMBED_UNROLL for (int t = 0; t < T; t++) {
        const __m512 scale = _mm512_set1_ps(to.scale[t] * to.weight_scale);
        BITEMBED_UNROLL for (int b = 0; b < B; b++) {
            __m512i sums = acc[0][t][b];
            BITEMBED_UNROLL for (int f = 1; f < CHAINS; f++)
                sums = _mm512_add_epi32(sums, _mm512_srai_epi32(acc[f][t][b], 2 * f));
            __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scale);
            if (to.bias) y = _mm512_add_ps(y, _mm512_loadu_ps(to.bias + b * LANES));
            float* const values = to.y + t * to.stride + b * LANES;
            to.past ? _mm512_stream_ps(values, y) : _mm512_storeu_ps(values, y);
        }
    }
}

#elif defined(__AVX2__)

#if defined(__AVXVNNI__)

constexpr int TILE_TOKENS = 5, TILE_BLOCKS = 1;

template <int T, int B>
void dot_tile(const TileInput& in, const TileOutput& to) {
    const int8_t* codes = in.codes;
    const uint8_t* panel = in.panel;
    const int64_t stride = in.stride;
    static_assert(B == 1);
    __m256i acc[T][2];
    BITEMBED_UNROLL for (int t = 0; t < T; t++) acc[t][0] = acc[t][1] = _mm256_set1_epi32(-in.code_sum[t]);
    const __m256i field_mask = _mm256_set1_epi8(3);
    for (int64_t step = 0; step < in.steps; step++, panel += 64, codes += 16) {
        BITEMBED_UNROLL for (int f = 0; f < 4; f++) {
            __m256i weights[2];
            BITEMBED_UNROLL for (int h = 0; h < 2; h++) {
                const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 32 * h));
                weights[h] = _mm256_and_si256(f ? _mm256_srli_epi32(packed, 2 * f) : packed, field_mask);
            }
            BITEMBED_UNROLL for (int t = 0; t < T; t++) {
                __m256i four;
                asm("vpbroadcastd %1, %0" : "=x"(four) : "m"(*reinterpret_cast<const int32_t*>(codes + t * stride + 4 * f)));
                BITEMBED_UNROLL for (int h = 0; h < 2; h++)
                    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc[t][h]) : "x"(weights[h]), "x"(four));
            }
        }
    }
    i32x16 sums[T][1];
    memcpy(sums, acc, sizeof sums);
    finish<T, 1>(sums, to);
}

#else

constexpr int TILE_TOKENS = 4, TILE_BLOCKS = 1;
constexpr int64_t STEPS_IN_16_BITS = 16;  // 64 sums of two products, at most 508 each: 32512

template <int T, int B>
void dot_tile(const TileInput& in, const TileOutput& to) {
    const int8_t* codes = in.codes;
    const uint8_t* panel = in.panel;
    const int64_t stride = in.stride;
    static_assert(B == 1);
    __m256i sums[T][2];
    BITEMBED_UNROLL for (int t = 0; t < T; t++) sums[t][0] = sums[t][1] = _mm256_set1_epi32(-in.code_sum[t]);
    const __m256i field_mask = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    for (int64_t first = 0; first < in.steps; first += STEPS_IN_16_BITS) {
        __m256i acc[T][2];
        BITEMBED_UNROLL for (int t = 0; t < T; t++) acc[t][0] = acc[t][1] = _mm256_setzero_si256();
        const int64_t last = least(in.steps, first + STEPS_IN_16_BITS);
        for (int64_t step = first; step < last; step++, panel += 64, codes += 16) {
            BITEMBED_UNROLL for (int f = 0; f < 4; f++) {
                __m256i weights[2];
                BITEMBED_UNROLL for (int h = 0; h < 2; h++) {
                    const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 32 * h));
                    weights[h] = _mm256_and_si256(f ? _mm256_srli_epi32(packed, 2 * f) : packed, field_mask);
                }
                BITEMBED_UNROLL for (int t = 0; t < T; t++) {
                    int32_t four;
                    memcpy(&four, codes + t * stride + 4 * f, sizeof four);
                    BITEMBED_UNROLL for (int h = 0; h < 2; h++)
                        acc[t][h] = _mm256_add_epi16(acc[t][h], _mm256_maddubs_epi16(weights[h], _mm256_set1_epi32(four)));
                }
            }
        }
        BITEMBED_UNROLL for (int t = 0; t < T; t++) {
            BITEMBED_UNROLL for (int h = 0; h < 2; h++)
                sums[t][h] = _mm256_add_epi32(sums[t][h], _mm256_madd_epi16(acc[t][h], ones));
        }
    }
    i32x16 all[T][1];
    memcpy(all, sums, sizeof all);
    finish<T, 1>(all, to);
}

#endif

#elif defined(__ARM_FEATURE_MATMUL_INT8)

constexpr int TILE_TOKENS = 4, TILE_BLOCKS = 1;

// Two tokens and two rows at a time: a lane pair of `acc` is [t0 r0, t0 r1, t1 r0, t1 r1]. An odd last token is paired with
// itself.
template <int T, int B>
void dot_tile(const TileInput& in, const TileOutput& to) {
    const int8_t* codes = in.codes;
    const uint8_t* panel = in.panel;
    const int64_t stride = in.stride;
    static_assert(B == 1);
    constexpr int PAIRS = (T + 1) / 2;
    int32x4_t acc[PAIRS][8];
    BITEMBED_UNROLL for (int p = 0; p < PAIRS; p++) {
        const int32_t first = -in.code_sum[2 * p], second = 2 * p + 1 < T ? -in.code_sum[2 * p + 1] : first;
        BITEMBED_UNROLL for (int r = 0; r < 8; r++) acc[p][r] = vcombine_s32(vdup_n_s32(first), vdup_n_s32(second));
    }
    const uint8x16_t field_mask = vdupq_n_u8(3);
    for (int64_t step = 0; step < in.steps; step++, panel += 64, codes += 16) {
        BITEMBED_UNROLL for (int half = 0; half < 2; half++) {
            int8x16_t tokens[PAIRS];
            BITEMBED_UNROLL for (int p = 0; p < PAIRS; p++) {
                const int8_t* first = codes + 2 * p * stride + 8 * half;
                tokens[p] = vcombine_s8(vld1_s8(first), vld1_s8(2 * p + 1 < T ? first + stride : first));
            }
            BITEMBED_UNROLL for (int q = 0; q < 4; q++) {
                const uint8x16_t packed = vld1q_u8(panel + 16 * q);
                const uint8x16_t even = vandq_u8(half ? vshrq_n_u8(packed, 4) : packed, field_mask);
                const uint8x16_t odd = vandq_u8(half ? vshrq_n_u8(packed, 6) : vshrq_n_u8(packed, 2), field_mask);
                const uint32x4_t a = vreinterpretq_u32_u8(even), b = vreinterpretq_u32_u8(odd);
                const int8x16_t low = vreinterpretq_s8_u32(vzip1q_u32(a, b));
                const int8x16_t high = vreinterpretq_s8_u32(vzip2q_u32(a, b));
                BITEMBED_UNROLL for (int p = 0; p < PAIRS; p++) {
                    acc[p][2 * q] = vmmlaq_s32(acc[p][2 * q], tokens[p], low);
                    acc[p][2 * q + 1] = vmmlaq_s32(acc[p][2 * q + 1], tokens[p], high);
                }
            }
        }
    }
    i32x16 sums[T][1];
    BITEMBED_UNROLL for (int t = 0; t < T; t++) {
        int32x2_t pairs[8];
        BITEMBED_UNROLL for (int r = 0; r < 8; r++)
            pairs[r] = t % 2 ? vget_high_s32(acc[t / 2][r]) : vget_low_s32(acc[t / 2][r]);
        memcpy(&sums[t], pairs, sizeof pairs);
    }
    finish<T, 1>(sums, to);
}

#elif defined(__ARM_FEATURE_DOTPROD)

constexpr int TILE_TOKENS = 4, TILE_BLOCKS = 1;

template <int T, int B>
void dot_tile(const TileInput& in, const TileOutput& to) {
    const int8_t* codes = in.codes;
    const uint8_t* panel = in.panel;
    const int64_t stride = in.stride;
    static_assert(B == 1);
    int32x4_t acc[T][4];
    BITEMBED_UNROLL for (int t = 0; t < T; t++) {
        BITEMBED_UNROLL for (int q = 0; q < 4; q++) acc[t][q] = vdupq_n_s32(-in.code_sum[t]);
    }
    const uint8x16_t field_mask = vdupq_n_u8(3);
    for (int64_t step = 0; step < in.steps; step++, panel += 64, codes += 16) {
        int8x16_t tokens[T];
        BITEMBED_UNROLL for (int t = 0; t < T; t++) tokens[t] = vld1q_s8(codes + t * stride);
        BITEMBED_UNROLL for (int q = 0; q < 4; q++) {
            const uint8x16_t packed = vld1q_u8(panel + 16 * q);
            const int8x16_t w0 = vreinterpretq_s8_u8(vandq_u8(packed, field_mask));
            const int8x16_t w1 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 2), field_mask));
            const int8x16_t w2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 4), field_mask));
            const int8x16_t w3 = vreinterpretq_s8_u8(vshrq_n_u8(packed, 6));
            BITEMBED_UNROLL for (int t = 0; t < T; t++) {
                acc[t][q] = vdotq_laneq_s32(acc[t][q], w0, tokens[t], 0);
                acc[t][q] = vdotq_laneq_s32(acc[t][q], w1, tokens[t], 1);
                acc[t][q] = vdotq_laneq_s32(acc[t][q], w2, tokens[t], 2);
                acc[t][q] = vdotq_laneq_s32(acc[t][q], w3, tokens[t], 3);
            }
        }
    }
    i32x16 sums[T][1];
    memcpy(sums, acc, sizeof sums);
    finish<T, 1>(sums, to);
}

#else

constexpr int TILE_TOKENS = 1, TILE_BLOCKS = 1;

template <int T, int B>
void dot_tile(const TileInput& in, const TileOutput& to) {
    const int8_t* codes = in.codes;
    const uint8_t* panel = in.panel;
    const int64_t stride = in.stride;
    static_assert(T == 1 && B == 1);
    (void)stride;
    int32_t lanes[LANES];
    for (int32_t& lane : lanes) lane = -in.code_sum[0];
    for (int64_t step = 0; step < in.steps; step++, panel += 64, codes += 16) {
        for (int n = 0; n < LANES; n++) {
            for (int i = 0; i < 16; i++) lanes[n] += (panel[4 * n + i % 4] >> (2 * (i / 4)) & 3) * codes[i];
        }
    }
    i32x16 sums[1][1];
    memcpy(sums, lanes, sizeof sums);
    finish<T, 1>(sums, to);
}

#endif

}  // namespace
