//! AMX: eight registers of 16 rows of 64 bytes, and products of two of them.
//!
//! Stable Rust has no intrinsics for it, so each product is one piece of assembly that begins and ends with nothing in the
//! tiles: no value lives in them from one piece to the next, only their configuration does, which [`Tiles`] sets and takes away.
//!
//! The registers hold 8 KiB a thread, which the system saves only for processes that asked for it. [`Amx::detect`] asks once.
//! Threads that begin later inherit the permission, and the kernel gives it to those that are there.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;
use std::sync::OnceLock;

use crate::matrix_unit::{Ahead, Left, MatrixUnit, PlaneSums, Sums};
use crate::simd::Int8;

/// Exists only if the chip has AMX with bytes, and the system lets this process use it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amx(());

/// Why a chip's AMX cannot be used, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The chip has none.
    Absent,
    /// The system does not keep the registers: an old kernel, or a hypervisor that hides them.
    NotKept,
    /// The kernel refused this process the permission.
    Refused,
}

impl Amx {
    pub(crate) fn detect() -> Result<Self, Obstacle> {
        static FOUND: OnceLock<Result<(), Obstacle>> = OnceLock::new();
        FOUND.get_or_init(find).map(|()| Self(()))
    }
}

fn find() -> Result<(), Obstacle> {
    /// In leaf 7's EDX: `AMX-TILE` and `AMX-INT8`.
    const FEATURES: u32 = 1 << 24 | 1 << 25;
    /// In leaf 1's ECX: XGETBV may be used.
    const OSXSAVE: u32 = 1 << 27;
    /// The states of the tiles' configuration and of their data.
    const STATES: u64 = 1 << 17 | 1 << 18;
    // Miri and sanitizers run no assembly.
    if cfg!(miri) || __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & FEATURES != FEATURES {
        return Err(Obstacle::Absent);
    }
    if __cpuid(1).ecx & OSXSAVE == 0 || enabled_states() & STATES != STATES {
        return Err(Obstacle::NotKept);
    }
    if !permitted() {
        return Err(Obstacle::Refused);
    }
    Ok(())
}

/// The processor states that the system has switched on. OSXSAVE must be set.
fn enabled_states() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the only caller saw OSXSAVE, which allows the instruction; it reads a register and changes nothing else.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Asks the kernel to let this process use the tiles' data.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the system call takes two numbers and touches no memory of ours; RCX and R11 are what every call changes.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Only Linux's way of asking is known here.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles as large as they get.
static WHOLE_TILES: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Configured tiles of the thread that made it; dropping it releases them. One at a time a thread: the kernels make one for
/// each item of work, and an item runs no other.
pub(crate) struct Tiles(PhantomData<*const ()>);

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a `Tiles` proves AMX, and stays on its thread. The instruction takes no memory.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

impl MatrixUnit for Amx {
    type Tiles = Tiles;

    fn configure(self) -> Tiles {
        // SAFETY: proven by `self`; the instruction reads the 64 bytes of a valid configuration.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE_TILES, options(readonly, nostack, preserves_flags));
        }
        Tiles(PhantomData)
    }

    #[inline(always)]
    unsafe fn product<S: Int8, const TALL: bool>(
        _: &Tiles,
        left: Left,
        right: *const u8,
        steps: usize,
        ahead: Ahead,
        sums: &mut Sums,
    ) {
        assert!(!S::SIGNED, "the product is of unsigned bytes");
        if steps == 0 {
            *sums = Sums::ZERO;
            return;
        }
        // SAFETY: the borrowed `Tiles` proves AMX and that the tiles are configured. Each step loads 16 or 32 rows of 64 bytes
        // of `left` and 32 of `right`, as promised; the stores fill 16 or 32 rows of `sums`; a prefetch never faults.
        unsafe {
            if TALL {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "tileloadd tmm6, [{right} + {line}]",
                    "tileloadd tmm4, [{upper} + {stride}]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{right} + {line} + 64]",
                    "tdpbusd tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{lower} + {stride}]",
                    "tdpbusd tmm2, tmm5, tmm6",
                    "tdpbusd tmm3, tmm5, tmm7",
                    "mov {count}, {lines}",
                    "3:",
                    "prefetcht1 [{ahead}]",
                    "add {ahead}, 64",
                    "dec {count}",
                    "jnz 3b",
                    "add {right}, 2048",
                    "add {upper}, 64",
                    "add {lower}, 64",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{sums} + {line}], tmm0",
                    "tilestored [{sums} + {line} + 64], tmm1",
                    "tilestored [{sums} + {line} + 2048], tmm2",
                    "tilestored [{sums} + {line} + 2112], tmm3",
                    right = inout(reg) right => _,
                    upper = inout(reg) left.bytes => _,
                    lower = inout(reg) left.bytes.wrapping_add(16 * left.stride) => _,
                    stride = in(reg) left.stride,
                    line = in(reg) 128usize,
                    steps = inout(reg) steps => _,
                    ahead = inout(reg) ahead.address => _,
                    lines = in(reg) ahead.lines.max(1),
                    count = out(reg) _,
                    sums = in(reg) sums,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            } else {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "2:",
                    "tileloadd tmm6, [{right} + {line}]",
                    "tileloadd tmm4, [{left} + {stride}]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{right} + {line} + 64]",
                    "tdpbusd tmm1, tmm4, tmm7",
                    "mov {count}, {lines}",
                    "3:",
                    "prefetcht1 [{ahead}]",
                    "add {ahead}, 64",
                    "dec {count}",
                    "jnz 3b",
                    "add {right}, 2048",
                    "add {left}, 64",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{sums} + {line}], tmm0",
                    "tilestored [{sums} + {line} + 64], tmm1",
                    right = inout(reg) right => _,
                    left = inout(reg) left.bytes => _,
                    stride = in(reg) left.stride,
                    line = in(reg) 128usize,
                    steps = inout(reg) steps => _,
                    ahead = inout(reg) ahead.address => _,
                    lines = in(reg) ahead.lines.max(1),
                    count = out(reg) _,
                    sums = in(reg) sums,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }

    #[inline(always)]
    unsafe fn product_of_planes(
        _: &Tiles,
        [left_upper, left_lower]: [Left; 2],
        [right_upper, right_lower]: [*const u8; 2],
        steps: usize,
        sums: &mut PlaneSums,
    ) {
        if steps == 0 {
            *sums = PlaneSums::ZERO;
            return;
        }
        // SAFETY: the borrowed `Tiles` proves AMX and that the tiles are configured. Each step loads 16 rows of 64 bytes of each
        // plane, as promised; the stores fill `sums`.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm6, [{right_upper} + {line}]",
                "tileloadd tmm4, [{left_upper} + {upper_stride}]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right_lower} + {line}]",
                "tdpbsud tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left_lower} + {lower_stride}]",
                "tdpbusd tmm2, tmm5, tmm6",
                "tdpbuud tmm3, tmm5, tmm7",
                "add {right_upper}, 1024",
                "add {right_lower}, 1024",
                "add {left_upper}, 64",
                "add {left_lower}, 64",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 1024], tmm1",
                "tilestored [{sums} + {line} + 2048], tmm2",
                "tilestored [{sums} + {line} + 3072], tmm3",
                right_upper = inout(reg) right_upper => _,
                right_lower = inout(reg) right_lower => _,
                left_upper = inout(reg) left_upper.bytes => _,
                left_lower = inout(reg) left_lower.bytes => _,
                upper_stride = in(reg) left_upper.stride,
                lower_stride = in(reg) left_lower.stride,
                line = in(reg) 64usize,
                steps = inout(reg) steps => _,
                sums = in(reg) sums,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
