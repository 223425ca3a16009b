// Exact search: int8 queries against packed codes of 1, 2, 4 or 8 bits, the best k documents of each query.
//
// A code z stands for 2 z - top. The integer score of a query q is the sum of q (2 z - top) = 2 sum(q z) - top sum(q), the
// score its product with the document's weight. All instruction sets compute the same numbers.
#pragma once

#include <algorithm>
#include <vector>

#include "linear.h"
#include "memory.h"
#include "team.h"

namespace {

struct Found {
    float score;
    int64_t row;
    bool better_than(const Found& other) const {
        return score > other.score || (score == other.score && row < other.row);
    }
};

// The best k of what is offered; the worst of them is on top of the heap.
class Best {
public:
    explicit Best(int64_t k) : k_(static_cast<size_t>(k)) { heap_.reserve(k_); }

    // Scores below it need not be offered.
    float least() const { return heap_.size() < k_ ? -__builtin_inff() : heap_.front().score; }

    void offer(Found found) {
        if (heap_.size() < k_) {
            heap_.push_back(found);
            std::push_heap(heap_.begin(), heap_.end(), first_is_better);
        } else if (found.better_than(heap_.front())) {
            std::pop_heap(heap_.begin(), heap_.end(), first_is_better);
            heap_.back() = found;
            std::push_heap(heap_.begin(), heap_.end(), first_is_better);
        }
    }
    const std::vector<Found>& found() const { return heap_; }

private:
    static bool first_is_better(const Found& a, const Found& b) { return a.better_than(b); }
    size_t k_;
    std::vector<Found> heap_;
};

constexpr int64_t DOCUMENTS_OF_A_BLOCK = 48;
constexpr int64_t DOCUMENTS_OF_AN_ITEM = 256 * DOCUMENTS_OF_A_BLOCK;

// Queries in the order in which a block of documents meets them.
struct Queries {
    std::vector<int8_t> codes;
    std::vector<int32_t> sums;
    int64_t stride;
};

inline int code_at(const uint8_t* row, int64_t k, int bits) {
    const int64_t bit = k * bits;
    return row[bit / 8] >> (8 - bits - bit % 8) & ((1 << bits) - 1);
}

#if defined(__AVX512VNNI__)

// A step is a 32-bit word of every document. Its fields of b bits, the highest first in each byte, meet four components of a
// query at a time: field f of the bytes j the components of the codes (4 step + j) 8 / b + f.
inline Queries arrange(const int8_t* queries, int64_t count, int64_t dim, int bits, int64_t row_bytes) {
    const int64_t fields = 8 / bits, steps = blocks_of(row_bytes, 4);
    Queries to;
    to.stride = steps * fields * 4;
    to.codes.assign(static_cast<size_t>(count * to.stride), 0);
    to.sums.assign(static_cast<size_t>(count), 0);
    for (int64_t q = 0; q < count; q++) {
        for (int64_t k = 0; k < dim; k++) {
            const int64_t byte = k / fields, field = k % fields;
            to.codes[static_cast<size_t>(q * to.stride + (byte / 4 * fields + field) * 4 + byte % 4)] = queries[q * dim + k];
            to.sums[static_cast<size_t>(q)] += queries[q * dim + k];
        }
    }
    return to;
}

inline int64_t block_bytes(int64_t, int64_t row_bytes) { return blocks_of(row_bytes, 4) * 4 * DOCUMENTS_OF_A_BLOCK; }

// Rows (48, row_bytes) -> words (steps, 48): what each step reads lies together. Rows that are not there are zeros.
inline void take_block(const uint8_t* rows, int64_t count, int64_t, int, int64_t row_bytes, void* block) {
    const int64_t steps = blocks_of(row_bytes, 4);
    uint32_t* words = static_cast<uint32_t*>(block);
    for (int64_t first = 0; first < DOCUMENTS_OF_A_BLOCK; first += LANES) {
        for (int64_t r = 0; r < LANES; r++) {
            const uint8_t* row = rows + (first + r) * row_bytes;
            uint32_t* column = words + first + r;
            if (first + r >= count) {
                for (int64_t step = 0; step < steps; step++) column[step * DOCUMENTS_OF_A_BLOCK] = 0;
                continue;
            }
            for (int64_t step = 0; step < row_bytes / 4; step++)
                memcpy(column + step * DOCUMENTS_OF_A_BLOCK, row + 4 * step, 4);
            if (row_bytes % 4) {
                column[(steps - 1) * DOCUMENTS_OF_A_BLOCK] = 0;
                memcpy(column + (steps - 1) * DOCUMENTS_OF_A_BLOCK, row + row_bytes / 4 * 4, static_cast<size_t>(row_bytes % 4));
            }
        }
    }
}

// Not inlined: among the variables of a caller compilers spill the sums.
template <int BITS, int T>
__attribute__((noinline)) void block_sums(const void* block, int64_t steps, const int8_t* codes, int64_t stride, int32_t* sums) {
    const uint32_t* words = static_cast<const uint32_t*>(block);
    __m512i acc[T][3];
    BITEMBED_UNROLL for (int t = 0; t < T; t++) {
        BITEMBED_UNROLL for (int b = 0; b < 3; b++) acc[t][b] = _mm512_setzero_si512();
    }
    const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << BITS) - 1));
    for (int64_t step = 0; step < steps; step++, words += DOCUMENTS_OF_A_BLOCK) {
        BITEMBED_UNROLL for (int f = 0; f < 8 / BITS; f++, codes += 4) {
            __m512i z[3];
            BITEMBED_UNROLL for (int b = 0; b < 3; b++) {
                const __m512i stored = _mm512_loadu_si512(words + b * LANES);
                z[b] = BITS == 8 ? stored : _mm512_and_si512(_mm512_srli_epi32(stored, 8 - BITS - f * BITS), mask);
            }
            BITEMBED_UNROLL for (int t = 0; t < T; t++) {
                __m512i four;
                asm("vpbroadcastd %1, %0" : "=v"(four) : "m"(*reinterpret_cast<const int32_t*>(codes + t * stride)));
                BITEMBED_UNROLL for (int b = 0; b < 3; b++) dot(acc[t][b], z[b], four);
            }
        }
    }
    BITEMBED_UNROLL for (int t = 0; t < T; t++) {
        BITEMBED_UNROLL for (int b = 0; b < 3; b++)
            _mm512_storeu_si512(sums + t * DOCUMENTS_OF_A_BLOCK + b * LANES, acc[t][b]);
    }
}

constexpr int64_t QUERIES_TOGETHER = 8;

// Sums of q z (up to 8 queries, 48 documents).
inline void sums_of(const void* block, int64_t, int bits, int64_t row_bytes, const Queries& q, int64_t first, int64_t count,
                    int32_t* sums) {
    const int64_t steps = blocks_of(row_bytes, 4);
    const auto run = [&](auto width) {
        constexpr int B = decltype(width)::value;
        const int8_t* codes = q.codes.data() + first * q.stride;
        const auto some = [&](int64_t t, auto sums_of_some) {
            sums_of_some(block, steps, codes + t * q.stride, q.stride, sums + t * DOCUMENTS_OF_A_BLOCK);
        };
        if (count == 8) return some(0, block_sums<B, 8>);
        int64_t t = 0;
        if (count & 4) some(t, block_sums<B, 4>), t += 4;
        if (count & 2) some(t, block_sums<B, 2>), t += 2;
        if (count & 1) some(t, block_sums<B, 1>);
    };
    if (bits == 1) run(std::integral_constant<int, 1>());
    if (bits == 2) run(std::integral_constant<int, 2>());
    if (bits == 4) run(std::integral_constant<int, 4>());
    if (bits == 8) run(std::integral_constant<int, 8>());
}

#else

constexpr int64_t QUERIES_TOGETHER = 1;

inline Queries arrange(const int8_t* queries, int64_t count, int64_t dim, int, int64_t) {
    Queries to;
    to.stride = dim;
    to.codes.assign(queries, queries + count * dim);
    for (int64_t q = 0; q < count; q++) {
        int32_t sum = 0;
        for (int64_t k = 0; k < dim; k++) sum += queries[q * dim + k];
        to.sums.push_back(sum);
    }
    return to;
}

inline int64_t block_bytes(int64_t dim, int64_t) { return DOCUMENTS_OF_A_BLOCK * dim * 2; }

inline void take_block(const uint8_t* rows, int64_t count, int64_t dim, int bits, int64_t row_bytes, void* block) {
    int16_t* codes = static_cast<int16_t*>(block);
    for (int64_t r = 0; r < DOCUMENTS_OF_A_BLOCK; r++)
        for (int64_t k = 0; k < dim; k++)
            codes[r * dim + k] = static_cast<int16_t>(r < count ? code_at(rows + r * row_bytes, k, bits) : 0);
}

inline void sums_of(const void* block, int64_t dim, int, int64_t, const Queries& q, int64_t first, int64_t, int32_t* sums) {
    const int16_t* codes = static_cast<const int16_t*>(block);
    const int8_t* query = q.codes.data() + first * q.stride;
    for (int64_t r = 0; r < DOCUMENTS_OF_A_BLOCK; r++) {
        int32_t sum = 0;
        for (int64_t k = 0; k < dim; k++) sum += codes[r * dim + k] * query[k];
        sums[r] = sum;
    }
}

#endif

// Offers the documents [from, to) to every query's best.
inline void search_documents(const Queries& queries, int64_t query_count, const uint8_t* codes, const float* weight,
                             int64_t from, int64_t to, int64_t dim, int bits, int32_t top, void* block, std::vector<Best>& best) {
    const int64_t row_bytes = blocks_of(dim * bits, 8);
    int32_t sums[QUERIES_TOGETHER * DOCUMENTS_OF_A_BLOCK];
    for (int64_t row = from; row < to; row += DOCUMENTS_OF_A_BLOCK) {
        const int64_t rows = least(DOCUMENTS_OF_A_BLOCK, to - row);
        take_block(codes + row * row_bytes, rows, dim, bits, row_bytes, block);
        float lengths[DOCUMENTS_OF_A_BLOCK] = {};
        memcpy(lengths, weight + row, static_cast<size_t>(rows) * sizeof(float));
        for (int64_t q = 0; q < query_count; q += QUERIES_TOGETHER) {
            const int64_t together = least(QUERIES_TOGETHER, query_count - q);
            sums_of(block, dim, bits, row_bytes, queries, q, together, sums);
            for (int64_t t = 0; t < together; t++) {
                Best& of_query = best[static_cast<size_t>(q + t)];
                const int32_t offset = top * queries.sums[static_cast<size_t>(q + t)];
                for (int64_t first = 0; first < rows; first += LANES) {
                    i32x16 sum;
                    memcpy(&sum, sums + t * DOCUMENTS_OF_A_BLOCK + first, sizeof sum);
                    const f32x16 score = to_float(2 * sum - offset) * load(lengths + first);
                    const float least_score = of_query.least();
                    if (all_less(score, splat(least_score))) continue;
                    for (int64_t i = 0; i < least(LANES, rows - first); i++)
                        if (score[i] >= least_score) of_query.offer({score[i], row + first + i});
                }
            }
        }
    }
}

// The best k of all documents, best first; fewer documents leave -infinity and row -1. Returns -1 without memory.
inline int best_documents(const int8_t* query_codes, int64_t query_count, const uint8_t* codes, const float* weight,
                  int64_t documents, int64_t dim, int bits, int32_t top, int64_t k, float* scores, int64_t* rows, int threads) {
    const int64_t row_bytes = blocks_of(dim * bits, 8), bytes = aligned(block_bytes(dim, row_bytes));
    Arena arena;
    arena.take<char>(threads * bytes);
    if (!arena.allocate()) return -1;
    char* memory = arena.take<char>(threads * bytes);
    const Queries queries = arrange(query_codes, query_count, dim, bits, row_bytes);
    std::vector<std::vector<Best>> best(static_cast<size_t>(threads),
                                        std::vector<Best>(static_cast<size_t>(query_count), Best(k)));
    auto work = [&](bitembed::Team& team, int thread) {
        const int64_t items = blocks_of(documents, DOCUMENTS_OF_AN_ITEM);
        for (int64_t item; (item = team.next(0, thread, items)) >= 0;) {
            const int64_t from = item * DOCUMENTS_OF_AN_ITEM, to = least(documents, from + DOCUMENTS_OF_AN_ITEM);
            search_documents(queries, query_count, codes, weight, from, to, dim, bits, top, memory + thread * bytes,
                             best[static_cast<size_t>(thread)]);
        }
    };
    bitembed::run_team(threads, 1, work);
    for (int64_t q = 0; q < query_count; q++) {
        std::vector<Found> all;
        for (const auto& of_thread : best) {
            const auto& found = of_thread[static_cast<size_t>(q)].found();
            all.insert(all.end(), found.begin(), found.end());
        }
        std::sort(all.begin(), all.end(), [](const Found& a, const Found& b) { return a.better_than(b); });
        for (int64_t i = 0; i < k; i++) {
            const bool there = i < static_cast<int64_t>(all.size());
            scores[q * k + i] = there ? all[static_cast<size_t>(i)].score : -__builtin_inff();
            rows[q * k + i] = there ? all[static_cast<size_t>(i)].row : -1;
        }
    }
    return 0;
}

}  // namespace
