// The kernels by their names, for each type and width.
#include "attention.cuh"
#include "rows.cuh"

#define ATTENTION(T, name, D, M, W, blocks) \
    KERNEL(W * LANES, blocks) \
    attention_##name##_##D##_##M##_##W(const uint16_t *qkv, const float *query_bias, uint16_t *out, const Tile *tiles, int hidden, \
                                 int first_only) { \
        attention<T, D, M, W>(qkv, query_bias, out, tiles, hidden, first_only); \
    }

#define OF_WIDTH(T, name, V) \
    KERNEL(ROWS * 32, 1) \
    add_norm_##name##_##V(const float *before, const int32_t *from, const uint16_t *added, const float *bias, const float *gamma, \
                          const float *beta, float eps, float *after, uint16_t *narrow, int rows) { \
        add_norm<T, V>(before, from, added, bias, gamma, beta, eps, after, narrow, rows); \
    } \
    KERNEL(ROWS * 32, 1) \
    embed_##name##_##V(const uint16_t *words, const uint16_t *positions, const uint16_t *segments, const int32_t *ids, \
                       const float *gamma, const float *beta, float eps, float *wide, uint16_t *narrow, int rows) { \
        embed<T, V>(words, positions, segments, ids, gamma, beta, eps, wide, narrow, rows); \
    }

#define OF_TYPE(T, name) \
    ATTENTION(T, name, 32, 1, 4, 4) \
    ATTENTION(T, name, 32, 2, 4, 2) \
    ATTENTION(T, name, 64, 1, 4, 4) \
    ATTENTION(T, name, 64, 2, 4, 2) \
    OF_WIDTH(T, name, 3) \
    OF_WIDTH(T, name, 6) \
    OF_WIDTH(T, name, 8) \
    KERNEL(256, 1) bias_gelu_##name(uint16_t *x, const float *bias, int width, int rows) { bias_gelu<T>(x, bias, width, rows); } \
    KERNEL(256, 1) narrow_##name(const float *from, float factor, uint16_t *to, int pairs) { narrow<T>(from, factor, to, pairs); }

OF_TYPE(F16, f16)
OF_TYPE(Bf16, bf16)

KERNEL(ROWS * 32, 1)
logits_f32(const float *x, const float *bias, const float *weight, float last, float *out, int width, int rows) {
    logits(x, bias, weight, last, out, width, rows);
}
