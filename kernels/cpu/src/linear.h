// The ternary linear layer on a range of tokens: integer tiles, then scales and bias.
#pragma once

#include "dot_tile.h"

namespace {

constexpr int64_t TILE_SUMS = TILE_TOKENS * TILE_BLOCKS * LANES;

using DotTile = void (*)(const int8_t*, int64_t, const uint8_t*, int64_t, int64_t, const int32_t*, int32_t*);

template <int T, int B>
constexpr DotTile tile_or_null() {
    if constexpr (T <= TILE_TOKENS && B <= TILE_BLOCKS) return dot_tile<T, B>;
    return nullptr;
}
template <int T>
struct TilesOf {
    static constexpr DotTile by_blocks[3] = {tile_or_null<T, 1>(), tile_or_null<T, 2>(), tile_or_null<T, 3>()};
};
constexpr const DotTile* TILES[8] = {TilesOf<1>::by_blocks, TilesOf<2>::by_blocks, TilesOf<3>::by_blocks,
                                     TilesOf<4>::by_blocks, TilesOf<5>::by_blocks, TilesOf<6>::by_blocks,
                                     TilesOf<7>::by_blocks, TilesOf<8>::by_blocks};
static_assert(TILE_TOKENS <= 8 && TILE_BLOCKS <= 3);

inline int64_t row_blocks(const bitembed_linear& w) { return blocks_of(w.out_features, LANES); }
inline int64_t steps_of(const bitembed_linear& w) { return blocks_of(w.in_features, LANES); }

// Calls done(token, row, scale, sums of the token, how many of 16 rows, blocks) for all tiles of tokens [0, count) and
// the blocks [from, to) of w.
template <class Done>
inline void for_tiles(const Codes& x, int64_t count, const bitembed_linear& w, int64_t from, int64_t to, Done done) {
    const int64_t steps = steps_of(w), block_bytes = steps * 64;
    int32_t sums[TILE_SUMS];
    for (int64_t block = from; block < to; block += TILE_BLOCKS) {
        const int64_t blocks = least<int64_t>(TILE_BLOCKS, to - block);
        const uint8_t* panel = w.panels + block * block_bytes;
        for (int64_t t = 0; t < count;) {
            // Even tiles: 9 tokens are 5 and 4, not 8 and 1.
            const int64_t tokens = blocks_of(count - t, blocks_of(count - t, TILE_TOKENS));
            TILES[tokens - 1][blocks - 1](x.codes + t * x.stride, x.stride, panel, block_bytes, steps, x.sum + t, sums);
            for (int64_t i = 0; i < tokens; i++)
                done(t + i, block * LANES, x.scale[t + i] * w.scale, sums + i * blocks * LANES, blocks);
            t += tokens;
        }
    }
}

inline f32x16 scaled(const int32_t* sums, float scale, const float* bias, int64_t n) {
    i32x16 integer;
    memcpy(&integer, sums, sizeof integer);
    const f32x16 y = to_float(integer) * scale;
    return bias ? y + load(bias, n) : y;
}

// y[t * stride + n] for the blocks [from, to) of w.
inline void linear(const Codes& x, int64_t count, const bitembed_linear& w, int64_t from, int64_t to, float* y,
                   int64_t stride) {
    for_tiles(x, count, w, from, to, [&](int64_t t, int64_t row, float scale, const int32_t* sums, int64_t blocks) {
        for (int64_t b = 0; b < blocks; b++, row += LANES) {
            const int64_t n = w.out_features - row;
            store(y + t * stride + row, scaled(sums + b * LANES, scale, w.bias ? w.bias + row : nullptr, n), n);
        }
    });
}

inline void linear_bf16(const Codes& x, int64_t count, const bitembed_linear& w, int64_t from, int64_t to, uint16_t* y,
                        int64_t stride) {
    for_tiles(x, count, w, from, to, [&](int64_t t, int64_t row, float scale, const int32_t* sums, int64_t blocks) {
        for (int64_t b = 0; b < blocks; b++, row += LANES) {
            const int64_t n = least(LANES, w.out_features - row);
            const f32x16 v = scaled(sums + b * LANES, scale, w.bias ? w.bias + row : nullptr, n);
            for (int64_t i = 0; i < n; i++) y[t * stride + row + i] = bfloat16_of(v[i]);
        }
    });
}

inline f32x16 activated(f32x16 v, int32_t activation) {
    if (activation == BITEMBED_SILU) return v / (1.0f + exponential(-v));
    if (activation == BITEMBED_GELU_ERF) return 0.5f * v * (1.0f + error_function(v * 0.70710678f));
    return v / (1.0f + exponential(-1.5957691f * (v + 0.044715f * v * v * v)));  // GELU's tanh form
}

// y = activation(gate) * up, tile after tile, so that neither is ever stored whole; without gate, activation(up).
inline void gated(const Codes& x_gate, const Codes& x_up, int64_t count, const bitembed_linear& gate,
                  const bitembed_linear& up, int32_t activation, float* y, int64_t stride) {
    for (int64_t block = 0; block < row_blocks(up); block += TILE_BLOCKS) {
        const int64_t end = least<int64_t>(block + TILE_BLOCKS, row_blocks(up));
        if (gate.panels) linear(x_gate, count, gate, block, end, y, stride);
        for_tiles(x_up, count, up, block, end, [&](int64_t t, int64_t row, float scale, const int32_t* sums, int64_t blocks) {
            for (int64_t b = 0; b < blocks; b++, row += LANES) {
                const int64_t n = up.out_features - row;
                float* to = y + t * stride + row;
                const f32x16 v = scaled(sums + b * LANES, scale, up.bias ? up.bias + row : nullptr, n);
                store(to, gate.panels ? activated(load(to, n), activation) * v : activated(v, activation), n);
            }
        });
    }
}

// Codes of tokens x (count, in): the input of w, normalised with w's gain; `inverse` (count,) are the inverse RMS of x.
inline void quantize_tokens(const float* x, int64_t count, int64_t x_stride, const bitembed_linear& w,
                            const float* inverse, float* scratch, const Codes& to) {
    for (int64_t t = 0; t < count; t++)
        quantize_token(x + t * x_stride, w.in_features, w.gain, inverse ? inverse[t] : 1.0f, scratch,
                       to.codes + t * to.stride, to.scale + t, to.sum + t);
}

// Whether two projections of one input need different codes.
inline bool same_codes(const bitembed_linear& a, const bitembed_linear& b) {
    return a.gain == b.gain && a.norm_eps == b.norm_eps;
}

}  // namespace
