//! The one list of instruction sets, their names, their run-time detection, and [`Kernels`], the proof that one is there.
//!
//! Reads no environment: whoever offers an override parses the name with [`Isa::from_str`] and asks [`Kernels::with`].

use std::fmt;
use std::str::FromStr;

use crate::matrix_unit::{Modelled, UnitKernel, With};
use crate::portable::Portable;
use crate::simd::{Kernel, Simd};

#[cfg(target_arch = "aarch64")]
use crate::aarch64::neon::{self, Neon};
#[cfg(target_arch = "x86_64")]
use crate::x86_64::amx::{Amx, Obstacle};
#[cfg(target_arch = "x86_64")]
use crate::x86_64::{avx2::Avx2, avx512::Avx512};

/// An instruction set the kernels are written for. Every name exists on every machine, so that a setting can be parsed
/// and refused with a reason anywhere; [`Isa::is_available`] says whether it can run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust on whatever the target guarantees; runs everywhere.
    Scalar,
    /// 128-bit Advanced SIMD, guaranteed on AArch64.
    Neon,
    /// The same with the byte dot product of Armv8.2 (`dotprod`: Graviton2 and later).
    NeonDot,
    /// The same with the byte matrix product of Armv8.6 (`i8mm`: Graviton3 and later).
    NeonI8mm,
    /// 256-bit AVX2 with FMA.
    Avx2,
    /// The same with the 256-bit byte dot product of chips without AVX-512.
    AvxVnni,
    /// 512-bit AVX-512 F, VL, DQ and BW (every server chip since Skylake-SP and Zen 4).
    Avx512,
    /// The same with the 512-bit byte dot product (since Cascade Lake and Zen 4).
    Avx512Vnni,
    /// The same with AMX, a matrix unit for bytes (since Sapphire Rapids), where the system lets programs use it.
    Amx,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Isa; 9] = [
        Isa::Scalar,
        Isa::Neon,
        Isa::NeonDot,
        Isa::NeonI8mm,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Amx,
    ];

    /// The name used in settings and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::NeonDot => "neondot",
            Isa::NeonI8mm => "neoni8mm",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Amx => "amx",
        }
    }

    /// The class of machines whose speed it stands for, by which figures of speed are given.
    pub const fn tier(self) -> &'static str {
        match self {
            Isa::Scalar => "no vectors",
            Isa::Neon | Isa::NeonDot => "Neoverse N1",
            Isa::NeonI8mm => "i8mm",
            Isa::Avx2 | Isa::Avx512 => "AVX2",
            Isa::AvxVnni | Isa::Avx512Vnni => "VNNI",
            Isa::Amx => "AMX",
        }
    }

    /// Whether this CPU, under this operating system, can run it.
    pub fn is_available(self) -> bool {
        Kernels::with(self).is_some()
    }

    /// Why this machine cannot run the set although its chip has it; `None` where it can, or where the chip lacks it.
    pub fn obstacle(self) -> Option<&'static str> {
        #[cfg(target_arch = "x86_64")]
        {
            const NOT_KEPT: &str = "the system does not keep its registers";
            match self {
                Isa::Amx => match Amx::detect() {
                    Err(Obstacle::NotKept) => Some(NOT_KEPT),
                    Err(Obstacle::Refused) => Some(
                        "the kernel refused this process the use of its registers (arch_prctl)",
                    ),
                    Err(Obstacle::Absent) | Ok(_) => None,
                },
                Isa::Avx2 if hidden(1 << 5, is_x86_feature_detected!("avx2")) => Some(NOT_KEPT),
                Isa::Avx512 if hidden(1 << 16, is_x86_feature_detected!("avx512f")) => {
                    Some(NOT_KEPT)
                }
                _ => None,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            None
        }
    }

    /// The instruction sets this machine can run, slowest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }
}

/// Whether the chip has a feature, by its bit in leaf 7's EBX, that was not `detected` because the system keeps no registers for it.
#[cfg(target_arch = "x86_64")]
fn hidden(bit: u32, detected: bool) -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    !cfg!(miri) && !detected && __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & bit != 0
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is none of [`Isa::ALL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownIsa(pub String);

impl fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Isa::ALL.iter().map(|isa| isa.name()).collect();
        write!(
            f,
            "unknown instruction set {:?}, expected one of {}",
            self.0,
            names.join(", ")
        )
    }
}

impl std::error::Error for UnknownIsa {}

impl FromStr for Isa {
    type Err = UnknownIsa;

    /// Parses a name, ignoring case.
    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Isa::ALL
            .into_iter()
            .find(|isa| isa.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}

/// The kernels on one instruction set. Holding a value proves that this CPU has the set, so its methods are safe.
///
/// The operations are methods, defined beside their code: [`Kernels::linear`], [`Kernels::attention`],
/// [`Kernels::layer_norm`], [`Kernels::bias_residual_layer_norm`], [`Kernels::bias_add`], [`Kernels::bias_gelu`],
/// [`Kernels::gated_gelu`], [`Kernels::int8_linear`], [`Kernels::int8_encoder`].
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    proven: Proven,
}

/// Each variant carries the token that only that set's detection hands out.
#[derive(Clone, Copy, Debug)]
enum Proven {
    Portable(Portable),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon<{ neon::BASE }>),
    #[cfg(target_arch = "aarch64")]
    NeonDot(Neon<{ neon::DOT }>),
    #[cfg(target_arch = "aarch64")]
    NeonI8mm(Neon<{ neon::I8MM }>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2<false>),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Avx2<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512<false>),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512<true>),
    #[cfg(target_arch = "x86_64")]
    Amx(Avx512<true>, Amx),
    /// For tests: what runs on AMX, in plain code.
    Modelled(Portable, Modelled),
}

impl Kernels {
    /// The fastest instruction set of this machine.
    pub fn detect() -> Kernels {
        Isa::ALL
            .into_iter()
            .rev()
            .find_map(Kernels::with)
            .expect("the scalar kernels run everywhere")
    }

    /// The kernels on `isa`, or `None` where this machine lacks it.
    pub fn with(isa: Isa) -> Option<Kernels> {
        let proven = match isa {
            Isa::Scalar => Some(Proven::Portable(Portable)),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Neon::detect().map(Proven::Neon),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => Neon::detect().map(Proven::NeonDot),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => Neon::detect().map(Proven::NeonI8mm),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().map(Proven::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Avx2::detect().map(Proven::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::detect().map(Proven::Avx512),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Avx512::detect().map(Proven::Avx512Vnni),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Avx512::detect()
                .zip(Amx::detect().ok())
                .map(|(vectors, unit)| Proven::Amx(vectors, unit)),
            #[allow(unreachable_patterns)]
            _ => None,
        };
        proven.map(|proven| Kernels { proven })
    }

    /// What runs on [`Isa::Amx`], in plain code: for tests on machines without it.
    #[doc(hidden)]
    pub fn modelled_unit() -> Kernels {
        Kernels {
            proven: Proven::Modelled(Portable, Modelled),
        }
    }

    /// Which instruction set these kernels use.
    pub fn isa(self) -> Isa {
        match self.proven {
            Proven::Portable(_) => Isa::Scalar,
            #[cfg(target_arch = "aarch64")]
            Proven::Neon(_) => Isa::Neon,
            #[cfg(target_arch = "aarch64")]
            Proven::NeonDot(_) => Isa::NeonDot,
            #[cfg(target_arch = "aarch64")]
            Proven::NeonI8mm(_) => Isa::NeonI8mm,
            #[cfg(target_arch = "x86_64")]
            Proven::Avx2(_) => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Proven::AvxVnni(_) => Isa::AvxVnni,
            #[cfg(target_arch = "x86_64")]
            Proven::Avx512(_) => Isa::Avx512,
            #[cfg(target_arch = "x86_64")]
            Proven::Avx512Vnni(_) => Isa::Avx512Vnni,
            #[cfg(target_arch = "x86_64")]
            Proven::Amx(..) => Isa::Amx,
            Proven::Modelled(..) => Isa::Amx,
        }
    }

    /// The faster sets of this machine's chip, each with the obstacle to it; without one it can run, and was not chosen.
    pub fn passed_over(self) -> Vec<(Isa, Option<&'static str>)> {
        let faster = Isa::ALL.into_iter().skip_while(|isa| *isa != self.isa());
        faster
            .skip(1)
            .filter_map(|isa| match isa.obstacle() {
                None => isa.is_available().then_some((isa, None)),
                obstacle => Some((isa, obstacle)),
            })
            .collect()
    }

    /// Runs `kernel` compiled for this instruction set.
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.proven {
            Proven::Portable(s) | Proven::Modelled(s, _) => s.vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Proven::Neon(s) => s.vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Proven::NeonDot(s) => s.vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Proven::NeonI8mm(s) => s.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Proven::Avx2(s) => s.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Proven::AvxVnni(s) => s.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Proven::Avx512(s) => s.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Proven::Avx512Vnni(s) | Proven::Amx(s, _) => s.vectorize(kernel),
        }
    }

    /// Runs `kernel`, which computes on f32 alone: sets that differ only in their products of bytes share what is compiled.
    pub(crate) fn dispatch_f32<K: Kernel>(self, kernel: K) -> K::Output {
        match self.proven {
            Proven::Portable(s) | Proven::Modelled(s, _) => s.vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Proven::Neon(s) => s.vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Proven::NeonDot(s) => s.base().vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Proven::NeonI8mm(s) => s.base().vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Proven::Avx2(s) => s.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Proven::AvxVnni(s) => s.base().vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Proven::Avx512(s) => s.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Proven::Avx512Vnni(s) | Proven::Amx(s, _) => s.base().vectorize(kernel),
        }
    }

    /// Whether their matrix unit is the chip's and not the model.
    #[cfg(test)]
    pub(crate) fn has_real_unit(self) -> bool {
        self.has_unit() && !matches!(self.proven, Proven::Modelled(..))
    }

    /// Whether these kernels have a matrix unit.
    pub(crate) fn has_unit(self) -> bool {
        match self.proven {
            #[cfg(target_arch = "x86_64")]
            Proven::Amx(..) => true,
            Proven::Modelled(..) => true,
            _ => false,
        }
    }

    /// Runs `kernel` on the matrix unit.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn dispatch_unit<K: UnitKernel>(self, kernel: K) {
        match self.proven {
            #[cfg(target_arch = "x86_64")]
            Proven::Amx(s, unit) => s.vectorize(With(unit, kernel)),
            Proven::Modelled(s, unit) => s.vectorize(With(unit, kernel)),
            _ => unreachable!("no matrix unit on {}", self.isa()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back_to_its_set_in_any_case() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
            assert_eq!(isa.name().to_uppercase().parse(), Ok(isa));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_list() {
        let error = "avx1024".parse::<Isa>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown instruction set \"avx1024\", expected one of scalar, neon, neondot, neoni8mm, avx2, avxvnni, avx512, avx512vnni, amx"
        );
    }

    #[test]
    fn detection_takes_the_last_available_set_and_scalar_is_always_there() {
        let available = Isa::available();
        assert_eq!(available.first(), Some(&Isa::Scalar));
        assert_eq!(available.last(), Some(&Kernels::detect().isa()));
        for isa in available {
            assert_eq!(Kernels::with(isa).map(Kernels::isa), Some(isa));
        }
    }

    #[test]
    fn what_is_passed_over_is_faster_and_either_runs_or_has_an_obstacle() {
        for isa in Isa::available() {
            let passed = Kernels::with(isa).expect("available").passed_over();
            let place = |isa| Isa::ALL.iter().position(|one| *one == isa);
            for (faster, obstacle) in &passed {
                assert!(place(*faster) > place(isa));
                assert_eq!(*obstacle, faster.obstacle());
                assert_ne!(faster.is_available(), obstacle.is_some());
            }
            let runs = passed.iter().filter(|(_, obstacle)| obstacle.is_none());
            let slower = Isa::available()
                .into_iter()
                .filter(|one| place(*one) <= place(isa));
            assert_eq!(runs.count() + slower.count(), Isa::available().len());
        }
    }

    #[test]
    fn sets_of_another_architecture_are_unavailable() {
        if cfg!(target_arch = "x86_64") {
            for isa in [Isa::Neon, Isa::NeonDot, Isa::NeonI8mm] {
                assert!(Kernels::with(isa).is_none());
            }
        } else {
            for isa in [
                Isa::Avx2,
                Isa::AvxVnni,
                Isa::Avx512,
                Isa::Avx512Vnni,
                Isa::Amx,
            ] {
                assert!(Kernels::with(isa).is_none());
            }
        }
    }
}
