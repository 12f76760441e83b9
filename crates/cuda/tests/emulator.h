// A CPU in a GPU's place, for the kernels' tests: what kernels/primitives.cuh takes from the chip, of the same layout, by plain loops.
//
// Each thread of a block is a coroutine. Where threads of a warp or block meet, each leaves what it brings and yields, and the last one
// to come does the work for all. A copy into shared memory is made when its thread waits for it, and no sooner. Blocks run one after
// the other. Threads take turns in the order that the test asks for: a missing barrier shows in one of them.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <deque>
#include <functional>
#include <vector>

#define DEVICE inline
#define KERNEL(threads, blocks) inline void
#define SHARED alignas(128) static

struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint2 { uint32_t x, y; };
struct uint4 { uint32_t x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }

struct Index { int x, y; };
inline Index threadIdx, blockIdx, blockDim;

namespace emulator {

struct Copy { uint16_t *to; const uint16_t *from; bool there; };
struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    bool done;
    std::deque<std::vector<Copy>> copies;
};
// Where the threads of a warp, or of the block, meet.
struct Meeting { int here = 0; uint64_t times = 0; };

inline std::vector<Thread> threads;
inline std::vector<Meeting> warps;
inline Meeting block;
inline std::vector<void *> brought;
inline ucontext_t scheduler;
inline std::function<void()> kernel;
inline uint64_t progress;

inline void yield() {
    int self = threadIdx.x;
    swapcontext(&threads[self].context, &scheduler);
    threadIdx.x = self;
}

template <class Work>
void meet(Meeting &meeting, int all, Work work) {
    if (++meeting.here == all) {
        work();
        meeting.here = 0;
        meeting.times++;
        progress++;
        return;
    }
    for (uint64_t time = meeting.times; meeting.times == time;) yield();
}

// `work` has what each lane of this thread's warp brought.
template <class T, class Work>
void with_warp(T &mine, Work work) {
    int first = threadIdx.x / 32 * 32;
    brought[threadIdx.x] = &mine;
    meet(warps[threadIdx.x / 32], 32, [&] { work((T **)&brought[first]); });
}

inline void begin() {
    kernel();
    threads[threadIdx.x].done = true;
    progress++;
    swapcontext(&threads[threadIdx.x].context, &scheduler);
}

// Threads take turns by their numbers, or the other way round.
inline void launch(int blocks_x, int blocks_y, int size, bool backwards, std::function<void()> body) {
    kernel = body;
    blockDim = {size, 1};
    for (blockIdx.y = 0; blockIdx.y < blocks_y; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < blocks_x; blockIdx.x++) {
            threads = std::vector<Thread>(size);
            warps = std::vector<Meeting>(size / 32);
            block = {};
            brought.assign(size, nullptr);
            for (Thread &thread : threads) {
                thread.stack.resize(256 << 10);
                thread.copies.emplace_back();
                getcontext(&thread.context);
                thread.context.uc_stack.ss_sp = thread.stack.data();
                thread.context.uc_stack.ss_size = thread.stack.size();
                makecontext(&thread.context, begin, 0);
            }
            for (int left = size; left > 0;) {
                uint64_t before = progress;
                for (int turn = 0; turn < size; turn++) {
                    int at = backwards ? size - 1 - turn : turn;
                    if (threads[at].done) continue;
                    threadIdx.x = at;
                    swapcontext(&scheduler, &threads[at].context);
                    left -= threads[at].done;
                }
                if (progress == before) {
                    fprintf(stderr, "block %d, %d: threads wait for others that do not come\n", blockIdx.x, blockIdx.y);
                    exit(1);
                }
            }
        }
}

struct Product { float *d; const uint32_t *a; uint32_t b[2]; };

// d += a · b; lane l has two neighbours of rows l / 4 and l / 4 + 8 from column 2 · (l % 4) on, and of b as if its columns were rows.
template <class T>
void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Product mine{d, a, {b0, b1}};
    with_warp(mine, [](Product **lanes) {
        float a[16][16], b[16][8];
        for (int lane = 0; lane < 32; lane++) {
            int group = lane / 4, pair = lane % 4 * 2;
            for (int part = 0; part < 4; part++) {
                float2 two = T::unpack(lanes[lane]->a[part]);
                int row = group + part % 2 * 8, column = pair + part / 2 * 8;
                a[row][column] = two.x;
                a[row][column + 1] = two.y;
            }
            for (int part = 0; part < 2; part++) {
                float2 two = T::unpack(lanes[lane]->b[part]);
                b[pair + part * 8][group] = two.x;
                b[pair + part * 8 + 1][group] = two.y;
            }
        }
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++) {
                int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
                for (int k = 0; k < 16; k++) lanes[lane]->d[i] += a[row][k] * b[k][column];
            }
    });
}

struct Load { uint32_t *r; const uint16_t *row; };

inline void load(uint32_t (&r)[4], const uint16_t *row, bool transposed) {
    if ((uintptr_t)row % 16 != 0) {
        fprintf(stderr, "a row of a matrix is not at a multiple of 16 bytes\n");
        exit(1);
    }
    Load mine{r, row};
    with_warp(mine, [transposed](Load **lanes) {
        for (int matrix = 0; matrix < 4; matrix++)
            for (int lane = 0; lane < 32; lane++) {
                int group = lane / 4, pair = lane % 4 * 2;
                auto at = [&](int i) { return transposed ? lanes[matrix * 8 + pair + i]->row[group] : lanes[matrix * 8 + group]->row[pair + i]; };
                lanes[lane]->r[matrix] = at(0) | (uint32_t)at(1) << 16;
            }
    });
}

inline uint32_t bits(float x) {
    uint32_t out;
    memcpy(&out, &x, 4);
    return out;
}
inline float value(uint32_t x) {
    float out;
    memcpy(&out, &x, 4);
    return out;
}

}  // namespace emulator

struct F16 {
    static uint16_t narrow(float x) {
        _Float16 half = (_Float16)x;
        uint16_t out;
        memcpy(&out, &half, 2);
        return out;
    }
    static float widen(uint16_t x) {
        _Float16 half;
        memcpy(&half, &x, 2);
        return (float)half;
    }
    static uint32_t pack(float low, float high) { return narrow(low) | (uint32_t)narrow(high) << 16; }
    static float2 unpack(uint32_t both) { return {widen((uint16_t)both), widen((uint16_t)(both >> 16))}; }
    static void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { emulator::multiply<F16>(d, a, b0, b1); }
};

struct Bf16 {
    static uint16_t narrow(float x) {
        uint32_t all = emulator::bits(x);
        return (uint16_t)((all + 0x7fff + (all >> 16 & 1)) >> 16);
    }
    static uint32_t pack(float low, float high) { return narrow(low) | (uint32_t)narrow(high) << 16; }
    static float2 unpack(uint32_t both) { return {emulator::value(both << 16), emulator::value(both & 0xffff0000u)}; }
    static void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { emulator::multiply<Bf16>(d, a, b0, b1); }
};

inline void load_matrices(uint32_t (&r)[4], const uint16_t *row) { emulator::load(r, row, false); }
inline void load_matrices_transposed(uint32_t (&r)[4], const uint16_t *row) { emulator::load(r, row, true); }

inline void copy_16(uint16_t *to, const uint16_t *from, bool there) {
    emulator::threads[threadIdx.x].copies.back().push_back({to, from, there});
}
inline void end_of_copies() { emulator::threads[threadIdx.x].copies.emplace_back(); }
template <int PENDING>
void wait_for_copies() {
    // The last one is still being filled.
    auto &copies = emulator::threads[threadIdx.x].copies;
    for (; copies.size() > PENDING + 1; copies.pop_front())
        for (emulator::Copy copy : copies.front()) {
            if (copy.there) memcpy(copy.to, copy.from, 16);
            else memset(copy.to, 0, 16);
        }
}
inline void wait_for_block() {
    emulator::meet(emulator::block, blockDim.x, [] {});
}

inline float from_lane(float value, int distance) {
    struct Swap { float in, out; } mine{value, 0};
    emulator::with_warp(mine, [distance](Swap **lanes) {
        for (int lane = 0; lane < 32; lane++) lanes[lane]->out = lanes[lane ^ distance]->in;
    });
    return mine.out;
}

inline float power_of_two(float x) { return exp2f(x); }
