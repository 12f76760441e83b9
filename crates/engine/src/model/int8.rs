//! The encoder's layers on int8 weights of a packed model, where they lie in the map.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use kernels::{
    AttentionKind, EncoderSpace, INT8_LAYOUT, Int8Layer, Int8Matrix, Kernels, LayerNorm, Levels,
    Norms, PANEL, Pooling, Smooth,
};

use super::config::Span;
use super::description::{
    ATTENTION_NORM, ATTENTION_OUT, DOWN, Description, NormSpec, OUTPUT_NORM, QKV, UP,
};
use super::encoder::SeenHere;
use crate::error::{ModelError, Remedy};
use crate::weights::{self, Floats, Int8s, Weights};

/// Shape of the panels of a matrix of `n` channels and `k` inputs, as the file has it.
pub(super) fn panel_shape(n: usize, k: usize) -> [usize; 4] {
    [n.div_ceil(PANEL), k.div_ceil(4), PANEL, 4]
}

pub(crate) struct Layers {
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
    /// Where norms are before the sub-layers there may be none of this one.
    attention_norm: Option<Norm>,
    up: Matrix,
    down: Matrix,
    output_norm: Norm,
    norm_first: bool,
    gated: bool,
    span: Span,
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
    /// Whether all inputs are quantized to 16 bits.
    pub high_precision: bool,
    /// How large the operands become.
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
    /// What is computed with, to be changed.
    pub setting: &'a mut Setting,
}

impl Layers {
    /// Every matrix, in the order of the layers.
    pub(crate) fn tunables(&mut self) -> Vec<Tunable<'_>> {
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

    /// Where a layer's matrices are among the [`Self::tunables`].
    pub(crate) fn matrices_of(&self, layer: usize) -> Range<usize> {
        const EACH: usize = 4;
        EACH * layer..EACH * (layer + 1)
    }

    /// Gives one of the [`Self::tunables`] other levels; returns those that it had.
    pub(crate) fn exchange_levels(&mut self, matrix: usize, levels: Levels) -> Levels {
        let tunable = self.tunables().swap_remove(matrix);
        std::mem::replace(&mut tunable.setting.levels, levels)
    }

    pub(crate) fn load(description: &Description, kernels: Kernels) -> Result<Self, ModelError> {
        let (config, weights) = (description.config(), description.weights());
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
        let layers = (0..config.layers).map(|index| Layer::load(description, kernels, index));
        Ok(Self {
            layers: layers.collect::<Result<_, _>>()?,
            heads: config.heads,
            hidden: config.hidden_size,
            kernels,
            space: Mutex::default(),
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.layers.len()
    }

    /// Takes what goes into the first of these layers, `[tokens, hidden]`, to what the last of them
    /// makes of it: of all tokens, or of each sequence's first.
    pub(crate) fn forward(
        &self,
        range: Range<usize>,
        mut hidden: Vec<f32>,
        starts: &[usize],
        here: &SeenHere,
        all: bool,
    ) -> Vec<f32> {
        let layers = self.layers[range].iter();
        let layers: Vec<Int8Layer<'_>> = layers
            .map(|layer| layer.view(here.kind(layer.span)))
            .collect();
        let pooled = if all { Pooling::All } else { Pooling::First };
        // What a panic left in it is overwritten before it is read.
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        self.kernels
            .int8_encoder(&layers, self.heads, starts, pooled, &mut hidden, &mut space);
        if !all {
            hidden.truncate((starts.len() - 1) * self.hidden);
        }
        hidden
    }
}

impl Layer {
    fn load(description: &Description, kernels: Kernels, index: usize) -> Result<Self, ModelError> {
        let weights = description.weights();
        let spec = description.layer(index);
        let narrow = kernels.gains_by_levels();
        let matrix = |name: &str, shape| {
            Matrix::load(weights, format!("{}.{name}", spec.packed), shape, narrow)
        };
        let norm = |norm: &NormSpec, name: &str| -> Result<Norm, ModelError> {
            let (gamma, beta) = norm.load_as(weights, &format!("{}.{name}", spec.packed), true)?;
            Ok(Norm {
                gamma,
                beta,
                eps: norm.eps,
            })
        };
        let attention_norm = spec.attention_norm.as_ref();
        Ok(Self {
            qkv: matrix(QKV, spec.qkv.shape())?,
            attention_out: matrix(ATTENTION_OUT, spec.attention_out.shape())?,
            attention_norm: attention_norm
                .map(|spec| norm(spec, ATTENTION_NORM))
                .transpose()?,
            up: matrix(UP, spec.up.shape())?,
            down: matrix(DOWN, spec.down.shape())?,
            output_norm: norm(&spec.output_norm, OUTPUT_NORM)?,
            norm_first: spec.norm_first,
            gated: spec.gated,
            span: spec.span,
        })
    }

    fn view<'a>(&'a self, kind: AttentionKind<'a>) -> Int8Layer<'a> {
        let output = self.output_norm.view();
        let attention = self.attention_norm.as_ref().map(Norm::view);
        Int8Layer {
            qkv: self.qkv.view(),
            attention_out: self.attention_out.view(),
            up: self.up.view(),
            down: self.down.view(),
            norms: match attention {
                Some(attention) if !self.norm_first => Norms::After { attention, output },
                attention => Norms::Before { attention, output },
            },
            gated: self.gated,
            kind,
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
            high_precision: weights
                .manifest()
                .is_some_and(|manifest| manifest.high_precision.contains(name)),
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
            high_precision: self.setting.high_precision,
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
