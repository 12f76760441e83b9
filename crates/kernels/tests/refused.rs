//! A kernel that refuses the matrix unit's registers, as a container's seccomp profile may: the next set is used, and the reason
//! told. The refusal holds for a whole process, so this is one test in a program of its own.

#![cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]

use kernels::{Isa, Kernels};

/// From here on this thread's `arch_prctl(ARCH_REQ_XCOMP_PERM, …)` fails with EPERM; all other system calls work.
fn refuse_permission() {
    const ARCH_REQ_XCOMP_PERM: u32 = 0x1023;
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, yes, no, k| libc::sock_filter {
        code,
        jt: yes,
        jf: no,
        k,
    };
    // Offsets in `seccomp_data`: the call's number at 0, the lower half of its first argument at 16.
    let mut steps = [
        step(LOAD, 0, 0, 0),
        step(EQUAL, 0, 3, libc::SYS_arch_prctl as u32),
        step(LOAD, 0, 0, 16),
        step(EQUAL, 0, 1, ARCH_REQ_XCOMP_PERM),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: both calls take numbers, the second also a program of `len` steps, which it copies.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let set = libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        );
        assert_eq!(set, 0, "no filter: {}", std::io::Error::last_os_error());
    }
}

#[test]
fn a_refused_matrix_unit_gives_way_to_the_next_set_and_the_reason_is_told() {
    refuse_permission();
    let kernels = Kernels::detect();
    assert_ne!(kernels.isa(), Isa::Amx);
    assert!(Kernels::with(Isa::Amx).is_none());
    let chip_has_it = std::fs::read_to_string("/proc/cpuinfo")
        .expect("Linux has it")
        .contains("amx_int8");
    if chip_has_it {
        assert_eq!(kernels.isa(), Isa::Avx512Vnni);
        let told = Isa::Amx.obstacle().expect("a reason");
        assert!(told.contains("arch_prctl"), "{told}");
    } else {
        println!("NOT TESTED: this machine lacks AMX");
        assert_eq!(Isa::Amx.obstacle(), None);
    }
}
