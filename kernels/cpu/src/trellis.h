// Trellis codes: the best code of a vector (Viterbi's algorithm), and the levels that codes stand for. Integers only.
#pragma once

#include <algorithm>

#include "memory.h"
#include "simd.h"
#include "team.h"

namespace {

constexpr int WINDOW_BITS = 8, WINDOWS = 1 << WINDOW_BITS, TOP_LEVEL = 255;
constexpr int32_t FAR = 1 << 29;  // cost of a state that no path has reached

struct TrellisRun {
    int64_t dim;
    int step_bits, step_values;
    const uint8_t* levels;  // (256, step_values)
    int64_t steps, code_bytes;
#if defined(__AVX512VBMI__)
    // For 64 steps at once, of which eight each lie in the last step_bits bytes of a 64-bit lane, the first in the highest bits,
    // and the byte before: where those bytes are among the code's, 64 for that before the first; how far a window is to be
    // shifted down; and the levels value by value.
    alignas(64) uint8_t places[64] = {}, shifts[64] = {}, columns[2][WINDOWS] = {};
#endif

    TrellisRun(int64_t dim_, int32_t step_bits_, int32_t step_values_, const uint8_t* levels_)
        : dim(dim_), step_bits(step_bits_), step_values(step_values_), levels(levels_),
          steps(blocks_of(dim_, step_values_)), code_bytes(blocks_of(steps * step_bits_, 8)) {
#if defined(__AVX512VBMI__)
        for (int i = 0; i < 64; i++) {
            const int lane = i / 8, byte = i % 8, place = (lane + 1) * step_bits - 1 - byte;
            places[i] = static_cast<uint8_t>(place < 0 ? 64 : place);
            shifts[i] = static_cast<uint8_t>((7 - byte) * step_bits);
        }
        for (int w = 0; w < WINDOWS; w++)
            for (int v = 0; v < least(2, step_values); v++) columns[v][w] = levels[w * step_values + v];
#endif
    }

    // One vector. `values` (step_values, 256) are 2 z - 255; `chosen` holds the first bits of the best window into each state
    // after each step (steps, states).
    void encode(const int16_t* targets, const int32_t* values, uint8_t* chosen, uint8_t* code) const {
        const int states = WINDOWS >> step_bits, branches = 1 << step_bits;
        int32_t cost[WINDOWS], reached[WINDOWS];
        for (int s = 0; s < states; s++) cost[s] = s ? FAR : 0;
        for (int64_t t = 0; t < steps; t++) {
            for (int s = 0; s < states; s++)
                for (int b = 0; b < branches; b++) reached[s * branches + b] = cost[s];
            for (int v = 0; v < step_values; v++) {
                const int64_t place = t * step_values + v;
                const int32_t target = place < dim ? targets[place] : 0;
                const int32_t* level = values + v * WINDOWS;
                for (int w = 0; w < WINDOWS; w++) reached[w] += (target - level[w]) * (target - level[w]);
            }
            uint8_t* first_bits = chosen + t * states;
            for (int s = 0; s < states; s++) cost[s] = reached[s], first_bits[s] = 0;
            for (int j = 1; j < branches; j++)
                for (int s = 0; s < states; s++) {
                    const bool better = reached[j * states + s] < cost[s];
                    cost[s] = better ? reached[j * states + s] : cost[s];
                    first_bits[s] = better ? static_cast<uint8_t>(j) : first_bits[s];
                }
            int32_t least_cost = cost[0];
            for (int s = 1; s < states; s++) least_cost = cost[s] < least_cost ? cost[s] : least_cost;
            for (int s = 0; s < states; s++) cost[s] -= least_cost;
        }
        int state = 0;
        while (cost[state]) state++;
        memset(code, 0, static_cast<size_t>(code_bytes));
        for (int64_t t = steps - 1; t >= 0; t--) {
            const int window = chosen[t * states + state] * states + state;
            for (int b = 0; b < step_bits; b++) {
                const int64_t place = t * step_bits + b;
                const int bit = window >> (step_bits - 1 - b) & 1;
                code[place / 8] = static_cast<uint8_t>(code[place / 8] | bit << (7 - place % 8));
            }
            state = window >> step_bits;
        }
    }

    void expand(const uint8_t* code, uint8_t* out) const {
        if (step_values == 1) return expand_steps<1>(code, out);
        if (step_values == 2) return expand_steps<2>(code, out);
        expand_steps<0>(code, out);
    }

private:
    // VALUES of a step, 0 where that is known when it runs only. Eight steps begin and end with whole bytes.
    template <int VALUES>
    void expand_steps(const uint8_t* code, uint8_t* out) const {
        const int values = VALUES ? VALUES : step_values;
        const int64_t together = expand_together<VALUES>(code, out), done = 8 * together * values;
        uint64_t bits = together ? code[together * step_bits - 1] : 0;
        code += together * step_bits, out += done;
        const int64_t whole = (dim - done) / (8 * values), rest_bytes = code_bytes - (together + whole) * step_bits;
        for (int64_t eight = 0; eight < whole; eight++, code += step_bits, out += 8 * values) {
            for (int b = 0; b < step_bits; b++) bits = bits << 8 | code[b];
            for (int j = 0; j < 8; j++) take<VALUES>(bits >> (7 - j) * step_bits & (WINDOWS - 1), values, out + j * values);
        }
        const int64_t left = dim - done - whole * 8 * values;
        for (int b = 0; b < step_bits; b++) bits = bits << 8 | (b < rest_bytes ? code[b] : 0);
        for (int64_t j = 0; j * values < left; j++)
            take<0>(bits >> (7 - j) * step_bits & (WINDOWS - 1), static_cast<int>(least<int64_t>(values, left - j * values)),
                    out + j * values);
    }

    // The first eights of steps, 64 steps at a time; returns how many eights.
    template <int VALUES>
    int64_t expand_together([[maybe_unused]] const uint8_t* code, [[maybe_unused]] uint8_t* out) const {
        int64_t eights = 0;
#if defined(__AVX512VBMI__)
        if constexpr (VALUES > 0) {
            const __m512i place = _mm512_load_si512(places), shift = _mm512_load_si512(shifts);
            const __mmask64 bytes = (uint64_t{1} << 8 * step_bits) - 1;
            uint8_t before = 0;
            for (; (eights + 8) * 8 * VALUES <= dim; eights += 8, code += 8 * step_bits, out += 64 * VALUES) {
                const __m512i some = _mm512_maskz_loadu_epi8(bytes, code);
                const __m512i lanes = _mm512_permutex2var_epi8(some, place, _mm512_set1_epi8(static_cast<char>(before)));
                const __m512i window = _mm512_multishift_epi64_epi8(shift, lanes);
                before = code[8 * step_bits - 1];
                const __m512i first = look_up(columns[0], window);
                if constexpr (VALUES == 1) {
                    _mm512_storeu_si512(out, first);
                } else {
                    const __m512i second = look_up(columns[1], window);
                    const __m512i low = _mm512_unpacklo_epi8(first, second), high = _mm512_unpackhi_epi8(first, second);
                    const __m512i from_0 = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
                    const __m512i from_64 = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
                    _mm512_storeu_si512(out, _mm512_permutex2var_epi64(low, from_0, high));
                    _mm512_storeu_si512(out + 64, _mm512_permutex2var_epi64(low, from_64, high));
                }
            }
        }
#endif
        return eights;
    }

#if defined(__AVX512VBMI__)
    static __m512i look_up(const uint8_t* column, __m512i window) {
        const __m512i below = _mm512_permutex2var_epi8(_mm512_load_si512(column), window, _mm512_load_si512(column + 64));
        const __m512i above = _mm512_permutex2var_epi8(_mm512_load_si512(column + 128), window, _mm512_load_si512(column + 192));
        return _mm512_mask_mov_epi8(below, _mm512_movepi8_mask(window), above);
    }
#endif

    template <int VALUES>
    void take(uint64_t window, int values, uint8_t* out) const {
        const uint8_t* level = levels + window * static_cast<uint64_t>(step_values);
        memcpy(out, level, static_cast<size_t>(VALUES ? VALUES : values));
    }
};

constexpr int64_t VECTORS_OF_AN_ITEM = 64;

// Codes (n, code_bytes) of targets (n, dim). Returns -1 without memory.
inline int encode_trellis(const int16_t* targets, int64_t n, const TrellisRun& run, uint8_t* codes, int threads) {
    const int64_t chosen_bytes = aligned(run.steps * (WINDOWS >> run.step_bits));
    Arena arena;
    arena.take<char>(threads * chosen_bytes);
    arena.take<int32_t>(run.step_values * WINDOWS);
    if (!arena.allocate()) return -1;
    char* chosen = arena.take<char>(threads * chosen_bytes);
    int32_t* values = arena.take<int32_t>(run.step_values * WINDOWS);
    for (int w = 0; w < WINDOWS; w++)
        for (int v = 0; v < run.step_values; v++) values[v * WINDOWS + w] = 2 * run.levels[w * run.step_values + v] - TOP_LEVEL;
    auto work = [&](bitembed::Team& team, int thread) {
        for (int64_t item; (item = team.next(0, thread, blocks_of(n, VECTORS_OF_AN_ITEM))) >= 0;)
            for (int64_t i = item * VECTORS_OF_AN_ITEM; i < least(n, (item + 1) * VECTORS_OF_AN_ITEM); i++)
                run.encode(targets + i * run.dim, values, reinterpret_cast<uint8_t*>(chosen + thread * chosen_bytes),
                           codes + i * run.code_bytes);
    };
    bitembed::run_team(threads, 1, work);
    return 0;
}

// Levels (n, dim) of codes (n, code_bytes).
inline void expand_trellis(const uint8_t* codes, int64_t n, const TrellisRun& run, uint8_t* out, int threads) {
    auto work = [&](bitembed::Team& team, int thread) {
        for (int64_t item; (item = team.next(0, thread, blocks_of(n, VECTORS_OF_AN_ITEM))) >= 0;)
            for (int64_t i = item * VECTORS_OF_AN_ITEM; i < least(n, (item + 1) * VECTORS_OF_AN_ITEM); i++)
                run.expand(codes + i * run.code_bytes, out + i * run.dim);
    };
    bitembed::run_team(threads, 1, work);
}

// Levels (n, first + second) of graded codes: a code of two bits a value, one of one bit, and a byte that chooses what the
// levels z of both are multiplied with, in 256ths, as 2 z - 255. Each part is stored from its last component to its first.
inline void expand_graded(const uint8_t* codes, int64_t n, const TrellisRun& first, const TrellisRun& second,
                          const int32_t* factors, uint8_t* out, int threads) {
    const int64_t bytes = first.code_bytes + second.code_bytes + 1, dim = first.dim + second.dim;
    auto scaled = [](const TrellisRun& run, const uint8_t* code, int32_t factor, uint8_t* to) {
        run.expand(code, to);
        std::reverse(to, to + run.dim);
        for (int64_t i = 0; i < run.dim; i++) to[i] = static_cast<uint8_t>((factor * (2 * to[i] - TOP_LEVEL) + 65536) >> 9);
    };
    auto work = [&](bitembed::Team& team, int thread) {
        for (int64_t item; (item = team.next(0, thread, blocks_of(n, VECTORS_OF_AN_ITEM))) >= 0;)
            for (int64_t i = item * VECTORS_OF_AN_ITEM; i < least(n, (item + 1) * VECTORS_OF_AN_ITEM); i++) {
                const uint8_t* code = codes + i * bytes;
                const int32_t* factor = factors + 2 * code[bytes - 1];
                scaled(first, code, factor[0], out + i * dim);
                scaled(second, code + first.code_bytes, factor[1], out + i * dim + first.dim);
            }
    };
    bitembed::run_team(threads, 1, work);
}

}  // namespace
