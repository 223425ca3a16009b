// Attention of one text after another, without padding: scores, softmax and sum for a few queries at a time, in float32.
//
// Keys are kept transposed in blocks of sixteen, so that a vector holds one component of sixteen keys. Every query goes
// through the same operations in the same order, whichever queries are computed beside it.
#pragma once

#include "quantize.h"

namespace {

#if defined(__AVX512F__)
constexpr int QUERY_ROWS = 8, KEY_BLOCKS = 2;
#else
constexpr int QUERY_ROWS = 4, KEY_BLOCKS = 1;
#endif
constexpr int64_t QUERIES_OF_AN_ITEM = 32;

// What a head of a text attends to: keys [block][component][16] and values (tokens, stride).
struct HeadMemory {
    const float* keys;
    const float* values;
    int64_t value_stride;
    int64_t width;  // components of a head
};

// Writes key `position` of a head into its block.
inline void put_key(const float* key, int64_t width, int64_t position, float* keys) {
    float* to = keys + position / LANES * width * LANES + position % LANES;
    for (int64_t c = 0; c < width; c++) to[c * LANES] = key[c];
}

template <int R, int B>
inline void score_tile(const float* q, int64_t q_stride, const float* keys, int64_t width, float scale, float* p,
                       int64_t p_stride) {
    f32x16 acc[R][B];
    BITEMBED_UNROLL for (int r = 0; r < R; r++) {
        BITEMBED_UNROLL for (int b = 0; b < B; b++) acc[r][b] = f32x16{};
    }
    for (int64_t c = 0; c < width; c++) {
        f32x16 k[B];
        BITEMBED_UNROLL for (int b = 0; b < B; b++) k[b] = load(keys + (b * width + c) * LANES);
        BITEMBED_UNROLL for (int r = 0; r < R; r++) {
            const f32x16 component = splat(q[r * q_stride + c]);
            BITEMBED_UNROLL for (int b = 0; b < B; b++) acc[r][b] = fused(component, k[b], acc[r][b]);
        }
    }
    BITEMBED_UNROLL for (int r = 0; r < R; r++) {
        BITEMBED_UNROLL for (int b = 0; b < B; b++) store(p + r * p_stride + b * LANES, acc[r][b] * scale);
    }
}

template <int R, int B>
inline void value_tile(const float* p, int64_t p_stride, const float* factor, int64_t keys, const float* values,
                       int64_t value_stride, float* y, int64_t y_stride, int64_t n) {
    f32x16 acc[R][B];
    BITEMBED_UNROLL for (int r = 0; r < R; r++) {
        BITEMBED_UNROLL for (int b = 0; b < B; b++) acc[r][b] = f32x16{};
    }
    for (int64_t j = 0; j < keys; j++) {
        f32x16 v[B];
        BITEMBED_UNROLL for (int b = 0; b < B; b++) v[b] = load(values + j * value_stride + b * LANES, n - b * LANES);
        BITEMBED_UNROLL for (int r = 0; r < R; r++) {
            const f32x16 share = splat(p[r * p_stride + j]);
            BITEMBED_UNROLL for (int b = 0; b < B; b++) acc[r][b] = fused(share, v[b], acc[r][b]);
        }
    }
    BITEMBED_UNROLL for (int r = 0; r < R; r++) {
        BITEMBED_UNROLL for (int b = 0; b < B; b++)
            store(y + r * y_stride + b * LANES, acc[r][b] * factor[r], n - b * LANES);
    }
}

// y (R, width) of the queries first .. first + R - 1 of a text of `length` tokens. `p` holds QUERY_ROWS rows of p_stride
// floats, p_stride at least the length rounded up to a multiple of 16. y may be q.
template <int R>
void attend(const float* q, int64_t q_stride, int64_t first, int64_t length, const HeadMemory& memory, float scale,
            bool causal, int64_t window, float* p, int64_t p_stride, float* y, int64_t y_stride) {
    int64_t end = causal ? first + R : length;
    if (!causal && window) end = least(end, first + R - 1 + window);
    const int64_t from_block = window ? most<int64_t>(0, first - window + 1) / LANES : 0;
    const int64_t to_block = blocks_of(end, LANES), start = from_block * LANES;
    for (int64_t block = from_block; block < to_block;) {
        const float* keys = memory.keys + block * memory.width * LANES;
        float* to = p + (block - from_block) * LANES;
        if (to_block - block >= KEY_BLOCKS) {
            score_tile<R, KEY_BLOCKS>(q, q_stride, keys, memory.width, scale, to, p_stride);
            block += KEY_BLOCKS;
        } else {
            score_tile<R, 1>(q, q_stride, keys, memory.width, scale, to, p_stride);
            block++;
        }
    }
    float factor[R];
    for (int r = 0; r < R; r++) {
        float* row = p + r * p_stride;
        const int64_t query = first + r, valid_end = (causal ? query + 1 : end) - start;
        const int64_t before = window ? query - window + 1 : 0;
        const int64_t after = !causal && window ? query + window - start : valid_end;
        const int64_t valid_from = most<int64_t>(0, before - start), to = least(valid_end, after);
        const int64_t padded = (to_block - from_block) * LANES;
        for (int64_t j = 0; j < valid_from; j++) row[j] = -__builtin_inff();
        for (int64_t j = to; j < padded; j++) row[j] = -__builtin_inff();
        f32x16 peak = load(row);
        for (int64_t j = LANES; j < padded; j += LANES) peak = larger(load(row + j), peak);
        const float top = largest(peak);
        f32x16 total = {};
        for (int64_t j = 0; j < padded; j += LANES) {
            const f32x16 weight = exponential(load(row + j) - top);
            total += weight;
            store(row + j, weight);
        }
        factor[r] = 1.0f / sum(total);
    }
    const float* values = memory.values + start * memory.value_stride;
    for (int64_t c = 0; c < memory.width;) {
        const int64_t n = memory.width - c;
        if (n > LANES * (KEY_BLOCKS - 1)) {
            value_tile<R, KEY_BLOCKS>(p, p_stride, factor, end - start, values + c, memory.value_stride, y + c, y_stride, n);
            c += LANES * KEY_BLOCKS;
        } else {
            value_tile<R, 1>(p, p_stride, factor, end - start, values + c, memory.value_stride, y + c, y_stride, n);
            c += LANES;
        }
    }
}

template <int R>
inline void attend_rest(int64_t rows, const float* q, int64_t q_stride, int64_t first, int64_t length,
                        const HeadMemory& memory, float scale, bool causal, int64_t window, float* p, int64_t p_stride,
                        float* y, int64_t y_stride) {
    if constexpr (R > 0) {
        if (rows == R) return attend<R>(q, q_stride, first, length, memory, scale, causal, window, p, p_stride, y, y_stride);
        attend_rest<R - 1>(rows, q, q_stride, first, length, memory, scale, causal, window, p, p_stride, y, y_stride);
    }
}

// The queries [from, to) of one head of a text.
inline void attend_range(const float* q, int64_t q_stride, int64_t from, int64_t to, int64_t length,
                         const HeadMemory& memory, float scale, bool causal, int64_t window, float* p, int64_t p_stride,
                         float* y, int64_t y_stride) {
    for (int64_t first = from; first < to; first += QUERY_ROWS)
        attend_rest<QUERY_ROWS>(least<int64_t>(QUERY_ROWS, to - first), q + first * q_stride, q_stride, first, length,
                                memory, scale, causal, window, p, p_stride, y + first * y_stride, y_stride);
}

// Norm and rotation of one head (width,) at a position whose cosines and sines are `rotation` (2, width / 2), in place.
inline void rotate_head(float* x, int64_t width, const bitembed_norm& norm, const float* rotation) {
    normalise(x, width, norm, x);
    if (!rotation) return;
    const int64_t half = width / 2;
    for (int64_t c = 0; c < half; c += LANES) {
        const int64_t n = half - c;
        const f32x16 a = load(x + c, n), b = load(x + half + c, n);
        const f32x16 cosine = load(rotation + c, n), sine = load(rotation + half + c, n);
        store(x + c, a * cosine - b * sine, n);
        store(x + half + c, b * cosine + a * sine, n);
    }
}

}  // namespace
