// The passes around the matrix products of a ternary linear in training, a row at a time, each read and written once.
// Values are float32 or bfloat16 in memory and float32 in registers.
#pragma once

#include "quantize.h"

namespace {

// y (n,) = sums factor + bias.
template <class Y>
inline void scale_row(const int32_t* sums, int64_t n, float factor, const float* bias, Y* y) {
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t some = least(n - i, LANES);
        i32x16 whole = {};
        if (some == LANES) {
            memcpy(&whole, sums + i, sizeof whole);
        } else {
            memcpy(&whole, sums + i, static_cast<size_t>(some) * sizeof(int32_t));
        }
        f32x16 v = to_float(whole) * factor;
        if (bias) v += load(bias + i, some);
        store(y + i, v, some);
    }
}

// y (n,) = grad factor; total += grad.
template <class Value>
inline void scale_gradient_row(const Value* grad, int64_t n, float factor, Value* y, float* total) {
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t some = least(n - i, LANES);
        const f32x16 v = load(grad + i, some);
        store(y + i, v * factor, some);
        if (total) store(total + i, load(total + i, some) + v, some);
    }
}

// Of y = gain x^, x^ = x / rms(x), and grad = dL/dy: grad_x = (gain grad - x^ mean(gain grad x^)) / rms(x), and
// total += grad x^.
template <class Grad, class X>
inline void norm_backward_row(const Grad* grad, const X* x, int64_t n, float inverse, const float* gain, X* grad_x,
                              float* total) {
    f32x16 products = {};
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t some = least(n - i, LANES);
        const f32x16 product = load(grad + i, some) * (load(x + i, some) * inverse);
        store(total + i, load(total + i, some) + product, some);
        products = fused(product, load(gain + i, some), products);
    }
    const float mean = sum(products) / static_cast<float>(n);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t some = least(n - i, LANES);
        const f32x16 normalised = load(x + i, some) * inverse;
        store(grad_x + i, (load(grad + i, some) * load(gain + i, some) - normalised * mean) * inverse, some);
    }
}

// Rows whose totals are added up by one thread; these are then added in order, whatever the number of threads.
constexpr int64_t ROWS_OF_A_TOTAL = 128;

// Runs row(r, total) for all m rows, where `total` (n,) gathers; `totals` (n,) is their sum.
template <class Row>
int rows_with_totals(int64_t m, int64_t n, float* totals, int threads, Row row) {
    const int64_t parts = blocks_of(m, ROWS_OF_A_TOTAL);
    Arena arena;
    arena.take<float>(parts * n);
    if (!arena.allocate()) return -1;
    float* memory = arena.take<float>(parts * n);
    auto work = [&](Team& team, int thread) {
        for (int64_t part; (part = team.next(0, thread, parts)) >= 0;) {
            float* total = memory + part * n;
            memset(total, 0, static_cast<size_t>(n) * sizeof(float));
            for (int64_t r = part * ROWS_OF_A_TOTAL; r < least(m, (part + 1) * ROWS_OF_A_TOTAL); r++) row(r, total);
        }
    };
    bitembed::run_team(threads, 1, work);
    if (!totals) return 0;
    memset(totals, 0, static_cast<size_t>(n) * sizeof(float));
    for (int64_t part = 0; part < parts; part++) {
        for (int64_t i = 0; i < n; i += LANES) {
            const int64_t some = least(n - i, LANES);
            store(totals + i, load(totals + i, some) + load(memory + part * n + i, some), some);
        }
    }
    return 0;
}

template <class Y>
void scale_all(const int32_t* sums, int64_t m, int64_t n, const float* scale, const float* bias, Y* y, int threads) {
    auto work = [&](Team& team, int thread) {
        for (int64_t part; (part = team.next(0, thread, blocks_of(m, ROWS_OF_A_TOTAL))) >= 0;)
            for (int64_t r = part * ROWS_OF_A_TOTAL; r < least(m, (part + 1) * ROWS_OF_A_TOTAL); r++)
                scale_row(sums + r * n, n, scale[r], bias, y + r * n);
    };
    bitembed::run_team(threads, 1, work);
}

template <class Value>
int scale_all_gradients(const Value* grad, int64_t m, int64_t n, const float* scale, Value* y, float* total, int threads) {
    return rows_with_totals(m, n, total, threads, [&](int64_t r, float* part) {
        scale_gradient_row(grad + r * n, n, scale[r], y + r * n, total ? part : nullptr);
    });
}

template <class Grad, class X>
int norm_backward_all(const Grad* grad, const X* x, int64_t m, int64_t n, const float* inverse, const float* gain,
                      X* grad_x, float* grad_gain, int threads) {
    return rows_with_totals(m, n, grad_gain, threads, [&](int64_t r, float* part) {
        norm_backward_row(grad + r * n, x + r * n, n, inverse[r], gain, grad_x + r * n, part);
    });
}

}  // namespace
