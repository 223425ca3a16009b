/* The C interface of the native CPU operations.
 *
 * Every function works on contiguous float32 unless it says otherwise, divides its work among `threads` threads and gives
 * the same result whatever their number. Shapes are checked by the caller. A function that needs memory of its own returns
 * 0, or -1 when there is none; its results are then undefined. Texts of a batch lie one after another without padding: text i has the tokens
 * offsets[i] .. offsets[i + 1] - 1.
 */
#ifndef BITEMBED_CPU_H
#define BITEMBED_CPU_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A ternary weight (out_features, in_features) in the order in which the kernels read it, with what goes before and after
 * the product: y = (codes(norm(x)) . weight) * scales + bias. */
typedef struct {
    const uint8_t* panels; /* [ceil(out / 16)][ceil(in / 16)][16 rows][4 bytes], see bitembed_pack_panels */
    const float* gain;     /* (in_features,) of the RMSNorm before the projection; NULL: no norm */
    const float* bias;     /* (out_features,) or NULL */
    int64_t in_features;
    int64_t out_features;
    float scale;
    float norm_eps;
} bitembed_linear;

enum { BITEMBED_NO_NORM = 0, BITEMBED_RMS_NORM = 1, BITEMBED_LAYER_NORM = 2 };
enum { BITEMBED_SILU = 0, BITEMBED_GELU_TANH = 1, BITEMBED_GELU_ERF = 2 };
enum { BITEMBED_LAST = 0, BITEMBED_MEAN = 1, BITEMBED_CLS = 2 };
enum { BITEMBED_FLOAT32 = 0, BITEMBED_FLOAT16 = 1, BITEMBED_INT8 = 2, BITEMBED_INT4 = 3 };

typedef struct {
    const float* weight; /* (features,) */
    const float* bias;   /* (features,) or NULL */
    float eps;
    int32_t kind;
} bitembed_norm;

/* An embedding table as it lies on disk (kernels/layout.md). */
typedef struct {
    const void* rows;       /* (rows, dimension), int4: (rows, ceil(dimension / 2)) bytes; NULL: no table */
    const uint16_t* scales; /* float16 (rows, ceil(dimension / group)); NULL for floating-point tables */
    int64_t dimension;
    int64_t group;
    int32_t precision;
    float multiplier;
} bitembed_table;

typedef struct {
    bitembed_linear query, key, value, attention_output, gate, up, down; /* gate.panels NULL: down(activation(up)) */
    bitembed_norm attention_norm;      /* before the attention (or, post_norm, after it, on the sum) */
    bitembed_norm query_norm, key_norm; /* per head */
    bitembed_norm attention_output_norm; /* on the attention's output, before it is added */
    bitembed_norm ffn_norm, ffn_output_norm;
    const float* rotations; /* (positions, head_dim): cosines of a half, then sines of a half; NULL: no rotation */
    int64_t window;         /* how many tokens back a token sees, itself included; 0: all */
} bitembed_layer;

typedef struct {
    bitembed_table tokens, positions, types;
    bitembed_norm embedding_norm, final_norm;
    const bitembed_layer* layers;
    int64_t layer_count, hidden, heads, kv_heads, head_dim, intermediate;
    float attention_scale;
    int32_t causal, post_norm, activation, pooling;
} bitembed_encoder;

/* Instruction sets compiled into the library, best first, separated by spaces; those this processor has; the one in use. */
const char* bitembed_compiled(void);
const char* bitembed_supported(void);
const char* bitembed_isa(void);
/* Use `name` from now on; -1 when this processor or the library does not have it. */
int bitembed_select(const char* name);

/* Work on the threads of an OpenMP runtime that the program uses besides, so that the two do not compete: its GOMP_parallel,
   omp_get_thread_num and omp_get_num_threads. Until this is called, the library has threads of its own. */
void bitembed_use_openmp(void (*parallel)(void (*)(void*), void*, unsigned, unsigned), int (*thread)(void),
                         int (*threads)(void));

/* Rows of the packed layout (out, ceil(in / 4)) -> panels. Returns -1 when a field is 3, which is no code. */
int bitembed_pack_panels(const uint8_t* rows, int64_t out, int64_t in, uint8_t* panels, int threads);
/* Latent weights w (out, in) -> codes (out, in) int8, the integers closest to w / divisor within -1 .. 1, and their panels. */
void bitembed_ternary_panels(const float* w, int64_t out, int64_t in, float divisor, int8_t* codes, uint8_t* panels,
                             int threads);
int64_t bitembed_panel_bytes(int64_t out, int64_t in);
/* Whether the n bytes hold what is no code: a half byte 0 (int4), a field 3 (ternary). */
int bitembed_any_zero_nibble(const uint8_t* bytes, int64_t n, int threads);
int bitembed_any_field_3(const uint8_t* bytes, int64_t n, int threads);

/* codes (m, in) int8, scale (m,), inverse_rms (m,): Eq 3 and Eq 2 in one pass; a NULL gain leaves the norm out. x holds
   bfloat16 when bf16 is not 0. */
int bitembed_norm_quantize(const void* x, int64_t m, int64_t in, const float* gain, float eps, int8_t* codes, float* scale,
                           float* inverse_rms, int bf16, int threads);
/* A linear in training, in one pass: y (m, out) of x (m, in), and what its gradient needs, codes, scale and inverse_rms as
   of bitembed_norm_quantize. Here and below arrays called void hold bfloat16 where their flag is not 0. */
int bitembed_latent_linear(const void* x, int64_t m, const bitembed_linear* w, int8_t* codes, float* scale,
                           float* inverse_rms, void* y, int x_bf16, int y_bf16, int threads);
/* The last step of the same where another library multiplies: y (m, n) = sums * scale of the row + bias; bias (n,) or NULL. */
void bitembed_scale_sums(const int32_t* sums, int64_t m, int64_t n, const float* scale, const float* bias, void* y,
                         int bf16, int threads);
/* The passes around the products of its gradient. y (m, n) = grad * scale of the row, and, unless it is NULL, total (n,) = the sum of grad over the rows. */
int bitembed_scale_gradient(const void* grad, int64_t m, int64_t n, const float* scale, void* y, float* total, int bf16,
                            int threads);
/* grad_x (m, n) and grad_gain (n,) of y = gain * x * inverse_rms; grad_x is as wide as x. */
int bitembed_norm_backward(const void* grad, const void* x, int64_t m, int64_t n, const float* inverse_rms,
                           const float* gain, void* grad_x, float* grad_gain, int grad_bf16, int x_bf16, int threads);
/* y[i] (m, out of linears[i]) of x (m, in): projections of one input in one pass; bfloat16 when bf16 is not 0. */
int bitembed_linears(const float* x, int64_t m, const bitembed_linear* linears, int64_t count, void** y, int bf16,
                      int threads);
/* y (m, out of down) = down(activation(gate(x)) * up(x)); without gate, down(activation(up(x))). */
int bitembed_feed_forward(const float* x, int64_t m, const bitembed_linear* gate, const bitembed_linear* up,
                           const bitembed_linear* down, int32_t activation, float* y, int threads);
/* In place on x (tokens, heads, head_dim): norm per head, then rotation by the position within the text. */
void bitembed_rotate(float* x, const int64_t* offsets, int64_t texts, int64_t heads, int64_t head_dim,
                     const bitembed_norm* norm, const float* rotations, int threads);
/* y (tokens, heads, head_dim) of q (tokens, heads, head_dim) and k, v (tokens, kv_heads, head_dim). */
int bitembed_attention(const float* q, const float* k, const float* v, const int64_t* offsets, int64_t texts,
                        int64_t heads, int64_t kv_heads, int64_t head_dim, float scale, int32_t causal, int64_t window,
                        float* y, int threads);
/* y (n, dimension) of ids (n,). */
void bitembed_lookup(const bitembed_table* table, const int64_t* ids, int64_t n, float* y, int threads);
/* y (texts, features), L2-normalised, of states (tokens, features). */
int bitembed_pool(const float* states, const int64_t* offsets, int64_t texts, int64_t features,
                   const bitembed_norm* norm, int32_t pooling, float* y, int threads);
/* y (texts, hidden), L2-normalised: the whole encoder. */
int bitembed_encode(const bitembed_encoder* encoder, const int64_t* ids, const int64_t* offsets, int64_t texts, float* y,
                    int threads);

/* The best k of n documents for each of q queries, best first, equal ones in order; row -1 where there are fewer than k.
   queries (q, dim) int8; codes (n, ceil(dim bits / 8)), the first code in the highest bits; scores are `sum(query (2 z -
   top)) weight`, for bits 1, 2, 4 or 8 and dim up to 32768. */
int bitembed_search(const int8_t* queries, int64_t q, const uint8_t* codes, const float* weight, int64_t n,
                    int64_t dim, int32_t bits, int32_t top, int64_t k, float* scores, int64_t* rows, int threads);

/* Trellis codes of `step_bits` (1 to 7) bits for `step_values` values, of dim values a vector: step t takes row `window` of
   levels (256, step_values), the window being the eight bits of the code that end with its bit (t + 1) step_bits; before its
   first bit there are zeros. A code has ceil(ceil(dim / step_values) step_bits / 8) bytes.
   `encode` finds the codes whose values 2 z - 255 have the least squared distance from targets (n, dim) within +-4095. */
int bitembed_trellis_encode(const int16_t* targets, int64_t n, int64_t dim, int32_t step_bits, int32_t step_values,
                            const uint8_t* levels, uint8_t* codes, int threads);
void bitembed_trellis_levels(const uint8_t* codes, int64_t n, int64_t dim, int32_t step_bits, int32_t step_values,
                             const uint8_t* levels, uint8_t* out, int threads);

/* Levels (n, first + second) of graded codes: one of two bits a value, one of one bit, each from its last component to its
   first, and a byte b: a level z is what is nearest to 2 z - 255 times `factors` (256, 2) of b and the part, in 256ths. */
void bitembed_graded_levels(const uint8_t* codes, int64_t n, int64_t first, int64_t second, const uint8_t* first_levels,
                            const uint8_t* second_levels, const int32_t* factors, uint8_t* out, int threads);

/* GOPS of the widest dot-product instruction of the selected instruction set on `threads` threads; GB/s read from memory. */
double bitembed_peak_gops(int threads);
double bitembed_read_gbs(int threads);
/* Seconds of a call of bitembed_linears with one projection, from `calls` calls that take them in turn. */
double bitembed_time_linears(const float* x, int64_t m, const bitembed_linear* linears, int64_t count, float* y,
                             int64_t calls, int threads);

#ifdef __cplusplus
}
#endif
#endif
