// Rows of embedding tables, and the pooled vector of a text.
#pragma once

#include "quantize.h"

namespace {

// Adds row `id` to y (dimension,), or writes it.
inline void look_up(const bitembed_table& table, int64_t id, float* y, bool add) {
    const int64_t n = table.dimension;
    const int64_t groups = table.scales ? blocks_of(n, table.group) : 0;
    const uint16_t* scales = table.scales + id * groups;
    for (int64_t i = 0; i < n; i++) {
        float value;
        if (table.precision == BITEMBED_FLOAT32) {
            value = static_cast<const float*>(table.rows)[id * n + i];
        } else if (table.precision == BITEMBED_FLOAT16) {
            value = float_of_half(static_cast<const uint16_t*>(table.rows)[id * n + i]);
        } else if (table.precision == BITEMBED_INT8) {
            value = static_cast<const int8_t*>(table.rows)[id * n + i] * float_of_half(scales[i / table.group]);
        } else {
            const uint8_t two = static_cast<const uint8_t*>(table.rows)[id * ((n + 1) / 2) + i / 2];
            value = static_cast<float>((i % 2 ? two >> 4 : two & 15) - 8) * float_of_half(scales[i / table.group]);
        }
        y[i] = (add ? y[i] : 0.0f) + value * table.multiplier;
    }
}

// The L2-normalised pooled vector y (features,) of a text's states (length, features), each normalised first; `row` holds
// features floats.
inline void pool_text(const float* states, int64_t length, int64_t features, const bitembed_norm& norm, int32_t pooling,
                      float* row, float* y) {
    if (pooling == BITEMBED_MEAN) {
        for (int64_t i = 0; i < features; i++) y[i] = 0.0f;
        for (int64_t t = 0; t < length; t++) {
            normalise(states + t * features, features, norm, row);
            for (int64_t i = 0; i < features; i++) y[i] += row[i];
        }
        for (int64_t i = 0; i < features; i++) y[i] /= static_cast<float>(length);
    } else {
        normalise(states + (pooling == BITEMBED_LAST ? length - 1 : 0) * features, features, norm, y);
    }
    f32x16 squares = {};
    for (int64_t i = 0; i < features; i += LANES) {
        const f32x16 v = load(y + i, features - i);
        squares += v * v;
    }
    const float length_2 = __builtin_sqrtf(sum(squares));
    const float divisor = length_2 < 1e-12f ? 1e-12f : length_2;
    for (int64_t i = 0; i < features; i++) y[i] /= divisor;
}

}  // namespace
