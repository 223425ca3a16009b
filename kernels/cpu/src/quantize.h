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
};

// A 32-bit lane of a panel has four bytes of a row; byte j holds the weights 4 j + f in its fields f. With all lanes shifted
// by field f, a lane meets the activations f, 4 + f, 8 + f and 12 + f.
inline i8x16 in_panel_order(i8x16 v) {
    return __builtin_shufflevector(v, v, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}

inline float inverse_rms(const float* x, int64_t n, float eps) {
    f32x16 squares[2] = {};
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        const f32x16 a = load(x + i), b = load(x + i + LANES);
        squares[0] += a * a;
        squares[1] += b * b;
    }
    for (; i < n; i += LANES) {
        const f32x16 a = load(x + i, n - i);
        squares[0] += a * a;
    }
    return 1.0f / __builtin_sqrtf(sum(squares[0] + squares[1]) / static_cast<float>(n) + eps);
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

// Calls step(i, how many of sixteen) for all of n.
template <class Step>
inline void in_sixteens(int64_t n, Step step) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) step(i, LANES);
    if (i < n) step(i, n - i);
}

// Quantize one token x (n,), normalised with `gain` and `factor` first if there is a gain. `scratch` holds n floats.
inline void quantize_token(const float* x, int64_t n, const float* gain, float factor, float* scratch, int8_t* codes,
                           float* scale, int32_t* code_sum) {
    // Sizes are compared as integers: that is faster, and NaN counts as the largest, so that it reaches the result.
    i32x16 peak = {};
    if (gain) {
        in_sixteens(n, [&](int64_t i, int64_t some) {
            const f32x16 v = load(x + i, some) * factor * load(gain + i, some);
            store(scratch + i, v, some);
            peak = larger(bits<i32x16>(absolute(v)), peak);
        });
        x = scratch;
    } else {
        in_sixteens(n, [&](int64_t i, int64_t some) { peak = larger(bits<i32x16>(absolute(load(x + i, some))), peak); });
    }
    const float top = bits<float>(largest(peak)), divisor = top + QUANTIZATION_EPS;
    // Multiplying by the reciprocal is faster than dividing and gives the same integer unless the quotient lies close to
    // the middle between two; then, and where the reciprocal is no longer exact enough, it is divided.
    const float reciprocal = 1.0f / divisor;
    const f32x16 close = splat(divisor < 1e30f ? 0.4999f : 0.0f);
    i32x16 total = {};
    in_sixteens(n, [&](int64_t i, int64_t some) {
        const f32x16 scaled = load(x + i, some) * LEVELS;
        f32x16 quotient = scaled * reciprocal;
        if (!all_less(absolute(quotient - nearest(quotient)), close)) quotient = scaled / divisor;
        const i32x16 code = nearest_integer(quotient);
        total += code;
        const i8x16 narrow = in_panel_order(low_bytes(code));
        memcpy(codes + i, &narrow, sizeof narrow);
    });
    *scale = top / LEVELS;
    *code_sum = sum(total);
}

}  // namespace
