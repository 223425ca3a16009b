// The inner product on a matrix unit (AMX): sixteen tokens meet sixteen ternary rows, 64 weights of each in one instruction.
//
// The weights of a panel, taken apart field by field, already lie as the unit reads them: four of a row in each 32-bit lane,
// and the codes of a token in the same order. Sums are exact, as those of every other tile.
#pragma once

#include "dot_tile.h"

namespace {

#if defined(__AMX_INT8__)

// Two tiles of tokens meet two of rows, so that each tile that is loaded is used twice.
constexpr int64_t MATRIX_TOKENS = 32, MATRIX_ROWS = 32;
constexpr int64_t TILE_BYTES = 1024;  // 16 rows of 64
constexpr int64_t MOST_STEPS = 256;   // of 16 weights, that are unpacked for all tokens: 64 KiB of 16 rows
constexpr int64_t FEW_STEPS = 32;     // as long as there are no more than MATRIX_TOKENS: 8 KiB, which stay close
constexpr int64_t FEWEST_MATRIX_TOKENS = 4;

// Compilers do not see that tiles are loaded from memory, and stored to it.
inline void memory_is_read(const void* memory) { asm volatile("" ::"r"(memory) : "memory"); }

// The state of the unit, which belongs to a thread: all eight tiles of sixteen rows of 64 bytes, as long as this lives.
class MatrixUnit {
public:
    MatrixUnit() {
        alignas(64) Configuration all = {};
        all.palette = 1;
        for (int i = 0; i < 8; i++) all.bytes[i] = 64, all.rows[i] = 16;
        memory_is_read(&all);
        _tile_loadconfig(&all);
    }
    ~MatrixUnit() { _tile_release(); }
    MatrixUnit(const MatrixUnit&) = delete;
    MatrixUnit& operator=(const MatrixUnit&) = delete;

private:
    struct Configuration {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    };
};

// The fields 0, 1 and 2 of `steps` times 16 weights of 16 rows, filled up with zeros to whole tiles.
inline void unpack_rows(const uint8_t* panel, int64_t steps, uint8_t* weights) {
    const __m512i field_mask = _mm512_set1_epi8(3);
    for (int64_t step = 0; step < steps; step++) {
        const __m512i packed = _mm512_loadu_si512(panel + 64 * step);
        BITEMBED_UNROLL for (int f = 0; f < 4; f++) {
            const __m512i field = _mm512_and_si512(f ? _mm512_srli_epi32(packed, 2 * f) : packed, field_mask);
            _mm512_store_si512(weights + (4 * step + f) * 64, field);
        }
    }
    for (int64_t step = steps; step % 4; step++) memset(weights + 256 * step, 0, 256);
}

// Adds the products of T tiles of tokens and R tiles of unpacked rows, which lie `apart` bytes apart, to the tiles of sums 0
// (tokens 0, rows 0), 1 (tokens 1, rows 0), 2 (tokens 0, rows 1) and 3.
template <int T, int R>
inline void add_products(const int8_t* codes, int64_t stride, const uint8_t* weights, int64_t apart, int64_t depths) {
    for (int64_t k = 0; k < depths; k++, codes += 64, weights += TILE_BYTES) {
        _tile_loadd(6, weights, 64);
        _tile_loadd(4, codes, stride);
        _tile_dpbsud(0, 4, 6);
        if constexpr (T > 1) {
            _tile_loadd(5, codes + 16 * stride, stride);
            _tile_dpbsud(1, 5, 6);
        }
        if constexpr (R > 1) {
            _tile_loadd(7, weights + apart, 64);
            _tile_dpbsud(2, 4, 7);
        }
        if constexpr (T > 1 && R > 1) _tile_dpbsud(3, 5, 7);
    }
}

// Unpacked rows of up to two blocks of a panel, for as many steps as there is room.
struct MatrixRows {
    alignas(64) uint8_t weights[2][MOST_STEPS * 256];

    template <int R>
    void unpack(const TileInput& in, int64_t from, int64_t steps) {
        unpack_rows(in.panel + 64 * from, steps, weights[0]);
        if (R > 1) unpack_rows(in.panel + in.block_bytes + 64 * from, steps, weights[1]);
    }
};

// Sums of (w + 1) a for T tiles of tokens and R blocks of a panel, in the order of `add_products`. Where rows are unpacked
// `at_once` steps at a time, they are unpacked here; otherwise they are there.
template <int T, int R>
inline void matrix_sums(const TileInput& in, int64_t at_once, MatrixRows& rows, int32_t* sums) {
    _tile_zero(0);
    if constexpr (T > 1) _tile_zero(1);
    if constexpr (R > 1) _tile_zero(2);
    if constexpr (T > 1 && R > 1) _tile_zero(3);
    for (int64_t step = 0; step < in.steps; step += at_once) {
        const int64_t steps = least(at_once, in.steps - step);
        if (at_once < in.steps) rows.unpack<R>(in, step, steps);
        memory_is_read(&rows);
        add_products<T, R>(in.codes + LANES * step, in.stride, rows.weights[0], sizeof rows.weights[0], blocks_of(steps, 4));
    }
    _tile_stored(0, sums, 64);
    if constexpr (T > 1) _tile_stored(1, sums + 256, 64);
    if constexpr (R > 1) _tile_stored(2, sums + 512, 64);
    if constexpr (T > 1 && R > 1) _tile_stored(3, sums + 768, 64);
    memory_is_read(sums);
}

// y of the first `tokens` of those sums, from each of which the sum of its codes is taken. PAST: to memory, not by way of the
// caches, for whole lines of it.
template <int R, bool PAST = false>
inline void finish_sums(const int32_t* sums, const int32_t* code_sum, int64_t tokens, const TileOutput& to) {
    f32x16 bias[R] = {};
    BITEMBED_UNROLL for (int r = 0; r < R; r++) if (to.bias) bias[r] = load(to.bias + r * LANES);
    for (int64_t t = 0; t < tokens; t++) {
        const float scale = to.scale[t] * to.weight_scale;
        BITEMBED_UNROLL for (int r = 0; r < R; r++) {
            i32x16 whole;
            memcpy(&whole, sums + (r * MATRIX_TOKENS + t) * LANES, sizeof whole);
            const f32x16 y = to_float(whole - code_sum[t]) * scale;
            const f32x16 biased = to.bias ? y + bias[r] : y;
            if constexpr (PAST) {
                _mm512_stream_ps(to.y + t * to.stride + r * LANES, reinterpret_cast<__m512>(biased));
            } else {
                store(to.y + t * to.stride + r * LANES, biased);
            }
        }
    }
}

#else

struct MatrixUnit {
    MatrixUnit() {}  // there is none
};

#endif

}  // namespace
