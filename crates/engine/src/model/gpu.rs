//! The GPU of this machine: whether there is one that this program can use, and what it is.
//!
//! Owns the driver's start. Where the program was built without the `cuda` feature there never is
//! one, and the reason says so.

use std::fmt;

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver;
#[cfg(any(test, feature = "cuda"))]
use candle_core::{DType, Device};

use super::config::ModelConfig;
#[cfg(feature = "cuda")]
use super::fused;
#[cfg(any(test, feature = "cuda"))]
use crate::error::ModelError;
use crate::precision::Precision;

/// A GPU that can be computed on, and in what.
#[derive(Debug, Clone)]
pub struct Gpu {
    /// As the driver calls it.
    pub name: String,
    /// Its compute capability.
    pub chip: Chip,
    /// Size of its memory.
    pub memory_bytes: u64,
    /// CUDA's version that the driver is made for.
    pub driver: Version,
    /// CUDA's version that this program was built with.
    pub built_with: Version,
    /// Arithmetic of the encoder.
    pub precision: Precision,
    /// Whether to compute by our own kernels, where there are some for the model and the chip; else
    /// by candle's.
    pub fused: bool,
    #[cfg(any(test, feature = "cuda"))]
    pub(super) device: Device,
}

/// Major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The operator's next step for an error of the driver or of cuBLAS, by a part of its name.
#[cfg(any(test, feature = "cuda"))]
const ADVICE: [(&str, &str); 7] = [
    (
        "UNSUPPORTED_PTX_VERSION",
        "the driver is older than the CUDA toolkit that this program was built with: install a newer driver, or build with a toolkit of the driver's version",
    ),
    (
        "NO_BINARY_FOR_GPU",
        "this program has no kernels for this chip: build it with the chip's CUDA_COMPUTE_CAP",
    ),
    (
        "SYSTEM_DRIVER_MISMATCH",
        "the driver's library and its kernel module are of different versions: restart the machine after an update, and mount the host's own library into containers",
    ),
    (
        "SYSTEM_NOT_READY",
        "the driver is not ready: GPUs that NVSwitch connects need NVIDIA's fabric manager",
    ),
    (
        "COMPAT_NOT_SUPPORTED_ON_DEVICE",
        "this GPU does not take CUDA's libraries for forward compatibility: take them out of LD_LIBRARY_PATH",
    ),
    (
        "DEVICE_UNAVAILABLE",
        "another process has the GPU to itself: see its compute mode",
    ),
    (
        "CUBLAS_STATUS_NOT_INITIALIZED",
        "cuBLAS does not start: the driver may be older than the CUDA libraries, or the GPU's memory full",
    ),
];

/// Errors after which the driver does nothing more for this process.
#[cfg(any(test, feature = "cuda"))]
const LAST: [&str; 11] = [
    "ASSERT",
    "CONTEXT_IS_DESTROYED",
    "ECC_UNCORRECTABLE",
    "HARDWARE_STACK_ERROR",
    "ILLEGAL_ADDRESS",
    "ILLEGAL_INSTRUCTION",
    "INVALID_ADDRESS_SPACE",
    "INVALID_PC",
    "LAUNCH_FAILED",
    "LAUNCH_TIMEOUT",
    "MISALIGNED_ADDRESS",
];

/// A reason of the driver's, with what the operator can do.
#[cfg(any(test, feature = "cuda"))]
fn with_advice(reason: &str) -> String {
    let known = ADVICE.iter().find(|(name, _)| reason.contains(name));
    known.map_or_else(
        || reason.to_owned(),
        |(_, advice)| format!("{reason}: {advice}"),
    )
}

/// The error of loading a model, with what the operator can do.
#[cfg(any(test, feature = "cuda"))]
pub(super) fn advised(error: ModelError) -> ModelError {
    match error {
        ModelError::Compute(reason) => ModelError::Compute(with_advice(&reason)),
        error => error,
    }
}

/// The error of a pass of so many tokens, with what the operator can do, and whether the GPU can be
/// used any more.
#[cfg(any(test, feature = "cuda"))]
pub(super) fn explained(error: ModelError, tokens: usize) -> ModelError {
    let ModelError::Compute(reason) = error else {
        return error;
    };
    let names = |names: &[&str]| names.iter().any(|name| reason.contains(name));
    if names(&["OUT_OF_MEMORY", "ALLOC_FAILED"]) {
        ModelError::Compute(format!(
            "the GPU's memory does not suffice for a pass of {tokens} tokens: lower BATCH_TOKENS ({reason})"
        ))
    } else if names(&LAST) {
        ModelError::Lost(reason)
    } else {
        ModelError::Compute(with_advice(&reason))
    }
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

    /// Why candle's kernels, which were built for `built_for` and later, cannot compute in
    /// `precision` on it.
    fn lacks_plain(self, built_for: Option<Self>, precision: Precision) -> Option<String> {
        let oldest = built_for.unwrap_or(self);
        (precision == Precision::Bf16 && oldest < BF16).then(|| {
            format!(
                "candle's kernels in this program were built for {oldest} and later, bf16 needs them for {BF16} or later: use f16"
            )
        })
    }
}

/// The compute capability that candle's kernels were built for; by default this machine's own.
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
            code => with_advice(&format!("the NVIDIA driver does not start ({code:?})")),
        })?;
        if count == 0 {
            return Err("the NVIDIA driver finds no GPU".into());
        }
        let device = Device::new_cuda(0)
            .map_err(|error| with_advice(&format!("the GPU cannot be used: {error}")))?;
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
            driver: cuda_kernels::driver_version()
                .map(|(major, minor)| Version(major, minor))
                .map_err(|error| error.to_string())?,
            built_with: Version(cuda_kernels::BUILT_WITH.0, cuda_kernels::BUILT_WITH.1),
            memory_bytes: about.total_mem().map_err(asked)? as u64,
            name,
            chip,
            precision,
            fused,
            device,
        })
    }

    /// Why our own kernels do not compute this model; candle's do then.
    pub fn lacks_kernels(&self, config: &ModelConfig) -> Option<String> {
        if !self.fused {
            return Some("GPU_KERNELS=plain".into());
        }
        if self.precision == Precision::F32 {
            return Some("they compute in 16 bits, not in f32".into());
        }
        if let Some(beyond) = config.beyond_kernels() {
            return Some(format!("they do not compute {beyond}"));
        }
        #[cfg(feature = "cuda")]
        return fused::shape(config).lacks((self.chip.0, self.chip.1));
        #[cfg(not(feature = "cuda"))]
        Some("this program was built without them".into())
    }

    /// Bytes of its memory in use, by this process and others; `None` if the driver
    /// does not say.
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
                driver: Version(0, 0),
                built_with: Version(0, 0),
                precision,
                fused: false,
                device: Device::Cpu,
            }
        }
    }

    #[test]
    fn the_drivers_errors_say_what_to_do() {
        let after = |reason: &str| explained(ModelError::Compute(reason.into()), 700);
        for (reason, wanted) in [
            (
                "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
                "a pass of 700 tokens: lower BATCH_TOKENS",
            ),
            (
                "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
                "lower BATCH_TOKENS",
            ),
            (
                "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
                "install a newer driver",
            ),
            ("CUDA_ERROR_ILLEGAL_ADDRESS", "the GPU is lost"),
            ("CUDA_ERROR_ECC_UNCORRECTABLE", "start again"),
            ("something else", "cannot compute: something else"),
        ] {
            let error = after(reason);
            assert!(error.to_string().contains(wanted), "{error}");
            assert_eq!(
                matches!(error, ModelError::Lost(_)),
                wanted.contains("lost") || wanted.contains("again")
            );
        }
        for (name, advice) in ADVICE {
            let error = advised(ModelError::Compute(format!("CUDA_ERROR_{name}")));
            assert!(error.to_string().ends_with(advice), "{error}");
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
