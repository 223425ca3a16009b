// The ternary linear layer on a range of tokens: integer tiles, then scales and bias.
#pragma once

#include "matrix_tile.h"

namespace {

constexpr int64_t TILE_WIDTH = TILE_BLOCKS * LANES;

using DotTile = void (*)(const TileInput&, const TileOutput&);

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

// Asks for the weights of the first tiles from `block` on, which tiles do not ask for ahead, while there is other work.
inline void fetch_first(const bitembed_linear& w, int64_t block) {
    constexpr int64_t BYTES = 8192;
    const int64_t bytes_of_block = steps_of(w) * 64;
    const uint8_t* const first = w.panels + block * bytes_of_block;
    const int64_t bytes = least(BYTES, (row_blocks(w) - block) * bytes_of_block);
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(first + byte, 0, 2);
}

// A tile's values where there is no room for all of them: (TILE_TOKENS, TILE_WIDTH), or those of a matrix unit's tiles.
struct TileBuffer {
    float y[most<int64_t>(TILE_TOKENS * TILE_WIDTH, 1024)];
    float bias[most<int64_t>(TILE_WIDTH, 32)];

    // The bias of w from `row` on; of fewer than `width` rows filled up with zeros.
    const float* bias_of(const bitembed_linear& w, int64_t row, int64_t rows, int64_t width) {
        if (!w.bias || rows == width) return w.bias ? w.bias + row : nullptr;
        memcpy(bias, w.bias + row, static_cast<size_t>(rows) * sizeof(float));
        for (int64_t i = rows; i < width; i++) bias[i] = 0.0f;
        return bias;
    }
};

// Memory that will be read when a layer's tiles are done, and is asked for meanwhile.
struct Soon {
    const void* from = nullptr;
    int64_t bytes = 0;
};

template <class Done>
inline void for_dot_tiles(const Codes& x, int64_t count, const bitembed_linear& w, int64_t from, int64_t to, float* direct,
                          int64_t stride, bool past, Soon soon, Done done) {
    TileBuffer buffer;
    TileInput in = {nullptr, x.stride, nullptr, steps_of(w) * 64, steps_of(w), nullptr, nullptr};
    int64_t asked = 0;
    for (int64_t block = from; block < to; block += TILE_BLOCKS) {
        const int64_t blocks = least<int64_t>(TILE_BLOCKS, to - block), row = block * LANES;
        const int64_t rows = least(blocks * LANES, w.out_features - row);
        const bool buffered = !direct || rows < blocks * LANES;
        const float* bias = buffer.bias_of(w, row, rows, blocks * LANES);
        in.panel = w.panels + block * in.block_bytes;
        for (int64_t t = 0; t < count;) {
            // Even tiles: 9 tokens are 5 and 4, not 8 and 1.
            const int64_t tokens = blocks_of(count - t, blocks_of(count - t, TILE_TOKENS));
            in.codes = x.codes + t * x.stride, in.code_sum = x.sum + t;
            in.ahead = in.panel + 2 * blocks * in.block_bytes;  // the rows after the next ones
            if (t > 0 && asked < soon.bytes) {
                in.ahead = static_cast<const uint8_t*>(soon.from) + asked;
                asked += blocks * in.block_bytes;
            }
            float* values = buffered ? buffer.y : direct + t * stride + row;
            const int64_t apart = buffered ? TILE_WIDTH : stride;
            TILES[tokens - 1][blocks - 1](in, {x.scale + t, w.scale, bias, values, apart, past && !buffered});
            done(t, row, tokens, rows, values, apart);
            t += tokens;
        }
    }
}

#if defined(__AMX_INT8__)
template <int R, class Done>
inline void for_matrix_tokens(const Codes& x, int64_t count, TileInput in, float weight_scale, const float* bias, int64_t row,
                              int64_t rows, float* direct, int64_t stride, bool past, MatrixRows& unpacked, float* buffer,
                              Done done) {
    const int64_t at_once = count > MATRIX_TOKENS ? least(in.steps, MOST_STEPS) : least(in.steps, FEW_STEPS);
    alignas(64) int32_t sums[4 * 256];
    if (at_once == in.steps) unpacked.unpack<R>(in, 0, in.steps);
    for (int64_t t = 0; t < count; t += MATRIX_TOKENS) {
        const int64_t tokens = least(MATRIX_TOKENS, count - t);
        in.codes = x.codes + t * x.stride;
        (tokens > 16 ? matrix_sums<2, R> : matrix_sums<1, R>)(in, at_once, unpacked, sums);
        float* values = direct ? direct + t * stride + row : buffer;
        const int64_t apart = direct ? stride : MATRIX_ROWS;
        const auto finish = past && direct ? finish_sums<R, true> : finish_sums<R>;
        finish(sums, x.sum + t, tokens, {x.scale + t, weight_scale, bias, values, apart});
        done(t, row, tokens, rows, values, apart);
    }
}

// A last tile of tokens is computed whole, with whatever follows the codes of `count` tokens.
template <class Done>
inline void for_matrix_tiles(const Codes& x, int64_t count, const bitembed_linear& w, int64_t from, int64_t to,
                             float* direct, int64_t stride, bool past, Done done) {
    TileBuffer buffer;
    MatrixRows unpacked;
    TileInput in = {nullptr, x.stride, nullptr, steps_of(w) * 64, steps_of(w), nullptr, nullptr};
    for (int64_t block = from; block < to; block += 2) {
        const int64_t blocks = least<int64_t>(2, to - block), row = block * LANES;
        const int64_t rows = least(blocks * LANES, w.out_features - row);
        const float* bias = buffer.bias_of(w, row, rows, blocks * LANES);
        float* whole = rows < blocks * LANES ? nullptr : direct;
        in.panel = w.panels + block * in.block_bytes;
        const auto run = blocks == 2 ? for_matrix_tokens<2, Done> : for_matrix_tokens<1, Done>;
        run(x, count, in, w.scale, bias, row, rows, whole, stride, past, unpacked, buffer.y, done);
    }
}
#endif

// Computes every tile of tokens [0, count) and the blocks [from, to) of w and calls done(token, row, tokens, rows, values,
// how far apart the tokens' values lie) for it. `direct` is where the values belong, (count, stride), or NULL when only `done`
// uses them. Tiles that are cut off by the last row go through a buffer. `past`: whole ones may go to memory past the caches;
// `direct` and its rows then begin with lines of these.
template <class Done>
inline void for_tiles(const Codes& x, int64_t count, const bitembed_linear& w, int64_t from, int64_t to, float* direct,
                      int64_t stride, Done done, bool past = false, Soon soon = {}) {
#if defined(__AMX_INT8__)
    if (count >= FEWEST_MATRIX_TOKENS) return for_matrix_tiles(x, count, w, from, to, direct, stride, past, done);
#endif
    for_dot_tiles(x, count, w, from, to, direct, stride, past, soon, done);
}

// y[t * stride + n] for the blocks [from, to) of w; past the caches where it is much more than they hold.
inline void linear(const Codes& x, int64_t count, const bitembed_linear& w, int64_t from, int64_t to, float* y,
                   int64_t stride, bool past = false, Soon soon = {}) {
    for_tiles(x, count, w, from, to, y, stride,
              [&](int64_t t, int64_t row, int64_t tokens, int64_t rows, const float* values, int64_t apart) {
                  if (values == y + t * stride + row) return;
                  for (int64_t i = 0; i < tokens; i++)
                      memcpy(y + (t + i) * stride + row, values + i * apart, static_cast<size_t>(rows) * sizeof(float));
              },
              past, soon);
#if defined(__AVX512VNNI__)
    if (past) _mm_sfence();
#endif
}

inline void linear_bf16(const Codes& x, int64_t count, const bitembed_linear& w, int64_t from, int64_t to, Bfloat16* y,
                        int64_t stride) {
    for_tiles(x, count, w, from, to, nullptr, 0,
              [&](int64_t t, int64_t row, int64_t tokens, int64_t rows, const float* values, int64_t apart) {
                  for (int64_t i = 0; i < tokens; i++)
                      for (int64_t n = 0; n < rows; n += LANES)
                          store(y + (t + i) * stride + row + n, load(values + i * apart + n), rows - n);
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
        for_tiles(x_up, count, up, block, end, nullptr, 0,
                  [&](int64_t t, int64_t row, int64_t tokens, int64_t rows, const float* values, int64_t apart) {
                      for (int64_t i = 0; i < tokens; i++) {
                          float* to = y + (t + i) * stride + row;
                          for (int64_t n = 0; n < rows; n += LANES) {
                              const f32x16 v = load(values + i * apart + n), g = gate.panels ? load(to + n, rows - n) : v;
                              store(to + n, gate.panels ? activated(g, activation) * v : activated(v, activation), rows - n);
                          }
                      }
                  });
    }
}

// Whether two projections of one input take the same codes.
inline bool same_codes(const bitembed_linear& a, const bitembed_linear& b) {
    return a.gain == b.gain && a.norm_eps == b.norm_eps;
}

// Quantizes tokens for several projections w of them; row(t) is token t, two of which must be there at once. Codes that
// neighbours share are made once, and `codes` of the later one are then those of the earlier.
template <class Row>
inline void quantize_inputs(Row row, int64_t count, const bitembed_linear* const* w, int64_t projections, float* scratch,
                            Codes* codes) {
    for (int64_t i = 1; i < projections; i++)
        if (same_codes(*w[i], *w[i - 1])) codes[i] = codes[i - 1];
    for (int64_t t = 0; t < count; t += TOKENS_TOGETHER) {
        const int64_t some = least(TOKENS_TOGETHER, count - t);
        const float* x[TOKENS_TOGETHER];
        float inverse[TOKENS_TOGETHER];
        for (int64_t j = 0; j < some; j++) x[j] = row(t + j);
        for (int64_t i = 0; i < projections; i++) {
            if (i > 0 && codes[i].codes == codes[i - 1].codes) continue;
            if (w[i]->gain && (i == 0 || !w[i - 1]->gain || w[i]->norm_eps != w[i - 1]->norm_eps))
                for (int64_t j = 0; j < some; j++) inverse[j] = inverse_rms(x[j], w[i]->in_features, w[i]->norm_eps);
            quantize_few(x, some, w[i]->in_features, w[i]->gain, inverse, scratch, codes[i].from(t));
        }
    }
}

// The same for one projection of tokens x (count, in).
inline void quantize_input(const float* x, int64_t count, const bitembed_linear& w, float* scratch, Codes codes) {
    const bitembed_linear* only = &w;
    quantize_inputs([&](int64_t t) { return x + t * w.in_features; }, count, &only, 1, scratch, &codes);
}

}  // namespace
