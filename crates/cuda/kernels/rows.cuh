// What is computed value by value, or row by row: everything but the products of matrices.
#pragma once

#include "primitives.cuh"

constexpr int ROWS = 4;

DEVICE float over_lanes(float x) {
    for (int distance = 16; distance > 0; distance /= 2) x += from_lane(x, distance);
    return x;
}

// Layer norm of a row that a warp holds, V times 4 values in each lane; to f32, and to 16 bits.
template <class T, int V>
DEVICE void normalise(float4 (&x)[V], const float *gamma, const float *beta, float eps, float *wide, uint16_t *narrow, int lane) {
    constexpr int WIDTH = V * 128;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < V; i++) sum += (x[i].x + x[i].y) + (x[i].z + x[i].w);
    const float mean = over_lanes(sum) / WIDTH;
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < V; i++) {
        x[i] = make_float4(x[i].x - mean, x[i].y - mean, x[i].z - mean, x[i].w - mean);
        squares += (x[i].x * x[i].x + x[i].y * x[i].y) + (x[i].z * x[i].z + x[i].w * x[i].w);
    }
    const float scale = 1.0f / sqrtf(over_lanes(squares) / WIDTH + eps);
#pragma unroll
    for (int i = 0; i < V; i++) {
        const int at = (i * 32 + lane) * 4;
        const float4 g = *(const float4 *)(gamma + at), b = *(const float4 *)(beta + at);
        const float4 y = make_float4(x[i].x * scale * g.x + b.x, x[i].y * scale * g.y + b.y, x[i].z * scale * g.z + b.z,
                                     x[i].w * scale * g.w + b.w);
        *(float4 *)(wide + at) = y;
        *(uint2 *)(narrow + at) = make_uint2(T::pack(y.x, y.y), T::pack(y.z, y.w));
    }
}

template <class T>
DEVICE float4 four(const uint16_t *from) {
    const uint2 both = *(const uint2 *)from;
    const float2 a = T::unpack(both.x), b = T::unpack(both.y);
    return make_float4(a.x, a.y, b.x, b.y);
}

DEVICE float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// norm(residual + added + bias). The residual of row r is row `from[r]` of `before`, or row r where there is no `from`; `after` may be
// `before` then.
template <class T, int V>
DEVICE void add_norm(const float *before, const int32_t *from, const uint16_t *added, const float *bias, const float *gamma,
                     const float *beta, float eps, float *after, uint16_t *narrow, int rows) {
    constexpr size_t WIDTH = V * 128;
    const int lane = threadIdx.x % 32, row = blockIdx.x * ROWS + threadIdx.x / 32;
    if (row >= rows) return;
    const float *residual = before + (from ? from[row] : row) * WIDTH;
    float4 x[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        const int at = (i * 32 + lane) * 4;
        x[i] = plus(plus(*(const float4 *)(residual + at), four<T>(added + row * WIDTH + at)), *(const float4 *)(bias + at));
    }
    normalise<T, V>(x, gamma, beta, eps, after + row * WIDTH, narrow + row * WIDTH, lane);
}

// norm(word + position + segment). `ids` has each token's three rows in the tables.
template <class T, int V>
DEVICE void embed(const uint16_t *words, const uint16_t *positions, const uint16_t *segments, const int32_t *ids, const float *gamma,
                  const float *beta, float eps, float *wide, uint16_t *narrow, int rows) {
    constexpr size_t WIDTH = V * 128;
    const int lane = threadIdx.x % 32, row = blockIdx.x * ROWS + threadIdx.x / 32;
    if (row >= rows) return;
    const int32_t *id = ids + 3 * (size_t)row;
    float4 x[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        const int at = (i * 32 + lane) * 4;
        x[i] = plus(plus(four<T>(words + id[0] * WIDTH + at), four<T>(segments + id[2] * WIDTH + at)),
                    four<T>(positions + id[1] * WIDTH + at));
    }
    normalise<T, V>(x, gamma, beta, eps, wide + row * WIDTH, narrow + row * WIDTH, lane);
}

// x times the share of the normal distribution below x, by formula 7.1.26 of Abramowitz and Stegun, which is off by 1.5e-7 at most.
DEVICE float gelu(float x) {
    const float a = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * a);
    const float polynomial = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    const float beyond = 0.5f * polynomial * power_of_two(-1.44269504f * a * a);
    return x * (x < 0.0f ? beyond : 1.0f - beyond);
}

// x = gelu(x + bias), in place; 8 values a thread, `width` in a row.
template <class T>
DEVICE void bias_gelu(uint16_t *x, const float *bias, int width, int rows) {
    const size_t at = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) * 8;
    if (at >= (size_t)rows * width) return;
    const int column = at % width;
    uint4 all = *(uint4 *)(x + at);
    uint32_t *pairs = (uint32_t *)&all;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 v = T::unpack(pairs[i]), b = *(const float2 *)(bias + column + 2 * i);
        pairs[i] = T::pack(gelu(v.x + b.x), gelu(v.y + b.y));
    }
    *(uint4 *)(x + at) = all;
}

// One logit of each row: tanh(x + bias) · weight + last.
DEVICE void logits(const float *x, const float *bias, const float *weight, float last, float *out, int width, int rows) {
    const int lane = threadIdx.x % 32, row = blockIdx.x * ROWS + threadIdx.x / 32;
    if (row >= rows) return;
    float sum = 0.0f;
    for (int i = lane; i < width; i += 32) sum += tanhf(x[row * (size_t)width + i] + bias[i]) * weight[i];
    sum = over_lanes(sum);
    if (lane == 0) out[row] = sum + last;
}

// f32 to 16 bits, multiplied by `factor`; two values a thread.
template <class T>
DEVICE void narrow(const float *from, float factor, uint16_t *to, int pairs) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= pairs) return;
    const float2 x = ((const float2 *)from)[i];
    ((uint32_t *)to)[i] = T::pack(x.x * factor, x.y * factor);
}
