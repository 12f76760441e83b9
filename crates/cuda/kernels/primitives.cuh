// What the kernels take from the chip: 16-bit floats, products of small matrices by a warp, copies into shared memory.
// tests/emulator.h has the same for a CPU, so that the tests run these very kernels where there is no GPU.
#pragma once

#include <stdint.h>

#ifdef EMULATED
#include "emulator.h"
#else

#define DEVICE __device__ __forceinline__
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define SHARED __shared__ __align__(128)

// 16-bit floats, two of them in a register, the first in its lower half.
struct F16 {
    static DEVICE uint32_t pack(float low, float high) {
        uint32_t both;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
        return both;
    }
    static DEVICE float2 unpack(uint32_t both) {
        float2 out;
        asm("{ .reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
            : "=f"(out.x), "=f"(out.y)
            : "r"(both));
        return out;
    }
    // d += a · b, with a of 16 rows and 16 columns, b of 16 rows and 8 columns.
    static DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

struct Bf16 {
    static DEVICE uint32_t pack(float low, float high) {
        uint32_t both;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
        return both;
    }
    static DEVICE float2 unpack(uint32_t both) {
        return make_float2(__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u));
    }
    static DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

// Four matrices of 8 rows of 16 bytes; lane l has the address of row l % 8 of matrix l / 8.
DEVICE void load_matrices(uint32_t (&r)[4], const uint16_t *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

DEVICE void load_matrices_transposed(uint32_t (&r)[4], const uint16_t *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

// 16 bytes into shared memory, to be waited for; zeros where there is nothing to copy, and `from` is not read then.
DEVICE void copy_16(uint16_t *to, const uint16_t *from, bool there) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(there ? 16 : 0) : "memory");
}

DEVICE void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all but the last `PENDING` groups of copies are there.
template <int PENDING>
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

DEVICE void wait_for_block() { __syncthreads(); }

DEVICE float from_lane(float value, int distance) { return __shfl_xor_sync(0xffffffffu, value, distance); }

// 2 to the power of x.
DEVICE float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
