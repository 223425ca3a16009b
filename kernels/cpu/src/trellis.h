// Trellis codes: the best code of a vector (Viterbi's algorithm), and the levels that codes stand for. Integers only.
#pragma once

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

    TrellisRun(int64_t dim_, int32_t step_bits_, int32_t step_values_, const uint8_t* levels_)
        : dim(dim_), step_bits(step_bits_), step_values(step_values_), levels(levels_),
          steps(blocks_of(dim_, step_values_)), code_bytes(blocks_of(steps * step_bits_, 8)) {}

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
        const int64_t whole = dim / (8 * values), rest_bytes = code_bytes - whole * step_bits;
        uint64_t bits = 0;
        for (int64_t eight = 0; eight < whole; eight++, code += step_bits, out += 8 * values) {
            for (int b = 0; b < step_bits; b++) bits = bits << 8 | code[b];
            for (int j = 0; j < 8; j++) take<VALUES>(bits >> (7 - j) * step_bits & (WINDOWS - 1), values, out + j * values);
        }
        const int64_t left = dim - whole * 8 * values;
        for (int b = 0; b < step_bits; b++) bits = bits << 8 | (b < rest_bytes ? code[b] : 0);
        for (int64_t j = 0; j * values < left; j++)
            take<0>(bits >> (7 - j) * step_bits & (WINDOWS - 1), static_cast<int>(least<int64_t>(values, left - j * values)),
                    out + j * values);
    }

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

}  // namespace
