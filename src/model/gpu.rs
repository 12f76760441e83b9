//! The GPU of this machine: whether there is one that this program can use, and what it is.
//!
//! Owns the driver's start. Where the program was built without the `cuda` feature there never is one, and the reason says so.

use std::fmt;

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver;
#[cfg(any(test, feature = "cuda"))]
use candle_core::{DType, Device};

#[cfg(feature = "cuda")]
use super::{config::ModelConfig, fused};
use crate::rerank::Precision;

/// A GPU that can be computed on, and in what.
#[derive(Debug, Clone)]
pub struct Gpu {
    pub name: String,
    pub chip: Chip,
    pub memory_bytes: u64,
    pub precision: Precision,
    /// Whether to compute by our own kernels, where there are some for the model and the chip; else by candle's.
    pub fused: bool,
    #[cfg(any(test, feature = "cuda"))]
    pub(super) device: Device,
}

/// A compute capability, such as 8.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chip(pub u32, pub u32);

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.0, self.1)
    }
}

/// The chip from which on bf16 is computed.
#[cfg(any(test, feature = "cuda"))]
const BF16: Chip = Chip(8, 0);

#[cfg(any(test, feature = "cuda"))]
impl Chip {
    /// As the compiler of the kernels is told: `75`, `90a`.
    fn parse(text: &str) -> Option<Self> {
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let number: u32 = digits.parse().ok()?;
        Some(Self(number / 10, number % 10))
    }

    /// Why it cannot run what was built for `built_for` and later, in `precision`.
    fn lacks(self, built_for: Option<Self>, precision: Precision) -> Option<String> {
        if let Some(built_for) = built_for.filter(|&built_for| self < built_for) {
            return Some(format!(
                "its chip is {self}, this program was built for {built_for} and later"
            ));
        }
        (precision == Precision::Bf16 && self < BF16)
            .then(|| format!("its chip is {self}, bf16 needs {BF16} or later: use f16"))
    }

    /// Why candle's kernels, which were built for `built_for` and later, cannot compute in `precision` on it.
    fn lacks_plain(self, built_for: Option<Self>, precision: Precision) -> Option<String> {
        let oldest = built_for.unwrap_or(self);
        (precision == Precision::Bf16 && oldest < BF16).then(|| {
            format!(
                "candle's kernels in this program were built for {oldest} and later, bf16 needs them for {BF16} or later: use f16"
            )
        })
    }
}

/// What candle's kernels were built for; where it was not said, it was this machine's own.
#[cfg(any(test, feature = "cuda"))]
fn built_for() -> Option<Chip> {
    option_env!("CUDA_COMPUTE_CAP").and_then(Chip::parse)
}

impl Gpu {
    /// The first GPU, if it can compute in `precision`; else the reason.
    #[cfg(not(feature = "cuda"))]
    pub fn find(_precision: Precision, _fused: bool) -> Result<Self, String> {
        Err("this program was built without the `cuda` feature".into())
    }

    /// The first GPU, if it can compute in `precision`; else the reason.
    #[cfg(feature = "cuda")]
    pub fn find(precision: Precision, fused: bool) -> Result<Self, String> {
        use driver::sys::CUresult;

        let count = driver::CudaContext::device_count().map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_STUB_LIBRARY => "the NVIDIA driver is not installed".to_owned(),
            CUresult::CUDA_ERROR_NO_DEVICE => "the NVIDIA driver finds no GPU".to_owned(),
            CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_SYSTEM_NOT_READY => {
                format!("the NVIDIA driver is not in order ({:?})", error.0)
            }
            code => format!("the NVIDIA driver does not start ({code:?})"),
        })?;
        if count == 0 {
            return Err("the NVIDIA driver finds no GPU".into());
        }
        let device =
            Device::new_cuda(0).map_err(|error| format!("the GPU cannot be used: {error}"))?;
        let asked = |error: driver::DriverError| format!("the GPU does not answer: {error}");
        let about = device.as_cuda_device().map_err(|error| error.to_string())?;
        let about = about.cuda_stream().context().clone();
        let name = about.name().map_err(asked)?;
        let (major, minor) = about.compute_capability().map_err(asked)?;
        let chip = Chip(major.unsigned_abs(), minor.unsigned_abs());
        if let Some(reason) = chip.lacks(built_for(), precision) {
            return Err(format!("{name}: {reason}"));
        }
        Ok(Self {
            memory_bytes: about.total_mem().map_err(asked)? as u64,
            name,
            chip,
            precision,
            fused,
            device,
        })
    }

    /// Why our own kernels do not compute this model.
    #[cfg(feature = "cuda")]
    pub fn lacks_kernels(&self, config: &ModelConfig) -> Option<String> {
        if !self.fused {
            return Some("GPU_KERNELS=plain".into());
        }
        if self.precision == Precision::F32 {
            return Some("they compute in 16 bits, not in f32".into());
        }
        fused::shape(config).lacks((self.chip.0, self.chip.1))
    }

    /// Bytes of its memory that are taken, by this process and others; nothing where the driver does not say.
    pub fn memory_used(&self) -> Option<u64> {
        #[cfg(feature = "cuda")]
        {
            let device = self.device.as_cuda_device().ok()?;
            let (free, all) = device.cuda_stream().context().mem_get_info().ok()?;
            Some(all.saturating_sub(free) as u64)
        }
        #[cfg(not(feature = "cuda"))]
        None
    }

    /// Why candle's kernels do not compute in its precision.
    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn lacks_plain(&self) -> Option<String> {
        self.chip.lacks_plain(built_for(), self.precision)
    }

    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn dtype(&self) -> DType {
        match self.precision {
            Precision::F16 => DType::F16,
            Precision::Bf16 => DType::BF16,
            _ => DType::F32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Gpu {
        /// The CPU in its place: the same operations, by candle's loops for CPUs.
        pub fn stand_in(precision: Precision) -> Self {
            Self {
                name: "the CPU in a GPU's place".into(),
                chip: BF16,
                memory_bytes: 0,
                precision,
                fused: false,
                device: Device::Cpu,
            }
        }
    }

    #[test]
    fn a_chip_is_refused_what_it_cannot_run() {
        let lacks = |chip: &str, built_for: Option<&str>, precision| {
            let parse = |text| Chip::parse(text).expect("a chip");
            parse(chip).lacks(built_for.map(parse), precision)
        };
        let (t4, a100, h100) = ("75", "80", "90a");
        for (chip, built_for, precision) in [
            (t4, Some("75"), Precision::F16),
            (h100, Some("75"), Precision::F16),
            (h100, Some("75"), Precision::Bf16),
            (h100, Some("80"), Precision::Bf16),
            (a100, None, Precision::Bf16),
        ] {
            assert_eq!(lacks(chip, built_for, precision), None);
        }
        let reason = lacks("70", Some("75"), Precision::F16).expect("too old");
        assert!(
            reason.contains("sm_70") && reason.contains("sm_75"),
            "{reason}"
        );
        let reason = lacks(t4, None, Precision::Bf16).expect("has no bf16");
        assert!(reason.contains("its chip is sm_75"), "{reason}");
        let plain = |built_for: &str| {
            let (chip, built_for) = (Chip(8, 0), Chip::parse(built_for));
            chip.lacks_plain(built_for, Precision::Bf16)
        };
        let reason = plain("75").expect("was built without");
        assert!(reason.contains("built for sm_75"), "{reason}");
        assert_eq!(plain("80"), None);
    }
}
