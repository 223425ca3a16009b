// The operations on their own. This file is compiled once for every instruction set, with BITEMBED_KERNELS naming the
// function that hands them out.
#include "kernels.h"

#include <new>
#include <utility>
#include <vector>

#include "encoder.h"
#include "peak.h"
#include "search.h"
#include "training.h"
#include "trellis.h"

namespace {

int pack_panels(const uint8_t* rows, int64_t out, int64_t in, uint8_t* panels, int threads) {
    const int64_t steps = blocks_of(in, LANES), width = blocks_of(in, 4), blocks = blocks_of(out, LANES);
    std::atomic<int> bad{0};
    auto work = [&](Team& team, int thread) {
        for (int64_t block; (block = team.next(0, thread, blocks)) >= 0;) {
            uint8_t* to = panels + block * steps * 64;
            unsigned char threes = 0;
            for (int64_t r = 0; r < LANES; r++) {
                const int64_t row = block * LANES + r;
                const uint8_t* from = rows + row * width;
                for (int64_t step = 0; step < steps; step++) {
                    uint8_t four[4] = {0x55, 0x55, 0x55, 0x55};  // weight 0
                    if (row < out) memcpy(four, from + 4 * step, static_cast<size_t>(least<int64_t>(4, width - 4 * step)));
                    for (uint8_t byte : four) threes |= byte & byte >> 1 & 0x55;
                    memcpy(to + step * 64 + r * 4, four, 4);
                }
            }
            if (threes) bad.store(1, std::memory_order_relaxed);
        }
    };
    bitembed::run_team(threads, 1, work);
    return bad.load() ? -1 : 0;
}

void ternary_panels(const float* w, int64_t out, int64_t in, float divisor, int8_t* codes, uint8_t* panels, int threads) {
    const int64_t steps = blocks_of(in, LANES);
    auto work = [&](Team& team, int thread) {
        for (int64_t block; (block = team.next(0, thread, blocks_of(out, LANES))) >= 0;) {
            for (int64_t r = 0; r < LANES; r++) {
                const int64_t row = block * LANES + r;
                for (int64_t step = 0; step < steps; step++) {
                    const int64_t at = step * LANES, some = row < out ? least(LANES, in - at) : 0;
                    const i8x16 code = ternary_codes(load(w + row * in + at, some), divisor);
                    if (some) memcpy(codes + row * in + at, &code, static_cast<size_t>(some));
                    const i8x16 field = code + 1;
                    uint32_t fours[4];
                    memcpy(fours, &field, sizeof fours);
                    uint8_t* to = panels + (block * steps + step) * 64 + r * 4;
                    for (int i = 0; i < 4; i++)
                        to[i] = static_cast<uint8_t>(fours[i] | fours[i] >> 6 | fours[i] >> 12 | fours[i] >> 18);
                }
            }
        }
    };
    bitembed::run_team(threads, 1, work);
}

// Codes in the order of panels (width of them) as they follow each other in the token; the order is its own inverse.
inline void in_token_order(const int8_t* row, int64_t in, int8_t* codes) {
    for (int64_t i = 0; i < in; i += LANES) {
        i8x16 sixteen;
        memcpy(&sixteen, row + i, sizeof sixteen);
        sixteen = in_panel_order(sixteen);
        memcpy(codes + i, &sixteen, static_cast<size_t>(least(LANES, in - i)));
    }
}

// Token t of x (m, in) as float32: where it lies, or widened into `wide`.
inline const float* as_float(const void* x, int64_t t, int64_t in, int bf16, float* wide) {
    if (!bf16) return static_cast<const float*>(x) + t * in;
    const Bfloat16* narrow = static_cast<const Bfloat16*>(x) + t * in;
    for (int64_t i = 0; i < in; i += LANES) store(wide + i, load(narrow + i, in - i), in - i);
    return wide;
}

int norm_quantize(const void* x, int64_t m, int64_t in, const float* gain, float eps, int8_t* codes, float* scale,
                   float* inverse, int bf16, int threads) {
    const int64_t block = block_tokens(m, threads), width = code_width(in);
    Arena arena;
    const int64_t bytes = aligned(4 * quantize_scratch(in)) + aligned(width) + aligned(4 * width);
    arena.take<char>(threads * bytes);
    if (!arena.allocate()) return -1;
    char* memory = arena.take<char>(threads * bytes);
    auto work = [&](Team& team, int thread) {
        float* scratch = reinterpret_cast<float*>(memory + thread * bytes);
        int8_t* row = reinterpret_cast<int8_t*>(memory + thread * bytes + aligned(4 * quantize_scratch(in)));
        float* wide = reinterpret_cast<float*>(row + aligned(width));
        for (int64_t b; (b = team.next(0, thread, blocks_of(m, block))) >= 0;) {
            for (int64_t t = b * block; t < least(m, (b + 1) * block); t++) {
                int32_t code_sum;
                const float* token = as_float(x, t, in, bf16, wide);
                inverse[t] = gain ? inverse_rms(token, in, eps) : 1.0f;
                quantize_few(&token, 1, in, gain, inverse + t, scratch, {row, scale + t, &code_sum, width});
                in_token_order(row, in, codes + t * in);
            }
        }
    };
    bitembed::run_team(threads, 1, work);
    return 0;
}

void scale_sums(const int32_t* sums, int64_t m, int64_t n, const float* scale, const float* bias, void* y, int bf16,
                int threads) {
    if (bf16) {
        scale_all(sums, m, n, scale, bias, static_cast<Bfloat16*>(y), threads);
    } else {
        scale_all(sums, m, n, scale, bias, static_cast<float*>(y), threads);
    }
}

int scale_gradient(const void* grad, int64_t m, int64_t n, const float* scale, void* y, float* total, int bf16,
                   int threads) {
    const auto run = [&](auto* to) {
        return scale_all_gradients(static_cast<decltype(to)>(const_cast<void*>(grad)), m, n, scale, to, total, threads);
    };
    return bf16 ? run(static_cast<Bfloat16*>(y)) : run(static_cast<float*>(y));
}

int norm_backward(const void* grad, const void* x, int64_t m, int64_t n, const float* inverse, const float* gain,
                  void* grad_x, float* grad_gain, int grad_bf16, int x_bf16, int threads) {
    const auto run = [&](const auto* from, auto* to) {
        const auto* values = static_cast<decltype(to)>(const_cast<void*>(x));
        return norm_backward_all(from, values, m, n, inverse, gain, to, grad_gain, threads);
    };
    const auto run_grad = [&](const auto* from) {
        return x_bf16 ? run(from, static_cast<Bfloat16*>(grad_x)) : run(from, static_cast<float*>(grad_x));
    };
    return grad_bf16 ? run_grad(static_cast<const Bfloat16*>(grad)) : run_grad(static_cast<const float*>(grad));
}

// Memory of this thread, which quantizes and multiplies blocks of tokens: codes for each of `inputs` projections.
class BlockScratch {
public:
    Codes* codes;
    float *quantize, *inner;

    BlockScratch(int64_t tokens, int64_t widest, int64_t inputs, int64_t inner_features) {
        lay_out(tokens, widest, inputs, inner_features);
        if (arena_.allocate_kept()) lay_out(tokens, widest, inputs, inner_features);
    }
    explicit operator bool() const { return codes != nullptr; }

private:
    void lay_out(int64_t tokens, int64_t widest, int64_t inputs, int64_t inner_features) {
        codes = arena_.take<Codes>(inputs);
        for (int64_t i = 0; i < inputs; i++) {
            const Codes one = take_codes(arena_, tokens, widest);
            if (codes) codes[i] = one;
        }
        quantize = arena_.take<float>(quantize_scratch(widest));
        inner = arena_.take<float>(tokens * inner_features);
    }
    Arena arena_;
};

// Below this many operations a second thread costs more than it saves.
constexpr int64_t OPERATIONS_OF_ONE_THREAD = 600000;

constexpr int64_t TURNS = 4;  // of a thread, in a layer on its own

constexpr int64_t MANY_VALUES = 1 << 20;  // 4 MiB: what follows will not find them in a core's cache

bool is_line(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

int linears(const float* x, int64_t m, const bitembed_linear* w, int64_t count, void** y, int bf16, int threads) {
    if (m == 0) return 0;
    int64_t out = 0;
    for (int64_t i = 0; i < count; i++) out += w[i].out_features;
    const int64_t in = w[0].in_features;
    if (2 * m * out * in < OPERATIONS_OF_ONE_THREAD) threads = 1;
    // A few tokens are quantized by every thread, and the rows of the weights shared out; many tokens are shared out.
    const bool by_rows = m < 4 * threads;
    const int64_t block = by_rows ? m : block_tokens(m, threads, TURNS);
    std::atomic<bool> enough{true};
    std::vector<const bitembed_linear*> inputs;
    for (int64_t i = 0; i < count; i++) inputs.push_back(w + i);
    auto work = [&](Team& team, int thread) {
        const MatrixUnit unit;
        BlockScratch s(block, in, count, 0);
        if (!s) return enough.store(false);
        const auto share = [&](const bitembed_linear& one) {
            const int64_t blocks = row_blocks(one), tiles = blocks_of(blocks, TILE_BLOCKS);
            const int64_t size = by_rows ? blocks_of(tiles, team.size) * TILE_BLOCKS : blocks, from = by_rows ? thread * size : 0;
            return std::pair(least(blocks, from), least(blocks, from + size));
        };
        const auto some = [&](int64_t from, int64_t to) {
            if (by_rows) fetch_first(w[0], share(w[0]).first);
            quantize_inputs([&](int64_t t) { return x + (from + t) * in; }, to - from, inputs.data(), count, s.quantize,
                            s.codes);
            // A thread goes through its share backwards.
            const Soon next = m * in >= MANY_VALUES && from >= block ? Soon{x + (from - block) * in, block * in * 4} : Soon{};
            for (int64_t i = 0; i < count; i++) {
                const auto [begin, end] = share(w[i]);
                const int64_t width = w[i].out_features;
                if (bf16) {
                    linear_bf16(s.codes[i], to - from, w[i], begin, end, static_cast<Bfloat16*>(y[i]) + from * width, width);
                } else {
                    linear(s.codes[i], to - from, w[i], begin, end, static_cast<float*>(y[i]) + from * width, width,
                           m * width >= MANY_VALUES && width % LANES == 0 && is_line(y[i]), i + 1 < count ? Soon{} : next);
                }
            }
        };
        if (by_rows) return some(0, m);
        for (int64_t b; (b = team.next(0, thread, blocks_of(m, block))) >= 0;) some(b * block, least(m, (b + 1) * block));
    };
    bitembed::run_team(threads, 1, work);
    return enough ? 0 : -1;
}

int latent_linear(const void* x, int64_t m, const bitembed_linear* w, int8_t* codes, float* scale, float* inverse, void* y,
                  int x_bf16, int y_bf16, int threads) {
    if (m == 0) return 0;
    const int64_t block = block_tokens(m, threads), in = w->in_features, out = w->out_features;
    std::atomic<bool> enough{true};
    auto work = [&](Team& team, int thread) {
        const MatrixUnit unit;
        BlockScratch s(most(block, TOKENS_TOGETHER), in, 1, x_bf16 ? in : 0);
        if (!s) return enough.store(false);
        for (int64_t b; (b = team.next(0, thread, blocks_of(m, block))) >= 0;) {
            const int64_t from = b * block, to = least(m, from + block);
            const Codes made = {s.codes[0].codes, scale + from, s.codes[0].sum, s.codes[0].stride};
            for (int64_t t = from; t < to; t += TOKENS_TOGETHER) {
                const int64_t some = least(TOKENS_TOGETHER, to - t);
                const float* tokens[TOKENS_TOGETHER];
                for (int64_t j = 0; j < some; j++) {
                    tokens[j] = as_float(x, t + j, in, x_bf16, s.inner + j * in);
                    inverse[t + j] = w->gain ? inverse_rms(tokens[j], in, w->norm_eps) : 1.0f;
                }
                quantize_few(tokens, some, in, w->gain, inverse + t, s.quantize, made.from(t - from));
                for (int64_t j = 0; j < some; j++)
                    in_token_order(made.codes + (t + j - from) * made.stride, in, codes + (t + j) * in);
            }
            if (y_bf16) {
                linear_bf16(made, to - from, *w, 0, row_blocks(*w), static_cast<Bfloat16*>(y) + from * out, out);
            } else {
                linear(made, to - from, *w, 0, row_blocks(*w), static_cast<float*>(y) + from * out, out);
            }
        }
    };
    bitembed::run_team(threads, 1, work);
    return enough ? 0 : -1;
}

int feed_forward(const float* x, int64_t m, const bitembed_linear* gate, const bitembed_linear* up,
                  const bitembed_linear* down, int32_t activation, float* y, int threads) {
    if (m == 0) return 0;
    const int64_t block = block_tokens(m, threads), in = up->in_features, inner = up->out_features;
    std::atomic<bool> enough{true};
    const bitembed_linear no_gate = {};
    const bitembed_linear* const inputs[2] = {gate ? gate : up, up};
    auto work = [&](Team& team, int thread) {
        const MatrixUnit unit;
        BlockScratch s(block, most(in, inner), 2, inner);
        if (!s) return enough.store(false);
        for (int64_t b; (b = team.next(0, thread, blocks_of(m, block))) >= 0;) {
            const int64_t from = b * block, count = least(m, from + block) - from;
            quantize_inputs([&](int64_t t) { return x + (from + t) * in; }, count, inputs, 2, s.quantize, s.codes);
            gated(s.codes[0], s.codes[1], count, gate ? *gate : no_gate, *up, activation, s.inner, inner);
            quantize_input(s.inner, count, *down, s.quantize, s.codes[0]);
            linear(s.codes[0], count, *down, 0, row_blocks(*down), y + from * down->out_features, down->out_features);
        }
    };
    bitembed::run_team(threads, 1, work);
    return enough ? 0 : -1;
}

void rotate(float* x, const int64_t* offsets, int64_t texts, int64_t heads, int64_t head_dim, const bitembed_norm* norm,
            const float* rotations, int threads) {
    auto work = [&](Team& team, int thread) {
        for (int64_t text; (text = team.next(0, thread, texts)) >= 0;) {
            for (int64_t t = offsets[text]; t < offsets[text + 1]; t++) {
                const float* rotation = rotations ? rotations + (t - offsets[text]) * head_dim : nullptr;
                for (int64_t head = 0; head < heads; head++)
                    rotate_head(x + (t * heads + head) * head_dim, head_dim, *norm, rotation);
            }
        }
    };
    bitembed::run_team(threads, 1, work);
}

int attention(const float* q, const float* k, const float* v, const int64_t* offsets, int64_t texts, int64_t heads,
               int64_t kv_heads, int64_t head_dim, float scale, int32_t causal, int64_t window, float* y, int threads) {
    int64_t longest = 0;
    for (int64_t i = 0; i < texts; i++) longest = most(longest, offsets[i + 1] - offsets[i]);
    const int64_t p_stride = blocks_of(longest + LANES, LANES) * LANES;
    const int64_t key_floats = blocks_of(longest, LANES) * LANES * head_dim, floats = QUERY_ROWS * p_stride + key_floats;
    Arena arena;
    arena.take<float>(threads * floats);
    if (!arena.allocate()) return -1;
    float* memory = arena.take<float>(threads * floats);
    auto work = [&](Team& team, int thread) {
        float *p = memory + thread * floats, *keys = p + QUERY_ROWS * p_stride;
        for (int64_t item; (item = team.next(0, thread, texts * heads)) >= 0;) {
            const int64_t text = item / heads, head = item % heads, kv_head = head * kv_heads / heads;
            const int64_t start = offsets[text], length = offsets[text + 1] - start;
            for (int64_t t = 0; t < length; t++)
                put_key(k + ((start + t) * kv_heads + kv_head) * head_dim, head_dim, t, keys);
            const HeadMemory held = {keys, v + (start * kv_heads + kv_head) * head_dim, kv_heads * head_dim, head_dim};
            const int64_t first = (start * heads + head) * head_dim, stride = heads * head_dim;
            attend_range(q + first, stride, 0, length, length, held, scale, causal != 0, window, p, p_stride, y + first,
                         stride);
        }
    };
    bitembed::run_team(threads, 1, work);
    return 0;
}

void lookup(const bitembed_table* table, const int64_t* ids, int64_t n, float* y, int threads) {
    auto work = [&](Team& team, int thread) {
        for (int64_t b; (b = team.next(0, thread, blocks_of(n, MOST_BLOCK_TOKENS))) >= 0;)
            for (int64_t i = b * MOST_BLOCK_TOKENS; i < least(n, (b + 1) * MOST_BLOCK_TOKENS); i++)
                look_up(*table, ids[i], y + i * table->dimension, false);
    };
    bitembed::run_team(threads, 1, work);
}

int pool(const float* states, const int64_t* offsets, int64_t texts, int64_t features, const bitembed_norm* norm,
          int32_t pooling, float* y, int threads) {
    Arena arena;
    arena.take<float>(threads * features);
    if (!arena.allocate()) return -1;
    float* rows = arena.take<float>(threads * features);
    auto work = [&](Team& team, int thread) {
        for (int64_t i; (i = team.next(0, thread, texts)) >= 0;)
            pool_text(states + offsets[i] * features, offsets[i + 1] - offsets[i], features, *norm, pooling,
                      rows + thread * features, y + i * features);
    };
    bitembed::run_team(threads, 1, work);
    return 0;
}

int encode(const bitembed_encoder* encoder, const int64_t* ids, const int64_t* offsets, int64_t texts, float* y,
           int threads) {
    if (texts == 0) return 0;
    EncoderRun run(*encoder, ids, offsets, texts, y);
    return run.run(threads) ? 0 : -1;
}

int search(const int8_t* queries, int64_t query_count, const uint8_t* codes, const float* weight, int64_t documents,
           int64_t dim, int32_t bits, int32_t top, int64_t k, float* scores, int64_t* rows, int threads) {
    try {
        return best_documents(queries, query_count, codes, weight, documents, dim, bits, top, k, scores, rows, threads);
    } catch (const std::bad_alloc&) {
        return -1;
    }
}

int trellis_encode(const int16_t* targets, int64_t n, int64_t dim, int32_t step_bits, int32_t step_values,
                   const uint8_t* levels, uint8_t* codes, int threads) {
    return encode_trellis(targets, n, TrellisRun(dim, step_bits, step_values, levels), codes, threads);
}

void trellis_levels(const uint8_t* codes, int64_t n, int64_t dim, int32_t step_bits, int32_t step_values,
                    const uint8_t* levels, uint8_t* out, int threads) {
    expand_trellis(codes, n, TrellisRun(dim, step_bits, step_values, levels), out, threads);
}

void graded_levels(const uint8_t* codes, int64_t n, int64_t first, int64_t second, const uint8_t* first_levels,
                   const uint8_t* second_levels, const int32_t* factors, uint8_t* out, int threads) {
    expand_graded(codes, n, TrellisRun(first, 2, 1, first_levels), TrellisRun(second, 1, 1, second_levels), factors, out,
                  threads);
}

}  // namespace

const bitembed::Kernels& bitembed::BITEMBED_KERNELS() {
    static const Kernels kernels = {BITEMBED_NAME,  pack_panels,   ternary_panels, norm_quantize,
                                    scale_sums,     scale_gradient, norm_backward, linears,        latent_linear,
                                    feed_forward,   rotate,        attention,      lookup,
                                    pool,           encode,        search,         trellis_encode,
                                    trellis_levels, graded_levels, peak_gops};
    return kernels;
}
