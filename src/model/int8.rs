//! The encoder's layers on int8 weights of a packed model, where they lie in the map.

use std::sync::{Mutex, PoisonError};

use kernels::{
    AttentionKind, EncoderSpace, INT8_LAYOUT, Int8Layer, Int8Matrix, Kernels, LayerNorm, Levels,
    Norms, PANEL, Pooling, Smooth,
};

use super::config::ModelConfig;
use crate::error::{ModelError, Remedy};
use crate::weights::{self, Floats, Int8s, Weights};

/// The projections of a layer that are packed: what the file calls them.
pub(super) const QKV: &str = "attention.self.qkv";
pub(super) const ATTENTION_OUT: &str = "attention.output.dense";
pub(super) const UP: &str = "intermediate.dense";
pub(super) const DOWN: &str = "output.dense";

/// Shape of the panels of a matrix of `n` channels and `k` inputs, as the file has it.
pub(super) fn panel_shape(n: usize, k: usize) -> [usize; 4] {
    [n.div_ceil(PANEL), k.div_ceil(4), PANEL, 4]
}

pub struct Layers {
    layers: Vec<Layer>,
    heads: usize,
    hidden: usize,
    kernels: Kernels,
    /// Used by one forward pass at a time; kept because it is large.
    space: Mutex<EncoderSpace>,
}

struct Layer {
    qkv: Matrix,
    attention_out: Matrix,
    attention_norm: Norm,
    up: Matrix,
    down: Matrix,
    output_norm: Norm,
}

struct Matrix {
    name: String,
    n: usize,
    k: usize,
    panels: Int8s,
    scales: Floats,
    sums: Floats,
    bias: Floats,
    /// Factors and offsets.
    smooth: Option<(Floats, Floats)>,
    setting: Setting,
}

/// How a matrix is computed with: what may be changed when its weights are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    pub fine: bool,
    pub levels: Levels,
}

struct Norm {
    gamma: Floats,
    beta: Floats,
    eps: f32,
}

/// One of a packed model's matrices, to be computed in another way.
pub struct Tunable<'a> {
    /// As the file and its manifest call it.
    pub name: &'a str,
    /// How many it has.
    pub weights: usize,
    pub setting: &'a mut Setting,
}

impl Layers {
    /// Every matrix, in the order of the layers.
    pub fn tunables(&mut self) -> Vec<Tunable<'_>> {
        let layers = self.layers.iter_mut();
        let matrices = layers.flat_map(|layer| {
            [
                &mut layer.qkv,
                &mut layer.attention_out,
                &mut layer.up,
                &mut layer.down,
            ]
        });
        matrices
            .map(|matrix| Tunable {
                name: &matrix.name,
                weights: matrix.n * matrix.k,
                setting: &mut matrix.setting,
            })
            .collect()
    }

    pub fn load(
        config: &ModelConfig,
        weights: &Weights,
        kernels: Kernels,
    ) -> Result<Self, ModelError> {
        if let Some(manifest) = weights.manifest()
            && manifest.layout != INT8_LAYOUT
        {
            return Err(ModelError::unfit(
                weights.path(),
                "weight layout",
                format!("{:?}", manifest.layout),
                format!("{INT8_LAYOUT:?}: pack the model again with this program"),
            )
            .with(Remedy::Pack));
        }
        let layers = (0..config.layers).map(|index| Layer::load(config, weights, kernels, index));
        Ok(Self {
            layers: layers.collect::<Result<_, _>>()?,
            heads: config.heads,
            hidden: config.hidden_size,
            kernels,
            space: Mutex::default(),
        })
    }

    /// Takes the embeddings' output, `[tokens, hidden]`, to the last layer's at each sequence's first token,
    /// `[sequences, hidden]`.
    pub fn forward(&self, mut hidden: Vec<f32>, starts: &[usize]) -> Vec<f32> {
        let layers: Vec<Int8Layer<'_>> = self.layers.iter().map(Layer::view).collect();
        // What a panic left in it is overwritten before it is read.
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        self.kernels.int8_encoder(
            &layers,
            self.heads,
            starts,
            Pooling::First,
            &mut hidden,
            &mut space,
        );
        hidden.truncate((starts.len() - 1) * self.hidden);
        hidden
    }
}

impl Layer {
    fn load(
        config: &ModelConfig,
        weights: &Weights,
        kernels: Kernels,
        index: usize,
    ) -> Result<Self, ModelError> {
        let prefix = format!("{}.encoder.layer.{index}", config.family.prefix());
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let narrow = kernels.gains_by_levels();
        let matrix =
            |name: &str, n, k| Matrix::load(weights, format!("{prefix}.{name}"), (n, k), narrow);
        let norm = |name: &str| -> Result<Norm, ModelError> {
            Ok(Norm {
                gamma: weights.vector(&format!("{prefix}.{name}.LayerNorm.weight"), hidden)?,
                beta: weights.vector(&format!("{prefix}.{name}.LayerNorm.bias"), hidden)?,
                eps: config.layer_norm_eps,
            })
        };
        Ok(Self {
            qkv: matrix(QKV, 3 * hidden, hidden)?,
            attention_out: matrix(ATTENTION_OUT, hidden, hidden)?,
            attention_norm: norm("attention.output")?,
            up: matrix(UP, inner, hidden)?,
            down: matrix(DOWN, hidden, inner)?,
            output_norm: norm("output")?,
        })
    }

    fn view(&self) -> Int8Layer<'_> {
        Int8Layer {
            qkv: self.qkv.view(),
            attention_out: self.attention_out.view(),
            up: self.up.view(),
            down: self.down.view(),
            norms: Norms::After {
                attention: self.attention_norm.view(),
                output: self.output_norm.view(),
            },
            gated: false,
            kind: AttentionKind::default(),
        }
    }
}

impl From<weights::Levels> for Levels {
    fn from(stated: weights::Levels) -> Self {
        let weights::Levels { weights, inputs } = stated;
        Self { weights, inputs }
    }
}

impl From<Levels> for weights::Levels {
    fn from(levels: Levels) -> Self {
        let Levels { weights, inputs } = levels;
        Self { weights, inputs }
    }
}

impl Setting {
    fn of(weights: &Weights, name: &str, narrow: bool) -> Result<Self, ModelError> {
        let stated = weights
            .manifest()
            .and_then(|manifest| manifest.levels.get(name));
        let levels = stated.map_or(Levels::FULL, |stated| Levels {
            weights: stated.weights,
            inputs: if narrow { stated.inputs } else { 255 },
        });
        if !(1..=127).contains(&levels.weights) || levels.inputs == 0 {
            return Err(ModelError::unfit(
                weights.path(),
                format!("levels of {name}"),
                format!("{} and {}", levels.weights, levels.inputs),
                "weights of 1 to 127 and inputs of 1 to 255",
            ));
        }
        Ok(Self {
            fine: weights
                .manifest()
                .is_some_and(|manifest| manifest.fine.contains(name)),
            levels,
        })
    }
}

impl Matrix {
    /// With `narrow` inputs have the levels that the file names, else all of them.
    fn load(
        weights: &Weights,
        name: String,
        (n, k): (usize, usize),
        narrow: bool,
    ) -> Result<Self, ModelError> {
        let channels = Int8Matrix::channels(n);
        let vector = |what: &str, len| weights.vector(&format!("{name}.{what}"), len);
        Ok(Self {
            n,
            k,
            panels: weights.int8s(&format!("{name}.panels"), &panel_shape(n, k))?,
            scales: vector("scales", channels)?,
            sums: vector("sums", channels)?,
            bias: vector("bias", channels)?,
            smooth: weights
                .contains(&format!("{name}.factor"))
                .then(|| Ok::<_, ModelError>((vector("factor", k)?, vector("offset", k)?)))
                .transpose()?,
            setting: Setting::of(weights, &name, narrow)?,
            name,
        })
    }

    fn view(&self) -> Int8Matrix<'_> {
        Int8Matrix {
            n: self.n,
            k: self.k,
            panels: &self.panels,
            scales: &self.scales,
            sums: &self.sums,
            bias: &self.bias,
            smooth: self
                .smooth
                .as_ref()
                .map(|(factor, offset)| Smooth { factor, offset }),
            fine: self.setting.fine,
            levels: self.setting.levels,
        }
    }
}

impl Norm {
    fn view(&self) -> LayerNorm<'_> {
        LayerNorm {
            gamma: &self.gamma,
            beta: &self.beta,
            eps: self.eps,
        }
    }
}
