// Sixteen floats at a time: one source for every instruction set.
//
// Reductions have one fixed order, and a product and a sum are rounded once or twice as the source says, so every instruction
// set gives the same bits (those of `bitembed_core/ops/encoder/reference.py`).
#pragma once

#include "wide.h"

namespace {

constexpr int64_t LANES = 16;

template <class T>
constexpr T least(T a, T b) {
    return b < a ? b : a;
}
template <class T>
constexpr T most(T a, T b) {
    return a < b ? b : a;
}
BITEMBED_INLINE int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

BITEMBED_INLINE f32x16 splat(float value) { return value - f32x16{}; }
BITEMBED_INLINE i32x16 splat(int32_t value) { return value - i32x16{}; }

BITEMBED_INLINE f32x16 load(const float* from) {
    f32x16 v;
    memcpy(&v, from, sizeof v);
    return v;
}
BITEMBED_INLINE void store(float* to, f32x16 v) { memcpy(to, &v, sizeof v); }

// The first n of sixteen (n may be more); what is beyond is 0, and is not written.
BITEMBED_INLINE f32x16 load(const float* from, int64_t n) {
    if (n >= LANES) return load(from);
    f32x16 v = {};
    if (n > 0) memcpy(&v, from, static_cast<size_t>(n) * sizeof(float));
    return v;
}
BITEMBED_INLINE void store(float* to, f32x16 v, int64_t n) {
    if (n >= LANES) return store(to, v);
    if (n > 0) memcpy(to, &v, static_cast<size_t>(n) * sizeof(float));
}

template <class To, class From>
BITEMBED_INLINE To bits(From v) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &v, sizeof to);
    return to;
}

BITEMBED_INLINE f32x16 to_float(i32x16 v) { return converted<f32x16>(v); }

BITEMBED_INLINE f32x16 absolute(f32x16 v) { return bits<f32x16>(bits<i32x16>(v) & 0x7fffffff); }

#if !defined(__AVX512F__)
#if defined(__FMA__)
BITEMBED_INLINE f32x8 fused_halves(f32x8 a, f32x8 b, f32x8 c) { return _mm256_fmadd_ps(a, b, c); }
#elif defined(__aarch64__)
BITEMBED_INLINE f32x4 fused_halves(f32x4 a, f32x4 b, f32x4 c) { return vfmaq_f32(c, a, b); }
#else
BITEMBED_INLINE f32x4 fused_halves(f32x4 a, f32x4 b, f32x4 c) {
    // As doubles, the product is exact, and a sum that is rounded to odd leaves the rounding to float as it should be.
    for (int i = 0; i < 4; i++) {
        const double product = static_cast<double>(a[i]) * b[i], addend = c[i], sum = product + addend;
        const double shown = sum - addend, rest = (addend - (sum - shown)) + (product - shown);  // sum + rest is exact
        uint64_t odd = bits<uint64_t>(sum);
        if ((rest < 0 || rest > 0) && odd % 2 == 0) odd += (rest > 0) == (sum > 0) ? 1 : -1;
        c[i] = static_cast<float>(bits<double>(odd));
    }
    return c;
}
#endif
template <class H>
BITEMBED_INLINE Pair<H> fused_halves(const Pair<H>& a, const Pair<H>& b, const Pair<H>& c) {
    return {fused_halves(a.lo, b.lo, c.lo), fused_halves(a.hi, b.hi, c.hi)};
}
#endif

// a b + c, rounded once.
BITEMBED_INLINE f32x16 fused(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    return bits<f32x16>(_mm512_fmadd_ps(bits<__m512>(a), bits<__m512>(b), bits<__m512>(c)));
#else
    return fused_halves(a, b, c);
#endif
}
BITEMBED_INLINE f32x16 fused(f32x16 a, f32x16 b, float c) { return fused(a, b, splat(c)); }

BITEMBED_INLINE float sum(f32x16 v) {
    const f32x4 four = folded(v, [](const auto& a, const auto& b) { return a + b; });
    return (four[0] + four[2]) + (four[1] + four[3]);
}
BITEMBED_INLINE int32_t sum(i32x16 v) {
    const i32x4 four = folded(v, [](const auto& a, const auto& b) { return a + b; });
    return (four[0] + four[2]) + (four[1] + four[3]);
}
BITEMBED_INLINE int32_t largest(i32x16 v) {
    const i32x4 four = folded(v, [](const auto& a, const auto& b) { return larger(a, b); });
    return most(most(four[0], four[2]), most(four[1], four[3]));
}
BITEMBED_INLINE float largest(f32x16 v) {
    const f32x4 four = folded(v, [](const auto& a, const auto& b) { return larger(a, b); });
    return most(most(four[0], four[2]), most(four[1], four[3]));
}

// The low bytes of sixteen integers.
BITEMBED_INLINE i8x16 low_bytes(i32x16 v) {
#if defined(__AVX512F__)
    return bits<i8x16>(_mm512_cvtepi32_epi8(bits<__m512i>(v)));
#elif defined(__AVX2__)
    __m256i half[2];
    memcpy(half, &v, sizeof half);
    // Saturation does not matter: what is narrowed fits.
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(half[0], half[1]), 0xd8);
    return bits<i8x16>(_mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
#elif defined(__aarch64__)
    int32x4_t part[4];
    memcpy(part, &v, sizeof part);
    const int16x8_t low = vcombine_s16(vmovn_s32(part[0]), vmovn_s32(part[1]));
    const int16x8_t high = vcombine_s16(vmovn_s32(part[2]), vmovn_s32(part[3]));
    return bits<i8x16>(vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
#else
    i8x16 y;
    for (int i = 0; i < LANES; i++) y[i] = static_cast<int8_t>(v[i] & 0xff);
    return y;
#endif
}

// Whether a < b in all lanes; a NaN is not less.
BITEMBED_INLINE bool all_less(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(bits<__m512>(a), bits<__m512>(b), _CMP_LT_OQ) == 0xffff;
#else
    const i32x4 four = folded(a < b, [](const auto& x, const auto& y) { return x & y; });
    return ((four[0] & four[2]) & (four[1] & four[3])) != 0;
#endif
}

// 1.5 * 2^23: adding it leaves the nearest integer (ties to even) in the low bits, for |v| < 2^22.
constexpr float ROUNDER = 12582912.0f;
BITEMBED_INLINE f32x16 nearest(f32x16 v) {
    f32x16 shifted = v + ROUNDER;
    return shifted - ROUNDER;
}
BITEMBED_INLINE i32x16 nearest_integer(f32x16 v) {
    return bits<i32x16>(bits<u32x16>(v + ROUNDER) - bits<uint32_t>(ROUNDER));
}

// Coefficients are minimax fits of our own; the errors were measured against double precision.

// e^v, relative error below 3e-7; 0 below -87, NaN for NaN.
BITEMBED_INLINE f32x16 exponential(f32x16 v) {
    f32x16 x = select(v < splat(-87.0f), splat(-87.0f), v);
    x = select(x > splat(88.0f), splat(88.0f), x);
    const f32x16 power = nearest(x * 1.44269504f);
    const f32x16 t = fused(power, splat(2.12194440e-4f), fused(power, splat(-0.693359375f), x)) * 1.44269504f;
    f32x16 y = splat(1.5478018e-4f);
    y = fused(y, t, 1.3400431e-3f);
    y = fused(y, t, 9.617995e-3f);
    y = fused(y, t, 5.550327e-2f);
    y = fused(y, t, 0.24022652f);
    y = fused(y, t, 0.6931472f);
    y = fused(y, t, 1.0f);
    y = bits<f32x16>(bits<u32x16>(y) + (bits<u32x16>(nearest_integer(power)) << 23));
    y = select(v < splat(-87.0f), f32x16{}, y);
    return select(v == v, y, v);
}

// erf(v), absolute error below 3e-7.
BITEMBED_INLINE f32x16 error_function(f32x16 v) {
    const f32x16 a = select(absolute(v) > splat(4.0f), splat(4.0f), absolute(v));
    const f32x16 s = a * a;
    f32x16 small = splat(7.889119e-05f);
    small = fused(small, s, -8.020841e-4f);
    small = fused(small, s, 5.189535e-3f);
    small = fused(small, s, -2.6854444e-2f);
    small = fused(small, s, 0.112836f);
    small = fused(small, s, -0.37612626f);
    small = fused(small, s, 1.1283791f) * a;
    f32x16 large = splat(2.5153406e-7f);  // log(1 - erf)
    large = fused(large, a, -2.5317533e-5f);
    large = fused(large, a, 4.6380327e-4f);
    large = fused(large, a, -4.28243e-3f);
    large = fused(large, a, 2.5373645e-2f);
    large = fused(large, a, -0.108639106f);
    large = fused(large, a, -0.63303953f);
    large = fused(large, a, -1.1296612f);
    large = 1.0f - exponential(fused(large, a, 2.0436493e-4f));
    const f32x16 y = select(a < splat(1.0f), small, large);
    return bits<f32x16>(bits<u32x16>(y) | (bits<u32x16>(v) & 0x80000000u));
}

BITEMBED_INLINE float float_of_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t rest = static_cast<uint32_t>(half & 0x7fff) << 13;
    // As a float32 the number is 2^112 too small, subnormal ones included; infinities and NaN keep their exponent.
    const float value = bits<float>(rest) * 5.192296858534828e33f;
    return bits<float>(sign | ((half & 0x7c00) == 0x7c00 ? (rest | 0x7f800000u) : bits<uint32_t>(value)));
}

struct Bfloat16 {
    uint16_t half;
};

BITEMBED_INLINE f32x16 load(const Bfloat16* from, int64_t n) {
    uint16_t some[LANES] = {};
    if (n < LANES) memcpy(some, from, static_cast<size_t>(n) * sizeof(uint16_t));
    return bits<f32x16>(Halfwords<u32x16>::load(n < LANES ? some : &from->half) << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN.
BITEMBED_INLINE void store(Bfloat16* to, f32x16 v, int64_t n) {
    const u32x16 u = bits<u32x16>(v);
    const u32x16 rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    const u32x16 halves = select(v == v, rounded, (u >> 16) | 0x40);
    uint16_t some[LANES];
    Halfwords<u32x16>::store(n < LANES ? some : &to->half, halves);
    if (n < LANES) memcpy(to, some, static_cast<size_t>(n) * sizeof(uint16_t));
}

}  // namespace
