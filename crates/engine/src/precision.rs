//! The operator's two choices: the arithmetic of a model, and its device.

use std::str::FromStr;

/// Arithmetic of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// The fastest that the model's files and the device have: f16 on a GPU, int8 for a packed
    /// model, f32 for a folder.
    Auto,
    /// Weights and activations of the linear layers in 8 bits; needs a packed model, and a CPU.
    Int8,
    /// Needs a GPU.
    Bf16,
    /// Needs a GPU.
    F16,
    /// The reference; needs a model folder.
    F32,
}

impl Precision {
    const ALL: [Self; 5] = [Self::Auto, Self::Int8, Self::Bf16, Self::F16, Self::F32];
    /// What [`Self::name`] may give.
    pub const NAMES: [&str; 5] = ["auto", "int8", "bf16", "f16", "f32"];

    /// As settings write it.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|precision| precision.name() == text)
            .ok_or_else(|| format!("must be one of {}", Self::NAMES.join(", ")))
    }
}

/// Device that computes a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// On a GPU where this program can use one for this model and precision, else on the CPU.
    Auto,
    /// Always on the CPU.
    Cpu,
    /// On a GPU, or not at all.
    Cuda,
}

impl Device {
    const ALL: [Self; 3] = [Self::Auto, Self::Cpu, Self::Cuda];
    /// What [`Self::name`] may give.
    pub const NAMES: [&str; 3] = ["auto", "cpu", "cuda"];

    /// As settings write it.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|device| device.name() == text)
            .ok_or_else(|| format!("must be one of {}", Self::NAMES.join(", ")))
    }
}
