// The C interface: picks the instruction set, and what does not depend on one.
#include <atomic>
#include <cstring>
#include <string>

#include "kernels.h"
#include "peak.h"

namespace {

using bitembed::Kernels;

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
// CPUID leaf 7, subleaf 1, EAX bit 4; older compilers do not know the name.
bool has_avx_vnni() {
    unsigned a, b, c, d;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    if (a < 1 || !has_avx2()) return false;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(1));
    return (a >> 4 & 1) != 0;
}
bool has_avx512_vnni() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
#if defined(__linux__)
}  // namespace
#include <sys/syscall.h>
#include <unistd.h>
namespace {
// CPUID leaf 7, EDX bits 24 (tiles) and 25 (int8). Linux grants the tiles' registers to a process that asks for them.
bool has_amx_int8() {
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    unsigned a, b, c, d;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    return (d >> 24 & 3) == 3 && has_avx512_vnni() && __builtin_cpu_supports("avx512vbmi") &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#else
bool has_amx_int8() { return false; }
#endif
#endif

#if defined(__aarch64__) && defined(__linux__)
}  // namespace
#include <sys/auxv.h>
namespace {
bool has_dotprod() { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; }
bool has_i8mm() { return (getauxval(AT_HWCAP2) >> 13 & 1) != 0; }
#elif defined(__aarch64__)
bool has_dotprod() { return true; }  // every Apple processor of this architecture that runs a supported system
bool has_i8mm() { return false; }
#endif

struct Choice {
    const char* name;
    const Kernels& (*kernels)();
    bool (*supported)();
};

bool always() { return true; }

constexpr Choice CHOICES[] = {  // best first
#if defined(__x86_64__)
    {"amx_int8", bitembed::amx_int8_kernels, has_amx_int8},
    {"avx512_vnni", bitembed::avx512_vnni_kernels, has_avx512_vnni},
    {"avx_vnni", bitembed::avx_vnni_kernels, has_avx_vnni},
    {"avx2", bitembed::avx2_kernels, has_avx2},
#elif defined(__aarch64__)
    {"neon_i8mm", bitembed::neon_i8mm_kernels, has_i8mm},
    {"neon_dotprod", bitembed::neon_dotprod_kernels, has_dotprod},
#endif
    {"scalar", bitembed::scalar_kernels, always},
};

std::atomic<const Kernels*> selected{nullptr};

const Kernels& kernels() {
    const Kernels* found = selected.load(std::memory_order_acquire);
    if (found) return *found;
    for (const Choice& choice : CHOICES) {
        if (choice.supported()) {
            selected.store(&choice.kernels(), std::memory_order_release);
            return choice.kernels();
        }
    }
    return bitembed::scalar_kernels();
}

template <class Bad>
int any_byte(const uint8_t* bytes, int64_t n, int threads, Bad bad) {
    constexpr int64_t CHUNK = 1 << 18, BYTES_OF_ONE_THREAD = 1 << 20;
    std::atomic<int> found{0};
    auto work = [&](bitembed::Team& team, int thread) {
        for (int64_t c; (c = team.next(0, thread, (n + CHUNK - 1) / CHUNK)) >= 0;) {
            const int64_t end = (c + 1) * CHUNK < n ? (c + 1) * CHUNK : n;
            uint8_t any = 0;
            for (int64_t i = c * CHUNK; i < end; i++) any |= static_cast<uint8_t>(bad(bytes[i]));
            if (any) found.store(1, std::memory_order_relaxed);
        }
    };
    bitembed::run_team(n > BYTES_OF_ONE_THREAD ? threads : 1, 1, work);
    return found.load();
}

std::string names(bool supported_only) {
    std::string all;
    for (const Choice& choice : CHOICES)
        if (!supported_only || choice.supported()) all += (all.empty() ? "" : " ") + std::string(choice.name);
    return all;
}

}  // namespace

extern "C" {

#define BITEMBED_EXPORT __attribute__((visibility("default")))

BITEMBED_EXPORT const char* bitembed_compiled(void) {
    static const std::string all = names(false);
    return all.c_str();
}
BITEMBED_EXPORT const char* bitembed_supported(void) {
    static const std::string all = names(true);
    return all.c_str();
}
BITEMBED_EXPORT const char* bitembed_isa(void) { return kernels().name; }
BITEMBED_EXPORT int bitembed_select(const char* name) {
    for (const Choice& choice : CHOICES) {
        if (strcmp(choice.name, name) == 0 && choice.supported()) {
            selected.store(&choice.kernels(), std::memory_order_release);
            return 0;
        }
    }
    return -1;
}

BITEMBED_EXPORT void bitembed_use_openmp(void (*parallel)(void (*)(void*), void*, unsigned, unsigned), int (*thread)(void),
                                         int (*threads)(void)) {
    bitembed::use_openmp(parallel, thread, threads);
}

BITEMBED_EXPORT int64_t bitembed_panel_bytes(int64_t out, int64_t in) { return (out + 15) / 16 * ((in + 15) / 16) * 64; }

BITEMBED_EXPORT int bitembed_any_zero_nibble(const uint8_t* bytes, int64_t n, int threads) {
    return any_byte(bytes, n, threads, [](uint8_t byte) { return (byte & 15) == 0 || byte < 16; });
}
BITEMBED_EXPORT int bitembed_any_field_3(const uint8_t* bytes, int64_t n, int threads) {
    return any_byte(bytes, n, threads, [](uint8_t byte) { return (byte & byte >> 1 & 0x55) != 0; });
}

BITEMBED_EXPORT double bitembed_read_gbs(int threads) {
    constexpr int64_t WORDS = 1 << 25;  // 256 MB, more than caches hold
    constexpr int STREAMS = 4;          // of a thread, each reading a part of its own: one alone does not fill the memory bus
    uint64_t* words = new uint64_t[WORDS];
    memset(words, 1, WORDS * sizeof(uint64_t));
    std::atomic<uint64_t> all{0};
    auto work = [&](bitembed::Team& team, int thread) {
        const int64_t part = WORDS / team.size / STREAMS / 8 * 8;
        const uint64_t* mine = words + thread * part * STREAMS;
        uint64_t totals[STREAMS][8] = {};
        for (int64_t i = 0; i < part; i += 8)
            for (int s = 0; s < STREAMS; s++)
                for (int j = 0; j < 8; j++) totals[s][j] += mine[s * part + i + j];
        for (const auto& total : totals)
            for (uint64_t t : total) all.fetch_add(t);
    };
    double best = 0.0;
    for (int round = 0; round < 3; round++) {
        const double start = seconds();
        bitembed::run_team(threads, 1, work);
        const double rate = static_cast<double>(WORDS) * 8e-9 / (seconds() - start);
        best = rate > best ? rate : best;
    }
    delete[] words;
    return best;
}

BITEMBED_EXPORT double bitembed_time_linears(const float* x, int64_t m, const bitembed_linear* linears, int64_t count,
                                            float* y, int64_t calls, int threads) {
    void* to = y;
    const double start = seconds();
    for (int64_t i = 0; i < calls; i++) kernels().linears(x, m, linears + i % count, 1, &to, 0, threads);
    return (seconds() - start) / static_cast<double>(calls);
}

BITEMBED_EXPORT int bitembed_pack_panels(const uint8_t* rows, int64_t out, int64_t in, uint8_t* panels, int threads) {
    return kernels().pack_panels(rows, out, in, panels, threads);
}
BITEMBED_EXPORT void bitembed_ternary_panels(const float* w, int64_t out, int64_t in, float divisor, int8_t* codes,
                                             uint8_t* panels, int threads) {
    kernels().ternary_panels(w, out, in, divisor, codes, panels, threads);
}
BITEMBED_EXPORT int bitembed_norm_quantize(const void* x, int64_t m, int64_t in, const float* gain, float eps,
                                            int8_t* codes, float* scale, float* inverse_rms, int bf16, int threads) {
    return kernels().norm_quantize(x, m, in, gain, eps, codes, scale, inverse_rms, bf16, threads);
}
BITEMBED_EXPORT void bitembed_scale_sums(const int32_t* sums, int64_t m, int64_t n, const float* scale,
                                         const float* bias, void* y, int bf16, int threads) {
    kernels().scale_sums(sums, m, n, scale, bias, y, bf16, threads);
}
BITEMBED_EXPORT int bitembed_scale_gradient(const void* grad, int64_t m, int64_t n, const float* scale, void* y,
                                            float* total, int bf16, int threads) {
    return kernels().scale_gradient(grad, m, n, scale, y, total, bf16, threads);
}
BITEMBED_EXPORT int bitembed_norm_backward(const void* grad, const void* x, int64_t m, int64_t n, const float* inverse_rms,
                                           const float* gain, void* grad_x, float* grad_gain, int grad_bf16, int x_bf16,
                                           int threads) {
    return kernels().norm_backward(grad, x, m, n, inverse_rms, gain, grad_x, grad_gain, grad_bf16, x_bf16, threads);
}
BITEMBED_EXPORT int bitembed_linears(const float* x, int64_t m, const bitembed_linear* linears, int64_t count, void** y,
                                      int bf16, int threads) {
    return kernels().linears(x, m, linears, count, y, bf16, threads);
}
BITEMBED_EXPORT int bitembed_latent_linear(const void* x, int64_t m, const bitembed_linear* w, int8_t* codes, float* scale,
                                           float* inverse_rms, void* y, int x_bf16, int y_bf16, int threads) {
    return kernels().latent_linear(x, m, w, codes, scale, inverse_rms, y, x_bf16, y_bf16, threads);
}
BITEMBED_EXPORT int bitembed_feed_forward(const float* x, int64_t m, const bitembed_linear* gate,
                                           const bitembed_linear* up, const bitembed_linear* down, int32_t activation,
                                           float* y, int threads) {
    return kernels().feed_forward(x, m, gate, up, down, activation, y, threads);
}
BITEMBED_EXPORT void bitembed_rotate(float* x, const int64_t* offsets, int64_t texts, int64_t heads, int64_t head_dim,
                                     const bitembed_norm* norm, const float* rotations, int threads) {
    kernels().rotate(x, offsets, texts, heads, head_dim, norm, rotations, threads);
}
BITEMBED_EXPORT int bitembed_attention(const float* q, const float* k, const float* v, const int64_t* offsets,
                                        int64_t texts, int64_t heads, int64_t kv_heads, int64_t head_dim, float scale,
                                        int32_t causal, int64_t window, float* y, int threads) {
    return kernels().attention(q, k, v, offsets, texts, heads, kv_heads, head_dim, scale, causal, window, y, threads);
}
BITEMBED_EXPORT void bitembed_lookup(const bitembed_table* table, const int64_t* ids, int64_t n, float* y, int threads) {
    kernels().lookup(table, ids, n, y, threads);
}
BITEMBED_EXPORT int bitembed_pool(const float* states, const int64_t* offsets, int64_t texts, int64_t features,
                                   const bitembed_norm* norm, int32_t pooling, float* y, int threads) {
    return kernels().pool(states, offsets, texts, features, norm, pooling, y, threads);
}
BITEMBED_EXPORT int bitembed_encode(const bitembed_encoder* encoder, const int64_t* ids, const int64_t* offsets,
                                    int64_t texts, float* y, int threads) {
    return kernels().encode(encoder, ids, offsets, texts, y, threads);
}
BITEMBED_EXPORT int bitembed_search(const int8_t* queries, int64_t q, const uint8_t* codes, const float* weight,
                                    int64_t n, int64_t dim, int32_t bits, int32_t top, int64_t k, float* scores, int64_t* rows,
                                    int threads) {
    return kernels().search(queries, q, codes, weight, n, dim, bits, top, k, scores, rows, threads);
}
BITEMBED_EXPORT int bitembed_trellis_encode(const int16_t* targets, int64_t n, int64_t dim, int32_t step_bits,
                                            int32_t step_values, const uint8_t* levels, uint8_t* codes, int threads) {
    return kernels().trellis_encode(targets, n, dim, step_bits, step_values, levels, codes, threads);
}
BITEMBED_EXPORT void bitembed_trellis_levels(const uint8_t* codes, int64_t n, int64_t dim, int32_t step_bits,
                                             int32_t step_values, const uint8_t* levels, uint8_t* out, int threads) {
    kernels().trellis_levels(codes, n, dim, step_bits, step_values, levels, out, threads);
}
BITEMBED_EXPORT void bitembed_graded_levels(const uint8_t* codes, int64_t n, int64_t first, int64_t second,
                                            const uint8_t* first_levels, const uint8_t* second_levels,
                                            const int32_t* factors, uint8_t* out, int threads) {
    kernels().graded_levels(codes, n, first, second, first_levels, second_levels, factors, out, threads);
}
BITEMBED_EXPORT double bitembed_peak_gops(int threads) { return kernels().peak_gops(threads); }

}  // extern "C"
