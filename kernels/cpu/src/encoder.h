// The whole encoder on a batch of texts, in one parallel region.
//
// Everything but attention is a matter of one token. A thread takes a block of tokens through the end of a layer and the
// beginning of the next, with all that lies between in its cache; threads wait for each other only before and after
// attention.
#pragma once

#include "attention.h"
#include "linear.h"
#include "memory.h"
#include "rows.h"
#include "team.h"

namespace {

using bitembed::Team;

#if defined(__AMX_INT8__)
constexpr int64_t MOST_BLOCK_TOKENS = 128, LEAST_TURN_TOKENS = 128;  // the weights are unpacked once for all of them
#else
constexpr int64_t MOST_BLOCK_TOKENS = 64, LEAST_TURN_TOKENS = 16;
#endif

// Tokens of a block: as many as share the reading of the weights well, but no fewer blocks than threads; and `turns` for each
// thread where blocks stay large enough, so that one that starts late leaves the others something to do.
inline int64_t block_tokens(int64_t tokens, int threads, int64_t turns = 1) {
    if (tokens == 0) return 1;
    const int64_t one_each = least<int64_t>(threads, blocks_of(tokens, 4));
    const int64_t in_turns = least<int64_t>(turns * threads, tokens / LEAST_TURN_TOKENS);
    const int64_t blocks = most(most(one_each, in_turns), blocks_of(tokens, MOST_BLOCK_TOKENS));
    const int64_t even = blocks_of(blocks, threads) * threads;
    return most<int64_t>(1, blocks_of(tokens, blocks < threads ? blocks : even));
}

inline Codes take_codes(Arena& arena, int64_t tokens, int64_t features) {
    // A row more than a whole number of pages apart would compete for the same cache sets.
    const int64_t stride = code_width(features) + 64;
    // A matrix unit reads whole tiles of sixteen tokens, and 64 codes of each.
    return {arena.take<int8_t>(blocks_of(tokens, 16) * 16 * stride), arena.take<float>(tokens), arena.take<int32_t>(tokens), stride};
}

class EncoderRun {
public:
    EncoderRun(const bitembed_encoder& encoder, const int64_t* ids, const int64_t* offsets, int64_t texts, float* y)
        : e_(encoder), ids_(ids), offsets_(offsets), texts_(texts), y_(y), tokens_(offsets[texts]) {}

    // False when memory runs out.
    bool run(int threads) {
        block_ = block_tokens(tokens_, threads);
        lay_out(threads);
        if (!arena_.allocate()) return false;
        lay_out(threads);
        place_texts();
        auto work = [this](Team& team, int thread) { run_thread(team, thread, scratch_[thread]); };
        bitembed::run_team(threads, 2 * e_.layer_count + 2, work);
        return true;
    }

private:
    struct Scratch {
        float *inner, *branch, *heads, *rows, *quantize, *scores;
        Codes codes[3];
    };
    struct Item {
        int64_t text, head, from;
    };

    int64_t q_width() const { return e_.heads * e_.head_dim; }
    int64_t kv_width() const { return e_.kv_heads * e_.head_dim; }

    void lay_out(int threads) {
        longest_ = 0, padded_ = 0, items_ = 0;
        for (int64_t i = 0; i < texts_; i++) {
            const int64_t length = offsets_[i + 1] - offsets_[i];
            longest_ = most(longest_, length);
            padded_ += blocks_of(length, LANES) * LANES;
            items_ += blocks_of(length, QUERIES_OF_AN_ITEM) * e_.heads;
        }
        states_ = arena_.take<float>(tokens_ * e_.hidden);
        queries_ = arena_.take<float>(tokens_ * q_width());
        keys_ = arena_.take<float>(padded_ * kv_width());
        values_ = arena_.take<float>(tokens_ * kv_width());
        key_start_ = arena_.take<int64_t>(texts_);
        text_of_ = arena_.take<int64_t>(tokens_);
        item_list_ = arena_.take<Item>(items_);
        scratch_ = arena_.take<Scratch>(threads);
        const int64_t widest = most(most(e_.hidden, q_width()), e_.intermediate);
        for (int i = 0; i < threads; i++) {
            Scratch s;
            s.inner = arena_.take<float>(block_ * e_.intermediate);
            s.branch = arena_.take<float>(block_ * e_.hidden);
            s.heads = arena_.take<float>(block_ * kv_width());
            s.rows = arena_.take<float>(TOKENS_TOGETHER * (code_width(e_.hidden) + LANES));
            s.quantize = arena_.take<float>(quantize_scratch(widest));
            s.scores = arena_.take<float>(QUERY_ROWS * blocks_of(longest_ + LANES, LANES) * LANES);
            for (Codes& codes : s.codes) codes = take_codes(arena_, block_, widest);
            if (scratch_) scratch_[i] = s;
        }
    }

    void place_texts() {
        int64_t padded = 0, item = 0;
        for (int64_t i = 0; i < texts_; i++) {
            const int64_t length = offsets_[i + 1] - offsets_[i];
            key_start_[i] = padded;
            padded += blocks_of(length, LANES) * LANES;
            for (int64_t t = offsets_[i]; t < offsets_[i + 1]; t++) text_of_[t] = i;
            for (int64_t from = 0; from < length; from += QUERIES_OF_AN_ITEM)
                for (int64_t head = 0; head < e_.heads; head++) item_list_[item++] = {i, head, from};
        }
    }

    void run_thread(Team& team, int thread, Scratch& s) {
        const MatrixUnit unit;
        int64_t phase = 0;
        for (int64_t layer = 0; layer <= e_.layer_count; layer++) {
            for (int64_t b; (b = team.next(phase, thread, blocks_of(tokens_, block_))) >= 0;)
                block(layer, b * block_, least(tokens_, (b + 1) * block_), s);
            phase++;
            team.barrier();
            if (layer == e_.layer_count) break;
            for (int64_t i; (i = team.next(phase, thread, items_)) >= 0;) attend_item(e_.layers[layer], item_list_[i], s);
            phase++;
            team.barrier();
        }
        for (int64_t i; (i = team.next(phase, thread, texts_)) >= 0;)
            pool_text(states_ + offsets_[i] * e_.hidden, offsets_[i + 1] - offsets_[i], e_.hidden, e_.final_norm,
                      e_.pooling, s.rows, y_ + i * e_.hidden);
    }

    // Tokens [from, to) through the end of layer `layer - 1` and up to the attention of `layer`.
    void block(int64_t layer, int64_t from, int64_t to, Scratch& s) {
        if (layer == 0) {
            embed(from, to);
        } else {
            after_attention(e_.layers[layer - 1], from, to, s);
            feed_forward(e_.layers[layer - 1], from, to, s);
        }
        if (layer < e_.layer_count) before_attention(e_.layers[layer], from, to, s);
    }

    void embed(int64_t from, int64_t to) {
        for (int64_t t = from; t < to; t++) {
            float* state = states_ + t * e_.hidden;
            look_up(e_.tokens, ids_[t], state, false);
            if (e_.types.rows) look_up(e_.types, 0, state, true);
            if (e_.positions.rows) look_up(e_.positions, t - offsets_[text_of_[t]], state, true);
            normalise(state, e_.hidden, e_.embedding_norm, state);
        }
    }

    // Quantizes the input of a sublayer for its projections: the states, normalised first where the norm comes first.
    void quantize_states(const bitembed_norm& norm, const bitembed_linear* const* w, int64_t projections, int64_t from,
                         int64_t to, Scratch& s, Codes* codes) {
        const bool first = !e_.post_norm && norm.kind != BITEMBED_NO_NORM;
        const auto row = [&](int64_t t) -> const float* {
            const float* state = states_ + (from + t) * e_.hidden;
            if (!first) return state;
            float* normalised = s.rows + t % TOKENS_TOGETHER * (code_width(e_.hidden) + LANES);
            normalise(state, e_.hidden, norm, normalised);
            return normalised;
        };
        quantize_inputs(row, to - from, w, projections, s.quantize, codes);
    }

    void before_attention(const bitembed_layer& layer, int64_t from, int64_t to, Scratch& s) {
        const int64_t count = to - from;
        const bitembed_linear* const projections[3] = {&layer.query, &layer.key, &layer.value};
        Codes codes[3] = {s.codes[0], s.codes[1], s.codes[2]};
        quantize_states(layer.attention_norm, projections, 3, from, to, s, codes);
        linear(codes[0], count, layer.query, 0, row_blocks(layer.query), queries_ + from * q_width(), q_width());
        for (int64_t t = from; t < to; t++)
            for (int64_t head = 0; head < e_.heads; head++)
                rotate_head(queries_ + t * q_width() + head * e_.head_dim, e_.head_dim, layer.query_norm, rotation(layer, t));
        linear(codes[1], count, layer.key, 0, row_blocks(layer.key), s.heads, kv_width());
        for (int64_t t = from; t < to; t++) {
            const int64_t text = text_of_[t], position = t - offsets_[text];
            const int64_t length = blocks_of(offsets_[text + 1] - offsets_[text], LANES) * LANES;
            for (int64_t head = 0; head < e_.kv_heads; head++) {
                float* key = s.heads + (t - from) * kv_width() + head * e_.head_dim;
                rotate_head(key, e_.head_dim, layer.key_norm, rotation(layer, t));
                put_key(key, e_.head_dim, position, keys_ + key_start_[text] * kv_width() + head * length * e_.head_dim);
            }
        }
        linear(codes[2], count, layer.value, 0, row_blocks(layer.value), values_ + from * kv_width(), kv_width());
    }

    const float* rotation(const bitembed_layer& layer, int64_t t) const {
        return layer.rotations ? layer.rotations + (t - offsets_[text_of_[t]]) * e_.head_dim : nullptr;
    }

    void attend_item(const bitembed_layer& layer, const Item& item, Scratch& s) {
        const int64_t start = offsets_[item.text], length = offsets_[item.text + 1] - start;
        const int64_t kv_head = item.head * e_.kv_heads / e_.heads;
        const int64_t keys_of_head = blocks_of(length, LANES) * LANES * e_.head_dim;
        const HeadMemory memory = {keys_ + key_start_[item.text] * kv_width() + kv_head * keys_of_head,
                                   values_ + start * kv_width() + kv_head * e_.head_dim, kv_width(), e_.head_dim};
        float* q = queries_ + start * q_width() + item.head * e_.head_dim;
        attend_range(q, q_width(), item.from, least(length, item.from + QUERIES_OF_AN_ITEM), length, memory,
                     e_.attention_scale, e_.causal != 0, layer.window, s.scores,
                     blocks_of(longest_ + LANES, LANES) * LANES, q, q_width());
    }

    // Adds s.branch, the output of a sublayer, to the states, with the norms around it.
    void add_branch(const bitembed_norm& branch_norm, const bitembed_norm& sum_norm, int64_t from, int64_t to, Scratch& s) {
        for (int64_t t = from; t < to; t++) {
            float *state = states_ + t * e_.hidden, *branch = s.branch + (t - from) * e_.hidden;
            normalise(branch, e_.hidden, branch_norm, branch);
            for (int64_t i = 0; i < e_.hidden; i += LANES)
                store(state + i, load(state + i, e_.hidden - i) + load(branch + i, e_.hidden - i), e_.hidden - i);
            if (e_.post_norm) normalise(state, e_.hidden, sum_norm, state);
        }
    }

    void project(const bitembed_linear& w, const float* x, int64_t count, Scratch& s) {
        quantize_input(x, count, w, s.quantize, s.codes[0]);
        linear(s.codes[0], count, w, 0, row_blocks(w), s.branch, e_.hidden);
    }

    void after_attention(const bitembed_layer& layer, int64_t from, int64_t to, Scratch& s) {
        project(layer.attention_output, queries_ + from * q_width(), to - from, s);
        add_branch(layer.attention_output_norm, layer.attention_norm, from, to, s);
    }

    void feed_forward(const bitembed_layer& layer, int64_t from, int64_t to, Scratch& s) {
        const bitembed_linear* const projections[2] = {layer.gate.panels ? &layer.gate : &layer.up, &layer.up};
        Codes codes[2] = {s.codes[0], s.codes[1]};
        quantize_states(layer.ffn_norm, projections, 2, from, to, s, codes);
        gated(codes[0], codes[1], to - from, layer.gate, layer.up, e_.activation, s.inner, e_.intermediate);
        project(layer.down, s.inner, to - from, s);
        add_branch(layer.ffn_output_norm, layer.ffn_norm, from, to, s);
    }

    const bitembed_encoder& e_;
    const int64_t *ids_, *offsets_;
    const int64_t texts_;
    float* y_;
    const int64_t tokens_;
    int64_t block_ = 0, longest_ = 0, padded_ = 0, items_ = 0;
    Arena arena_;
    float *states_ = nullptr, *queries_ = nullptr, *keys_ = nullptr, *values_ = nullptr;
    int64_t *key_start_ = nullptr, *text_of_ = nullptr;
    Item* item_list_ = nullptr;
    Scratch* scratch_ = nullptr;
};

}  // namespace
