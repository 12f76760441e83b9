/* Holds a program to AVX2, whatever its libraries are: the CPU's list of instruction sets is answered without AVX-512, AVX-VNNI and
 * AMX. For peers that have no setting of their own.
 *
 * usage: cc -O2 -shared -fPIC held_to_avx2.c -o held_to_avx2.so; LD_PRELOAD=./held_to_avx2.so PROGRAM
 *
 * Linux lets CPUID fault on chips that can do that (Intel's since 2012); the fault is answered here. Where the chip cannot, the program
 * ends at once, because a peer that only seems to be held would be compared wrongly.
 */

#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

/* Of leaf 7: what comes after AVX2. */
static const unsigned AVX512_EBX = BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31);
static const unsigned AVX512_ECX = BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14);
static const unsigned AVX512_AMX_EDX = BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25);
/* Of its first subleaf: AVX-VNNI, AVX-512 and AMX with smaller floats, AVX-IFMA; more of them, and AVX10. */
static const unsigned VNNI_EAX = BIT(4) | BIT(5) | BIT(21) | BIT(23);
static const unsigned VNNI_EDX = BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19);

static void answer(int number, siginfo_t *info, void *context) {
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *at = (const unsigned char *)registers[REG_RIP];
    if (at[0] != 0x0f || at[1] != 0xa2) {
        /* a fault of the program's own, which comes again */
        signal(number, SIG_DFL);
        return;
    }
    unsigned leaf = (unsigned)registers[REG_RAX], sub = (unsigned)registers[REG_RCX], a, b, c, d;
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __cpuid_count(leaf, sub, a, b, c, d);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    if (leaf == 7 && sub == 0) {
        b &= ~AVX512_EBX;
        c &= ~AVX512_ECX;
        d &= ~AVX512_AMX_EDX;
    } else if (leaf == 7 && sub == 1) {
        a &= ~VNNI_EAX;
        d &= ~VNNI_EDX;
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void hold(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGSEGV, &action, NULL) || syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        fputs("this chip or its system cannot hold a program to AVX2\n", stderr);
        exit(1);
    }
}
