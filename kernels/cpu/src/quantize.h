// Norms, and the int8 quantization of activations (Eq 2 and 3), a token at a time.
#pragma once

#include "bitembed_cpu.h"
#include "simd.h"

namespace {

constexpr float QUANTIZATION_EPS = 1e-5f;
constexpr float LEVELS = 127.0f;
constexpr float ONES[LANES] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

inline int64_t code_width(int64_t features) { return blocks_of(features, LANES) * LANES; }

// Tokens (count, in) as int8 codes, each sixteen of them in the order in which the product reads them (`in_panel_order`),
// filled up with zeros; one scale and one sum of codes a token.
struct Codes {
    int8_t* codes;
    float* scale;
    int32_t* sum;
    int64_t stride;

    Codes from(int64_t token) const { return {codes + token * stride, scale + token, sum + token, stride}; }
};

// A 32-bit lane of a panel has four bytes of a row; byte j holds the weights 4 j + f in its fields f. With all lanes shifted
// by field f, a lane meets the activations f, 4 + f, 8 + f and 12 + f.
inline i8x16 in_panel_order(i8x16 v) {
    return __builtin_shufflevector(v, v, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}

inline float inverse_rms(const float* x, int64_t n, float eps) {
    f32x16 squares[4] = {};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        BITEMBED_UNROLL for (int j = 0; j < 4; j++) {
            const f32x16 v = load(x + i + j * LANES);
            squares[j] += v * v;
        }
    }
    for (; i < n; i += LANES) {
        const f32x16 v = load(x + i, n - i);
        squares[0] += v * v;
    }
    const f32x16 all = (squares[0] + squares[1]) + (squares[2] + squares[3]);
    return 1.0f / __builtin_sqrtf(sum(all) / static_cast<float>(n) + eps);
}

// y = norm(x) of one token; y may be x.
inline void normalise(const float* x, int64_t n, const bitembed_norm& norm, float* y) {
    if (norm.kind == BITEMBED_NO_NORM) {
        if (y != x) memcpy(y, x, static_cast<size_t>(n) * sizeof(float));
        return;
    }
    if (norm.kind == BITEMBED_RMS_NORM) {
        const float factor = inverse_rms(x, n, norm.eps);
        for (int64_t i = 0; i < n; i += LANES)
            store(y + i, load(x + i, n - i) * factor * load(norm.weight + i, n - i), n - i);
        return;
    }
    f32x16 total = {};
    for (int64_t i = 0; i < n; i += LANES) total += load(x + i, n - i);
    const float mean = sum(total) / static_cast<float>(n);
    f32x16 squares = {};
    for (int64_t i = 0; i < n; i += LANES) {
        const f32x16 inside = load(ONES, n - i);
        const f32x16 difference = (load(x + i, n - i) - mean) * inside;
        squares += difference * difference;
    }
    const float factor = 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(n) + norm.eps);
    for (int64_t i = 0; i < n; i += LANES) {
        f32x16 v = (load(x + i, n - i) - mean) * factor * load(norm.weight + i, n - i);
        if (norm.bias) v += load(norm.bias + i, n - i);
        store(y + i, v, n - i);
    }
}

// Calls step(i, how many of sixteen, which of four accumulators) for all of n.
template <class Step>
inline void in_sixteens(int64_t n, Step step) {
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        BITEMBED_UNROLL for (int j = 0; j < 4; j++) step(i + j * LANES, LANES, j);
    }
    for (; i + LANES <= n; i += LANES) step(i, LANES, 0);
    if (i < n) step(i, n - i, 0);
}

// The codes of up to sixteen values, in the order of panels, filled up with zeros; adds them to `total`.
inline void sixteen_codes(const float* x, int64_t some, float divisor, int8_t* codes, i32x16& total) {
    const i32x16 code = nearest_integer(load(x, some) * LEVELS / divisor);
    total += code;
    const i8x16 narrow = in_panel_order(low_bytes(code));
    memcpy(codes, &narrow, sizeof narrow);
}

// Multiplying by LEVELS / divisor is faster than dividing, and gives the same integer unless the quotient lies close to the
// middle between two. Both codes differ from the exact quotient by less than 4e-5, with codes of at most 127.
constexpr float CLOSE = 0.49996f;
constexpr float MOST_DIVISOR = 1e30f;  // beyond, and for NaN, the factor is not exact enough

#if defined(__AVX512VNNI__)
// The low words of the lanes of a, then of b.
inline __m512i low_words(__m512 a, __m512 b) {
    alignas(64) constexpr uint16_t EVEN[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                               32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
    return _mm512_permutex2var_epi16(_mm512_castps_si512(a), _mm512_load_si512(EVEN), _mm512_castps_si512(b));
}
#endif

// The codes of 64 values, or false where one of them needs the division.
inline bool sixty_four_codes(const float* x, float factor, int8_t* codes, i32x16& total) {
#if defined(__AVX512VNNI__)
    const __m512 by = _mm512_set1_ps(factor), rounder = _mm512_set1_ps(ROUNDER);
    __m512 shifted[4];  // the code stands in the low bits
    __m512 furthest = _mm512_setzero_ps();
    BITEMBED_UNROLL for (int j = 0; j < 4; j++) {
        const __m512 v = _mm512_loadu_ps(x + j * LANES);
        shifted[j] = _mm512_fmadd_ps(v, by, rounder);
        const __m512 away = _mm512_fmsub_ps(v, by, _mm512_sub_ps(shifted[j], rounder));
        furthest = _mm512_range_ps(furthest, away, 0b1011);  // the larger size
    }
    if (_mm512_cmp_ps_mask(furthest, _mm512_set1_ps(CLOSE), _CMP_LT_OQ) != 0xffff) return false;
    // Quarter by quarter of a register, [a, b] with eight of each; then all of a, then all of b; then in the order of panels.
    const __m512i lanes = _mm512_packs_epi16(low_words(shifted[0], shifted[1]), low_words(shifted[2], shifted[3]));
    const __m512i rows = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), lanes);
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i narrow = _mm512_shuffle_epi8(rows, order);
    _mm512_storeu_si512(codes, narrow);
    total = bits<i32x16>(_mm512_dpbusd_epi32(bits<__m512i>(total), _mm512_set1_epi8(1), narrow));
#else
    i32x16 code[4];
    f32x16 furthest = {};
    BITEMBED_UNROLL for (int j = 0; j < 4; j++) {
        const f32x16 quotient = load(x + j * LANES) * factor;
        code[j] = nearest_integer(quotient);
        furthest = larger(furthest, absolute(quotient - to_float(code[j])));
    }
    if (!all_less(furthest, splat(CLOSE))) return false;
    BITEMBED_UNROLL for (int j = 0; j < 4; j++) {
        total += code[j];
        const i8x16 narrow = in_panel_order(low_bytes(code[j]));
        memcpy(codes + j * LANES, &narrow, sizeof narrow);
    }
#endif
    return true;
}

// The largest size in x (n,), as the bits of a float; sizes are compared as integers: that is faster, and NaN counts as the
// largest, so that it reaches the result. With a gain, writes y = x * factor * gain first, and that is meant.
inline int32_t largest_size(const float* x, int64_t n, const float* gain, float factor, float* y) {
    i32x16 peaks[4] = {};
    if (gain) {
        in_sixteens(n, [&](int64_t i, int64_t some, int j) {
            const f32x16 v = load(x + i, some) * factor * load(gain + i, some);
            store(y + i, v, some);
            peaks[j] = larger(bits<i32x16>(absolute(v)), peaks[j]);
        });
    } else {
        in_sixteens(n, [&](int64_t i, int64_t some, int j) {
            peaks[j] = larger(bits<i32x16>(absolute(load(x + i, some))), peaks[j]);
        });
    }
    return largest(larger(larger(peaks[0], peaks[1]), larger(peaks[2], peaks[3])));
}

constexpr int64_t FEW_FEATURES = 1024;  // the next tokens fit into the first cache beside those that are worked on

inline void fetch(const float* soon, bool into_first_cache) {
    into_first_cache ? __builtin_prefetch(soon) : __builtin_prefetch(soon, 0, 2);
}

// The codes of x (n,), whose largest size is `top`; returns their sum. `soon`: what is read next, as long as x.
inline int32_t codes_of(const float* x, int64_t n, float top, int8_t* codes, const float* soon) {
    const float divisor = top + QUANTIZATION_EPS, factor = LEVELS / divisor;
    const bool exact = divisor < MOST_DIVISOR;
    i32x16 total = {};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        BITEMBED_UNROLL for (int j = 0; j < 4; j++) fetch(soon + i + j * LANES, n <= FEW_FEATURES);
        if (exact && sixty_four_codes(x + i, factor, codes + i, total)) continue;
        for (int64_t j = i; j < i + 4 * LANES; j += LANES) sixteen_codes(x + j, LANES, divisor, codes + j, total);
    }
    for (; i < n; i += LANES) sixteen_codes(x + i, n - i, divisor, codes + i, total);
    return sum(total);
}

// Tokens whose passes take turns, so that the processor works on one while a reduction of the other comes to its end.
constexpr int64_t TOKENS_TOGETHER = 2;

// Quantize up to two tokens x[t] (n,): normalised first with `gain` and their inverse RMS, if there is a gain. `scratch`
// holds quantize_scratch(n) floats.
inline void quantize_few(const float* const* x, int64_t count, int64_t n, const float* gain, const float* inverse,
                         float* scratch, const Codes& to) {
    const int64_t apart = code_width(n) + LANES;
    int32_t top[TOKENS_TOGETHER];
    for (int64_t t = 0; t < count; t++)
        top[t] = largest_size(x[t], n, gain, gain ? inverse[t] : 1.0f, scratch + t * apart);
    for (int64_t t = 0; t < count; t++) {
        const float* values = gain ? scratch + t * apart : x[t];
        to.sum[t] = codes_of(values, n, bits<float>(top[t]), to.codes + t * to.stride, x[t] + count * n);
        to.scale[t] = bits<float>(top[t]) / LEVELS;
    }
}
inline int64_t quantize_scratch(int64_t features) { return TOKENS_TOGETHER * (code_width(features) + LANES); }

// The codes of sixteen weights: -1, 0 or 1, the integer closest to w / divisor (Eq 1); 0 for what is no number.
inline i8x16 ternary_codes(f32x16 w, float divisor) {
    f32x16 v = w / divisor;
    v = select(v == v, v, f32x16{});
    v = select(v > splat(1.0f), splat(1.0f), v);
    v = select(v < splat(-1.0f), splat(-1.0f), v);
    return low_bytes(nearest_integer(v));
}

}  // namespace
