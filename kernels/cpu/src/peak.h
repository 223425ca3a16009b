// What the machine can do at most: the dot-product instruction alone, from registers.
#pragma once

#include <time.h>

#include "matrix_tile.h"
#include "team.h"

namespace {

inline double seconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Operations (a product and a sum are two) of one call, which keeps enough sums going to hide the latency.
#if defined(__AMX_INT8__)
inline double dot_products(int64_t rounds) {
    const MatrixUnit unit;
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < rounds; i++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 5, 6);
        _tile_dpbssd(2, 4, 7);
        _tile_dpbssd(3, 5, 7);
    }
    return 4.0 * 2 * 16 * TILE_BYTES * static_cast<double>(rounds);
}
#elif defined(__AVX512VNNI__)
#define BITEMBED_DOT(i) asm volatile("vpdpbusd %2, %1, %0" : "+v"(s##i) : "v"(a), "v"(b));
inline double dot_products(int64_t rounds) {
    const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
    __m512i s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a, s8 = a, s9 = a, s10 = a, s11 = a, s12 = a,
            s13 = a, s14 = a, s15 = a;
    for (int64_t i = 0; i < rounds; i++) {
        BITEMBED_DOT(0) BITEMBED_DOT(1) BITEMBED_DOT(2) BITEMBED_DOT(3) BITEMBED_DOT(4) BITEMBED_DOT(5) BITEMBED_DOT(6)
        BITEMBED_DOT(7) BITEMBED_DOT(8) BITEMBED_DOT(9) BITEMBED_DOT(10) BITEMBED_DOT(11) BITEMBED_DOT(12)
        BITEMBED_DOT(13) BITEMBED_DOT(14) BITEMBED_DOT(15)
    }
    return 16.0 * 128 * static_cast<double>(rounds);
}
#undef BITEMBED_DOT
#elif defined(__AVXVNNI__)
#define BITEMBED_DOT(i) asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(s##i) : "x"(a), "x"(b));
inline double dot_products(int64_t rounds) {
    const __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(2);
    __m256i s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a, s8 = a, s9 = a;
    for (int64_t i = 0; i < rounds; i++) {
        BITEMBED_DOT(0) BITEMBED_DOT(1) BITEMBED_DOT(2) BITEMBED_DOT(3) BITEMBED_DOT(4) BITEMBED_DOT(5) BITEMBED_DOT(6)
        BITEMBED_DOT(7) BITEMBED_DOT(8) BITEMBED_DOT(9)
    }
    return 10.0 * 64 * static_cast<double>(rounds);
}
#undef BITEMBED_DOT
#else
inline double dot_products(int64_t) { return 0.0; }
#endif

// 0 where there is no single instruction to measure.
[[maybe_unused]] double peak_gops(int threads) {
    double total = 0.0;
    double* operations = new double[static_cast<size_t>(threads)]();
    double start = 0.0;
    auto work = [&](bitembed::Team& team, int thread) {
        dot_products(1 << 12);
        team.barrier();
        if (thread == 0) start = seconds();
        operations[thread] = dot_products(1 << 21);
    };
    bitembed::run_team(threads, 1, work);
    const double elapsed = seconds() - start;
    for (int i = 0; i < threads; i++) total += operations[i];
    delete[] operations;
    return total / elapsed * 1e-9;
}

}  // namespace
