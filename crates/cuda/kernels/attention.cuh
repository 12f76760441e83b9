// Softmax attention within each of several sequences that lie one after the other, without a score in memory.
#pragma once

#include "primitives.cuh"

// The queries of one block: up to 16 · M · WARPS of a sequence, from `query` on. Their outputs are rows `out` and following.
struct Tile {
    int32_t start, length, query, out;
};

constexpr int LANES = 32;
// Keys, with their values, that are there at a time; the next as many are on their way meanwhile.
constexpr int KEYS = 64;

template <bool VALUE>
struct Constant {
    static constexpr bool value = VALUE;
};

// Where in a tile's shared memory the 8 values `chunk` of a row are: moved about, so that 8 rows' chunks lie in different banks.
template <int D>
DEVICE int place(int row, int chunk) {
    int moved = D == 64 ? chunk ^ (row & 7) : chunk ^ ((row >> 1) & 3);
    return row * D + moved * 8;
}

// `qkv` has queries, keys and values of `hidden` each in a row; queries are yet to be given their bias, and are scaled such that softmax is
// in powers of two. Each warp has 16 · M queries. With `first_only` only the first query of a tile is stored.
//
// Of a matrix of 16 rows and 8 columns, lane l has two neighbours of row l / 4 and two of row l / 4 + 8, from column 2 · (l % 4) on.
template <class T, int D, int M, int WARPS>
DEVICE void attention(const uint16_t *qkv, const float *query_bias, uint16_t *out, const Tile *tiles, int hidden, int first_only) {
    constexpr int STEPS = D / 16, CHUNKS = D / 8;
    SHARED uint16_t keys[2][KEYS * D];
    SHARED uint16_t values[2][KEYS * D];
    const Tile tile = tiles[blockIdx.x];
    const int thread = threadIdx.x, lane = thread % LANES, warp = thread / LANES;
    const int group = lane / 4, pair = lane % 4 * 2;
    const size_t stride = 3 * (size_t)hidden;
    const uint16_t *sequence = qkv + tile.start * stride + blockIdx.y * D;

    auto fetch = [&](int step) {
        for (int i = thread; i < KEYS * CHUNKS; i += WARPS * LANES) {
            int row = i / CHUNKS, chunk = i % CHUNKS, key = step * KEYS + row;
            bool there = key < tile.length;
            const uint16_t *from = sequence + (there ? key : 0) * stride + hidden + chunk * 8;
            copy_16(&keys[step & 1][place<D>(row, chunk)], from, there);
            copy_16(&values[step & 1][place<D>(row, chunk)], from + hidden, there);
        }
        end_of_copies();
    };
    fetch(0);

    const int first = tile.query + warp * 16 * M;
    const bool busy = first < tile.length;
    uint32_t queries[M][STEPS][4];
    const float *bias = query_bias + blockIdx.y * D;
    auto query = [&](int row, int column) {
        float2 x = make_float2(0.0f, 0.0f);
        if (row < tile.length) {
            x = T::unpack(*(const uint32_t *)(sequence + row * stride + column));
            x = make_float2(x.x + bias[column], x.y + bias[column + 1]);
        }
        return T::pack(x.x, x.y);
    };
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            int row = first + m * 16 + group, column = step * 16 + pair;
            queries[m][step][0] = query(row, column);
            queries[m][step][1] = query(row + 8, column);
            queries[m][step][2] = query(row, column + 8);
            queries[m][step][3] = query(row + 8, column + 8);
        }

    // Of rows `group` and `group` + 8: the largest score, the sum of the powers in this lane, and the weighted sum of the values.
    float most[M][2], sum[M][2], context[M][D / 8][4];
#pragma unroll
    for (int m = 0; m < M; m++) {
        most[m][0] = most[m][1] = -INFINITY;
        sum[m][0] = sum[m][1] = 0.0f;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            context[m][n][0] = context[m][n][1] = context[m][n][2] = context[m][n][3] = 0.0f;
    }

    // One tile of keys. Of a tile that is not full, what lies beyond the sequence is masked, and 16 keys that all do are left out.
    auto attend = [&](int at, auto is_full) {
        constexpr bool FULL = decltype(is_full)::value;
        const int left = tile.length - at * KEYS;
        const uint16_t *key_tile = keys[at & 1], *value_tile = values[at & 1];
        float scores[M][KEYS / 8][4];
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) scores[m][2 * n][i] = scores[m][2 * n + 1][i] = 0.0f;
            if (!FULL && n * 16 >= left) continue;
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                uint32_t b[4];
                int row = n * 16 + lane / 16 * 8 + lane % 8;
                load_matrices(b, &key_tile[place<D>(row, step * 2 + lane / 8 % 2)]);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    T::multiply(scores[m][2 * n], queries[m][step], b[0], b[1]);
                    T::multiply(scores[m][2 * n + 1], queries[m][step], b[2], b[3]);
                }
            }
        }
        if (!FULL) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (n * 8 + pair + i % 2 >= left)
#pragma unroll
                        for (int m = 0; m < M; m++) scores[m][n][i] = -INFINITY;
        }
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float top = most[m][half];
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) top = fmaxf(top, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
                top = fmaxf(top, from_lane(top, 1));
                top = fmaxf(top, from_lane(top, 2));
                const float shrink = power_of_two(most[m][half] - top);
                most[m][half] = top;
                float add = 0.0f;
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; i++) {
                        scores[m][n][i] = power_of_two(scores[m][n][i] - top);
                        add += scores[m][n][i];
                    }
                sum[m][half] = sum[m][half] * shrink + add;
#pragma unroll
                for (int n = 0; n < D / 8; n++) {
                    context[m][n][2 * half] *= shrink;
                    context[m][n][2 * half + 1] *= shrink;
                }
            }
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            if (!FULL && k * 16 >= left) continue;
            uint32_t weights[M][4];
#pragma unroll
            for (int m = 0; m < M; m++) {
                weights[m][0] = T::pack(scores[m][2 * k][0], scores[m][2 * k][1]);
                weights[m][1] = T::pack(scores[m][2 * k][2], scores[m][2 * k][3]);
                weights[m][2] = T::pack(scores[m][2 * k + 1][0], scores[m][2 * k + 1][1]);
                weights[m][3] = T::pack(scores[m][2 * k + 1][2], scores[m][2 * k + 1][3]);
            }
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                uint32_t b[4];
                int row = k * 16 + lane / 8 % 2 * 8 + lane % 8;
                load_matrices_transposed(b, &value_tile[place<D>(row, n * 2 + lane / 16)]);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    T::multiply(context[m][2 * n], weights[m], b[0], b[1]);
                    T::multiply(context[m][2 * n + 1], weights[m], b[2], b[3]);
                }
            }
        }
    };

    const int steps = (tile.length + KEYS - 1) / KEYS;
    for (int at = 0; at < steps; at++) {
        if (at + 1 < steps) {
            fetch(at + 1);
            wait_for_copies<1>();
        } else {
            wait_for_copies<0>();
        }
        wait_for_block();
        if (busy) {
            if (tile.length - at * KEYS >= KEYS) attend(at, Constant<true>());
            else attend(at, Constant<false>());
        }
        // The tile after the next takes this one's place.
        wait_for_block();
    }

    if (!busy) return;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = sum[m][half];
            total += from_lane(total, 1);
            total += from_lane(total, 2);
            const int row = first + m * 16 + half * 8 + group;
            if (row >= tile.length || (first_only && row != tile.query)) continue;
            const float share = 1.0f / total;
            uint16_t *to = out + (tile.out + row - tile.query) * (size_t)hidden + blockIdx.y * D + pair;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                *(uint32_t *)(to + n * 8) = T::pack(context[m][n][2 * half] * share, context[m][n][2 * half + 1] * share);
        }
}
