// Every operation on every instruction set of this processor, on sizes that nothing divides, on extreme values and on empty
// batches, against plain loops. Built with sanitizers (`make test-sanitized`) and for ARM under an emulator
// (`make test-arm`). Prints what failed; exits with 1 then.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "../src/simd.h"
#include "bitembed_cpu.h"

namespace {

using Floats = std::vector<float>;

int failures = 0;
std::mt19937 generator(7);

void check(bool good, const std::string& what) {
    if (good) return;
    failures++;
    std::printf("FAILED on %s: %s\n", bitembed_isa(), what.c_str());
}

// Bell-shaped, with standard deviation `size`: sums of four numbers, the same on every machine.
Floats random_floats(int64_t n, float size = 1.0f) {
    Floats v(static_cast<size_t>(n));
    for (float& x : v) {
        int32_t total = -2 * 0xffff;
        for (int i = 0; i < 4; i++) total += static_cast<int32_t>(generator() & 0xffff);
        x = static_cast<float>(total) * 2.6428e-5f * size;
    }
    return v;
}

// FNV-1a of every bit of the encoders' vectors. It stays what it is on all machines; where arithmetic changes on purpose,
// `VECTORS` does, and the vectors in indexes that people keep are no longer those that a new text gets.
constexpr uint64_t VECTORS = 13356342777823774086u;
uint64_t digest;

void digest_floats(const Floats& values) {
    for (const float value : values) {
        uint32_t word;
        std::memcpy(&word, &value, sizeof word);
        for (int byte = 0; byte < 4; byte++) digest = (digest ^ (word >> 8 * byte & 0xff)) * 0x100000001b3;
    }
}

struct Weight {
    int64_t out, in;
    std::vector<int> codes;
    std::vector<uint8_t> panels;
    Floats gain, bias;

    Weight(int64_t out, int64_t in, bool gained = true, bool biased = true)
        : out(out), in(in), codes(static_cast<size_t>(out * in)),
          panels(static_cast<size_t>(bitembed_panel_bytes(out, in))) {
        const int64_t width = (in + 3) / 4;
        std::vector<uint8_t> rows(static_cast<size_t>(out * width), 0x55);
        for (int64_t r = 0; r < out; r++) {
            for (int64_t c = 0; c < in; c++) {
                const int code = static_cast<int>(generator() % 3) - 1;
                codes[static_cast<size_t>(r * in + c)] = code;
                uint8_t& byte = rows[static_cast<size_t>(r * width + c / 4)];
                byte = static_cast<uint8_t>((byte & ~(3 << 2 * (c % 4))) | ((code + 1) << 2 * (c % 4)));
            }
        }
        check(bitembed_pack_panels(rows.data(), out, in, panels.data(), 2) == 0, "good weights are taken");
        if (!rows.empty()) {
            rows.back() |= static_cast<uint8_t>(3 << 2 * ((in - 1) % 4));
            std::vector<uint8_t> other(panels.size());
            check(bitembed_pack_panels(rows.data(), out, in, other.data(), 2) == -1, "a field of 3 is refused");
        }
        if (gained) gain = random_floats(in);
        if (biased) bias = random_floats(out);
    }
    bitembed_linear operand(float scale = 0.3f) const {
        return {panels.data(), gain.empty() ? nullptr : gain.data(), bias.empty() ? nullptr : bias.data(), in, out, scale,
                1e-6f};
    }
};

// The layer w in training: latent weights become its codes and panels, and the result is y.
void test_training_linear(const Floats& x, int64_t tokens, const Weight& w, const Floats& y, int threads) {
    Floats latent;
    for (const int code : w.codes) latent.push_back(0.3f * static_cast<float>(code) + 0.1f);
    std::vector<int8_t> w_codes(latent.size(), 99);
    std::vector<uint8_t> panels(w.panels.size(), 0xff);
    bitembed_ternary_panels(latent.data(), w.out, w.in, 0.3f, w_codes.data(), panels.data(), threads);
    check(std::equal(w_codes.begin(), w_codes.end(), w.codes.begin()) && panels == w.panels, "latent weights are quantized");
    const auto rows = static_cast<size_t>(tokens);
    std::vector<int8_t> codes(x.size(), 99), expected(x.size(), 98);
    Floats scale(rows), inverse(rows), expected_scale(rows), expected_inverse(rows), found(y.size(), NAN);
    const bitembed_linear one = w.operand();
    bitembed_latent_linear(x.data(), tokens, &one, codes.data(), scale.data(), inverse.data(), found.data(), 0, 0, threads);
    bitembed_norm_quantize(x.data(), tokens, w.in, w.gain.data(), 1e-6f, expected.data(), expected_scale.data(),
                           expected_inverse.data(), 0, threads);
    check(codes == expected, "codes in training");
    const auto same = [](const Floats& a, const Floats& b) {
        return std::equal(a.begin(), a.end(), b.begin(), [](float p, float q) { return p == q || (p != p && q != q); });
    };
    check(same(scale, expected_scale) && same(inverse, expected_inverse), "scales in training");
    check(same(found, y), "result in training");
    const std::vector<uint16_t> narrow(x.size(), 0x3f80);
    std::vector<uint16_t> narrow_y(y.size());
    bitembed_latent_linear(narrow.data(), tokens, &one, codes.data(), scale.data(), inverse.data(), narrow_y.data(), 1, 1,
                           threads);
}

void test_linear(int64_t tokens, int64_t in, int64_t out, float size, int threads) {
    const Weight a(out, in), b(out + 3, in, false, false);
    const Floats x = random_floats(tokens * in, size);
    Floats y0(static_cast<size_t>(tokens * out), NAN), y1(static_cast<size_t>(tokens * (out + 3)), NAN);
    const bitembed_linear both[] = {a.operand(), b.operand()};
    void* ys[] = {y0.data(), y1.data()};
    bitembed_linears(x.data(), tokens, both, 2, ys, 0, threads);
    for (const Weight* w : {&a, &b}) {
        const Floats& y = w == &a ? y0 : y1;
        std::vector<int8_t> codes(static_cast<size_t>(tokens * in));
        Floats scale(static_cast<size_t>(tokens)), rms(static_cast<size_t>(tokens));
        bitembed_norm_quantize(x.data(), tokens, in, w->gain.empty() ? nullptr : w->gain.data(), 1e-6f, codes.data(),
                               scale.data(), rms.data(), 0, threads);
        bool exact = true;
        for (int64_t t = 0; t < tokens; t++) {
            for (int64_t r = 0; r < w->out; r++) {
                int32_t sum = 0;
                for (int64_t c = 0; c < in; c++)
                    sum += codes[static_cast<size_t>(t * in + c)] * w->codes[static_cast<size_t>(r * in + c)];
                volatile float scaled = static_cast<float>(sum) * (scale[static_cast<size_t>(t)] * 0.3f);
                const float expected = w->bias.empty() ? scaled : scaled + w->bias[static_cast<size_t>(r)];
                const float got = y[static_cast<size_t>(t * w->out + r)];
                exact = exact && (got == expected || (std::isnan(got) && std::isnan(expected)));
            }
        }
        std::ostringstream what;
        what << "linear " << tokens << " x " << in << " -> " << w->out << ", size " << size << ", " << threads << " threads";
        check(exact, what.str());
    }
    std::vector<uint16_t> narrow(static_cast<size_t>(tokens * out));
    ys[0] = narrow.data();
    bitembed_linears(x.data(), tokens, both, 1, ys, 1, threads);
    bool close = true;
    for (size_t i = 0; i < narrow.size() && size < 1e10f; i++) {
        const uint32_t wide = static_cast<uint32_t>(narrow[i]) << 16;
        float value;
        std::memcpy(&value, &wide, sizeof value);
        close = close && std::fabs(value - y0[i]) <= std::fabs(y0[i]) / 256;
    }
    check(close, "bfloat16 output");
    test_training_linear(x, tokens, a, y0, threads);
}

void test_training_passes(int64_t rows, int64_t n, float size, int threads) {
    const auto cells = static_cast<size_t>(rows * n);
    const Floats grad = random_floats(rows * n, size), x = random_floats(rows * n, size), scale = random_floats(rows),
                 inverse = random_floats(rows), gain = random_floats(n);
    Floats y(cells, NAN), total(static_cast<size_t>(n), NAN), again(static_cast<size_t>(n), NAN);
    std::vector<uint16_t> narrow(cells, 0xffff), narrow_x(cells, 0x3f80);
    std::vector<int32_t> sums(cells, INT32_MAX);
    bitembed_scale_sums(sums.data(), rows, n, scale.data(), gain.data(), y.data(), 0, threads);
    bool exact = true;
    for (size_t i = 0; i < cells; i++) {
        volatile float scaled = 2147483648.0f * scale[i / static_cast<size_t>(n)];
        exact = exact && y[i] == scaled + gain[i % static_cast<size_t>(n)];
    }
    check(exact, "sums are scaled");
    bitembed_scale_sums(sums.data(), rows, n, scale.data(), nullptr, narrow.data(), 1, threads);
    bitembed_scale_gradient(grad.data(), rows, n, scale.data(), y.data(), total.data(), 0, threads);
    bitembed_scale_gradient(grad.data(), rows, n, scale.data(), y.data(), again.data(), 0, threads + 1);
    check(total == again || size > 1e30f, "column sums do not depend on the number of threads");
    bitembed_scale_gradient(narrow.data(), rows, n, scale.data(), narrow.data(), nullptr, 1, threads);
    bitembed_norm_backward(grad.data(), x.data(), rows, n, inverse.data(), gain.data(), y.data(), total.data(), 0, 0, threads);
    bitembed_norm_backward(narrow.data(), narrow_x.data(), rows, n, inverse.data(), gain.data(), narrow_x.data(),
                           total.data(), 1, 1, threads);
    bitembed_norm_backward(grad.data(), narrow_x.data(), rows, n, inverse.data(), gain.data(), narrow.data(),
                           total.data(), 0, 1, threads);
}

void test_attention(const std::vector<int64_t>& lengths, int64_t heads, int64_t kv_heads, int64_t width, bool causal,
                    int64_t window) {
    std::vector<int64_t> offsets = {0};
    for (const int64_t n : lengths) offsets.push_back(offsets.back() + n);
    const int64_t tokens = offsets.back();
    const Floats q = random_floats(tokens * heads * width), k = random_floats(tokens * kv_heads * width),
                 v = random_floats(tokens * kv_heads * width);
    Floats y(q.size(), NAN);
    bitembed_attention(q.data(), k.data(), v.data(), offsets.data(), static_cast<int64_t>(lengths.size()), heads, kv_heads,
                       width, 0.2f, causal, window, y.data(), 2);
    double worst = 0.0;
    for (size_t text = 0; text < lengths.size(); text++) {
        for (int64_t i = 0; i < lengths[text]; i++) {
            for (int64_t h = 0; h < heads; h++) {
                const int64_t g = h * kv_heads / heads;
                std::vector<double> out(static_cast<size_t>(width), 0.0), p;
                double total = 0.0;
                for (int64_t j = 0; j < lengths[text]; j++) {
                    const bool seen = (!causal || j <= i) && (!window || std::llabs(i - j) < window);
                    double score = 0.0;
                    for (int64_t c = 0; c < width; c++)
                        score += static_cast<double>(q[static_cast<size_t>(((offsets[text] + i) * heads + h) * width + c)]) *
                                 k[static_cast<size_t>(((offsets[text] + j) * kv_heads + g) * width + c)];
                    p.push_back(seen ? std::exp(0.2 * score) : 0.0);
                    total += p.back();
                }
                for (int64_t c = 0; c < width; c++) {
                    double value = 0.0;
                    for (int64_t j = 0; j < lengths[text]; j++)
                        value += p[static_cast<size_t>(j)] *
                                 v[static_cast<size_t>(((offsets[text] + j) * kv_heads + g) * width + c)];
                    const float got = y[static_cast<size_t>(((offsets[text] + i) * heads + h) * width + c)];
                    worst = std::fmax(worst, std::isnan(got) ? 1.0 : std::fabs(value / total - got));
                }
            }
        }
    }
    check(worst < 1e-4, "attention, window " + std::to_string(window) + ", width " + std::to_string(width) + ": off by " +
                            std::to_string(worst));
}

// A whole encoder with odd sizes: the same vector whatever stands beside a text, and on every number of threads.
void test_encoder(bool post_norm, bool gated, int32_t pooling) {
    generator.seed(11);
    constexpr int64_t HIDDEN = 40, HEADS = 3, KV_HEADS = 1, WIDTH = 10, INNER = 52, ROWS = 30, POSITIONS = 300;
    std::vector<Weight> weights;
    for (int layer = 0; layer < 2; layer++) {
        for (const auto& shape : {std::pair{HEADS * WIDTH, HIDDEN}, {KV_HEADS * WIDTH, HIDDEN}, {KV_HEADS * WIDTH, HIDDEN},
                                  {HIDDEN, HEADS * WIDTH}, {INNER, HIDDEN}, {INNER, HIDDEN}, {HIDDEN, INNER}})
            weights.emplace_back(shape.first, shape.second);
    }
    const Floats ones = random_floats(INNER), shift = random_floats(INNER), rotations = random_floats(POSITIONS * WIDTH);
    const bitembed_norm norm = {ones.data(), post_norm ? shift.data() : nullptr, 1e-6f,
                                post_norm ? BITEMBED_LAYER_NORM : BITEMBED_RMS_NORM};
    std::vector<bitembed_layer> layers(2);
    for (size_t i = 0; i < 2; i++) {
        bitembed_layer& layer = layers[i];
        bitembed_linear* linears[] = {&layer.query, &layer.key, &layer.value, &layer.attention_output,
                                      &layer.gate, &layer.up, &layer.down};
        for (size_t j = 0; j < 7; j++) *linears[j] = weights[7 * i + j].operand();
        if (!gated) layer.gate = bitembed_linear{};
        layer.attention_norm = layer.ffn_norm = norm;
        if (!post_norm) layer.query_norm = layer.key_norm = layer.attention_output_norm = norm;
        layer.rotations = post_norm ? nullptr : rotations.data();
        layer.window = i == 0 && !post_norm ? 5 : 0;
    }
    std::vector<uint8_t> rows(static_cast<size_t>(ROWS * HIDDEN / 2));
    for (uint8_t& byte : rows) byte = static_cast<uint8_t>(0x11 + generator() % 0xee);
    const std::vector<uint16_t> scales(static_cast<size_t>(ROWS), 0x2c00);
    bitembed_encoder encoder = {};
    encoder.tokens = {rows.data(), scales.data(), HIDDEN, 128, BITEMBED_INT4, 3.0f};
    encoder.final_norm = post_norm ? bitembed_norm{} : norm;
    encoder.embedding_norm = post_norm ? norm : bitembed_norm{};
    encoder.layers = layers.data(), encoder.layer_count = 2;
    encoder.hidden = HIDDEN, encoder.heads = HEADS, encoder.kv_heads = KV_HEADS, encoder.head_dim = WIDTH;
    encoder.intermediate = INNER, encoder.attention_scale = 0.3f, encoder.causal = !post_norm;
    encoder.post_norm = post_norm, encoder.pooling = pooling;
    encoder.activation = !gated ? BITEMBED_GELU_ERF : pooling == BITEMBED_CLS ? BITEMBED_GELU_TANH : BITEMBED_SILU;

    const std::vector<int64_t> lengths = {1, 2, 17, 300, 64, 5};
    std::vector<int64_t> offsets = {0}, ids;
    for (const int64_t n : lengths) offsets.push_back(offsets.back() + n);
    for (int64_t i = 0; i < offsets.back(); i++) ids.push_back(static_cast<int64_t>(generator() % ROWS));
    const int64_t texts = static_cast<int64_t>(lengths.size());
    Floats all(static_cast<size_t>(texts * HIDDEN), NAN);
    check(bitembed_encode(&encoder, ids.data(), offsets.data(), 0, all.data(), 2) == 0, "an empty batch");
    check(bitembed_encode(&encoder, ids.data(), offsets.data(), texts, all.data(), 2) == 0, "a batch");
    digest_floats(all);
    for (const int threads : {1, 2, 5}) {
        for (int64_t i = 0; i < texts; i++) {
            const int64_t alone[] = {0, lengths[static_cast<size_t>(i)]};
            Floats one(HIDDEN, NAN);
            bitembed_encode(&encoder, ids.data() + offsets[static_cast<size_t>(i)], alone, 1, one.data(), threads);
            check(std::memcmp(one.data(), all.data() + i * HIDDEN, HIDDEN * sizeof(float)) == 0, "a text alone");
            double length = 0.0;
            for (const float x : one) length += static_cast<double>(x) * x;
            check(std::fabs(length - 1.0) < 1e-5, "length 1");
        }
    }
}

// The errors that simd.h claims for its functions, over the range in which they are used.
void test_functions() {
    double worst_exponential = 0.0, worst_error_function = 0.0;
    for (float x = -86.9f; x < 87.9f; x += 0.0037f) {
        const double exact = std::exp(static_cast<double>(x));
        worst_exponential = std::fmax(worst_exponential, std::fabs(exponential(splat(x))[0] - exact) / exact);
    }
    for (float x = -6.0f; x < 6.0f; x += 0.00037f)
        worst_error_function = std::fmax(
            worst_error_function, std::fabs(error_function(splat(x))[0] - std::erf(static_cast<double>(x))));
    check(worst_exponential < 3e-7, "exponential is off by " + std::to_string(1e7 * worst_exponential) + "e-7");
    check(worst_error_function < 3e-7, "error function is off by " + std::to_string(1e7 * worst_error_function) + "e-7");
    check(exponential(splat(-200.0f))[0] == 0.0f && std::isnan(exponential(splat(NAN))[0]), "exponential of extremes");
    for (uint32_t half = 0; half < 0x10000; half++) {
        const int exponent = static_cast<int>(half >> 10 & 31);
        const double fraction = (half & 1023) / 1024.0, sign = half & 0x8000 ? -1.0 : 1.0;
        const double exact = sign * (exponent ? std::ldexp(1.0 + fraction, exponent - 15) : std::ldexp(fraction, -14));
        const float got = float_of_half(static_cast<uint16_t>(half));
        if (exponent == 31) {
            check(half & 1023 ? std::isnan(got) : std::isinf(got), "float16 without a value");
        } else {
            check(got == static_cast<float>(exact), "float16 " + std::to_string(half));
        }
    }
}

void test_search(int64_t queries, int64_t documents, int64_t dim, int bits, int64_t k, int threads) {
    const int64_t row_bytes = (dim * bits + 7) / 8;
    std::vector<int8_t> q(static_cast<size_t>(queries * dim));
    std::vector<uint8_t> codes(static_cast<size_t>(documents * row_bytes));
    std::vector<float> inverse(static_cast<size_t>(documents), 1.0f);
    for (auto& v : q) v = static_cast<int8_t>(generator() % 255 - 127);
    for (auto& v : codes) v = static_cast<uint8_t>(generator());
    if (documents > 1) inverse[1] = 0.0f;
    std::vector<float> scores(static_cast<size_t>(queries * k), NAN);
    std::vector<int64_t> rows(static_cast<size_t>(queries * k), -7);
    bitembed_search(q.data(), queries, codes.data(), inverse.data(), documents, dim, bits, bits == 2 ? 2 : (1 << bits) - 1, k, scores.data(), rows.data(),
                    threads);
    for (int64_t i = 0; i < queries; i++) {
        std::vector<std::pair<float, int64_t>> all;
        for (int64_t d = 0; d < documents; d++) {
            int64_t sum = 0;
            for (int64_t j = 0; j < dim; j++) {
                const int64_t bit = j * bits;
                const int z = codes[static_cast<size_t>(d * row_bytes + bit / 8)] >> (8 - bits - bit % 8) & ((1 << bits) - 1);
                sum += q[static_cast<size_t>(i * dim + j)] * (2 * z - (bits == 2 ? 2 : (1 << bits) - 1));
            }
            all.push_back({-static_cast<float>(sum) * inverse[static_cast<size_t>(d)], d});
        }
        std::sort(all.begin(), all.end());
        for (int64_t j = 0; j < k; j++) {
            const bool there = j < documents;
            const auto at = static_cast<size_t>(i * k + j);
            check(rows[at] == (there ? all[static_cast<size_t>(j)].second : -1), "found document");
            check(!there || scores[at] == -all[static_cast<size_t>(j)].first, "score of a document");
        }
    }
}

// Levels against bits taken one by one; the code found is closer to the targets than codes at random.
void test_trellis(int64_t n, int64_t dim, int step_bits, int step_values, int threads) {
    const int64_t steps = (dim + step_values - 1) / step_values, bytes = (steps * step_bits + 7) / 8;
    std::vector<uint8_t> levels(static_cast<size_t>(256 * step_values)), codes(static_cast<size_t>(n * bytes));
    std::vector<uint8_t> out(static_cast<size_t>(n * dim));
    std::vector<int16_t> targets(static_cast<size_t>(n * dim));
    for (auto& v : levels) v = static_cast<uint8_t>(generator());
    for (auto& v : targets) v = static_cast<int16_t>(static_cast<int>(generator() % 8191) - 4095);
    auto distances = [&] {
        bitembed_trellis_levels(codes.data(), n, dim, step_bits, step_values, levels.data(), out.data(), threads);
        std::vector<int64_t> found(static_cast<size_t>(n), 0);
        for (int64_t i = 0; i < n; i++)
            for (int64_t d = 0; d < steps * step_values; d++) {
                int window = 0;
                for (int64_t bit = (d / step_values + 1) * step_bits - 8; bit < (d / step_values + 1) * step_bits; bit++)
                    window = 2 * window + (bit < 0 ? 0 : codes[static_cast<size_t>(i * bytes + bit / 8)] >> (7 - bit % 8) & 1);
                const int level = levels[static_cast<size_t>(window * step_values + d % step_values)];
                if (d < dim) check(out[static_cast<size_t>(i * dim + d)] == level, "level of a trellis");
                const int64_t away = (d < dim ? targets[static_cast<size_t>(i * dim + d)] : 0) - (2 * level - 255);
                found[static_cast<size_t>(i)] += away * away;
            }
        return found;
    };
    check(!bitembed_trellis_encode(targets.data(), n, dim, step_bits, step_values, levels.data(), codes.data(), threads), "memory");
    const std::vector<int64_t> least = distances();
    for (auto& v : codes) v = static_cast<uint8_t>(generator());
    const std::vector<int64_t> any = distances();
    for (size_t i = 0; i < least.size(); i++) check(least[i] <= any[i], "distance of a trellis code");
}

// Levels of graded codes against those of their parts, backwards and scaled.
void test_graded(int64_t n, int64_t first, int64_t second, int threads) {
    const int64_t bytes[] = {(2 * first + 7) / 8, (second + 7) / 8}, width = bytes[0] + bytes[1] + 1, dim = first + second;
    std::vector<uint8_t> levels[2], codes(static_cast<size_t>(n * width)), out(static_cast<size_t>(n * dim));
    std::vector<int32_t> factors(512);
    for (auto& part : levels) {
        part.resize(256);
        for (auto& v : part) v = static_cast<uint8_t>(generator());
    }
    for (auto& v : codes) v = static_cast<uint8_t>(generator());
    for (auto& v : factors) v = static_cast<int32_t>(generator() % 257);
    bitembed_graded_levels(codes.data(), n, first, second, levels[0].data(), levels[1].data(), factors.data(), out.data(), threads);
    for (int64_t i = 0; i < n; i++)
        for (int part = 0; part < 2; part++) {
            const int64_t size = part ? second : first;
            std::vector<uint8_t> own(static_cast<size_t>(size));
            const uint8_t* code = codes.data() + i * width + (part ? bytes[0] : 0);
            bitembed_trellis_levels(code, 1, size, part ? 1 : 2, 1, levels[part].data(), own.data(), 1);
            const int factor = factors[static_cast<size_t>(2 * codes[static_cast<size_t>((i + 1) * width - 1)] + part)];
            for (int64_t d = 0; d < size; d++) {
                const int value = factor * (2 * own[static_cast<size_t>(size - 1 - d)] - 255);
                const int level = out[static_cast<size_t>(i * dim + (part ? first : 0) + d)];
                check(abs(256 * (2 * level - 255) - value) <= 256, "level of a graded code");
            }
        }
}

void test_all() {
    for (const int64_t first : {1, 4, 8, 64, 124})
        for (const int64_t second : {0, 1, 8, 100, 128}) test_graded(first == 8 ? 0 : 70, first, second, 2);
    for (const int step_bits : {1, 2, 3, 5, 7})
        for (const int step_values : {1, 2, 3})
            for (const int64_t dim : {1, 2, 7, 16, 33, 70, 256, 299}) test_trellis(dim == 7 ? 0 : 5, dim, step_bits, step_values, 2);
    test_trellis(200, 20, 3, 2, 3);
    for (const int bits : {1, 2, 4, 8})
        for (const int64_t documents : {0, 1, 47, 100})
            for (const int64_t dim : {1, 3, 31, 64, 70}) test_search(9, documents, dim, bits, 5, 2);
    test_search(3, 13000, 20, 2, 10, 3);
    for (const int threads : {1, 2, 5}) {
        for (const int64_t tokens : {0, 1, 2, 3, 7, 8, 9, 13, 65})
            for (const int64_t in : {1, 4, 15, 16, 17, 100})
                for (const int64_t out : {1, 15, 16, 47, 49, 100}) test_linear(tokens, in, out, 1.0f, threads);
        for (const int64_t rows : {0, 1, 127, 300})
            for (const int64_t n : {1, 15, 16, 33}) test_training_passes(rows, n, 1.0f, threads);
        test_training_passes(3, 20, 3e38f, threads);
        test_linear(5, 4097, 33, 1.0f, threads);
        test_linear(40, 4500, 50, 1.0f, threads);
        for (const float size : {0.0f, 1e-40f, 1e30f}) test_linear(4, 33, 20, size, threads);
    }
    for (const bool causal : {false, true})
        for (const int64_t window : {0, 1, 9})
            for (const int64_t width : {2, 16, 30, 48}) test_attention({1, 16, 0, 17, 70}, 4, 2, width, causal, window);
    const std::vector<int64_t> nothing = {0};
    bitembed_attention(nullptr, nullptr, nullptr, nothing.data(), 0, 1, 1, 4, 1.0f, 1, 0, nullptr, 2);
    const bitembed_norm none = {};
    bitembed_pool(nullptr, nothing.data(), 0, 4, &none, BITEMBED_MEAN, nullptr, 2);
}

}  // namespace

int main() {
    test_functions();
    std::istringstream supported(bitembed_supported());
    std::string isa;
    while (supported >> isa) {
        bitembed_select(isa.c_str());
        const int before = failures;
        generator.seed(7);
        test_all();
        digest = 0xcbf29ce484222325;
        for (const int32_t pooling : {BITEMBED_LAST, BITEMBED_MEAN, BITEMBED_CLS}) {
            test_encoder(false, true, pooling);
            test_encoder(true, false, pooling);
        }
        check(digest == VECTORS, "the vectors' bits, " + std::to_string(digest));
        std::printf("%s: %s\n", isa.c_str(), failures == before ? "passed" : "FAILED");
    }
    return failures ? 1 : 0;
}
