//! From an f32 model to a packed one: calibration, the choice of smoothing, and the tensors' order.
//!
//! The calibration texts go through the f32 layers once, all at a time, layer by layer; when a
//! layer is done its matrices are quantized and written and their pages given back, so that memory
//! holds one layer and not the model. Data out: the packed tensors, and the f32 logits of the texts
//! for whoever compares.
//!
//! A matrix whose inputs have a few channels far larger than the rest loses precision under a scale
//! per token. For each matrix the packer therefore measures, on sampled rows of the real inputs,
//! the error of the int8 product under several ways to make the channels alike, and keeps the best:
//! *shifting*, which takes each channel's mean away (the bias gives back its product with the
//! weights, exactly); dividing the few largest channels down to the next; and *smoothing*, input
//! channel `k` divided by `s[k] = max|x[k]|^a / max|w[k]|^(1-a)` and its weights multiplied by it
//! (SmoothQuant, Xiao et al. 2022), for several `a`.

mod rounding;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Tensor};
use half::f16;
use kernels::{
    Epilogue, Int8Matrix, Kernels, Levels, LinearShape, PackedInt8, Smooth, lay_out_int8, pack_int8,
};
use rayon::prelude::*;

use super::description::{
    ATTENTION_NORM, ATTENTION_OUT, DOWN, Description, HeadStep, LayerSpec, LinearSpec, NormSpec,
    OUTPUT_NORM, QKV, UP,
};
use super::encoder::{Observer, Site};
use super::int8::panel_shape;
use super::ops::Projection;
use super::{Model, Packed};
use crate::error::ModelError;
use crate::weights::{Dtype, PackedWriter, Weights, not_finite};
use rounding::Correlation;

/// Rows of a matrix's inputs on which its error is measured.
const SAMPLES: usize = 96;
/// The exponents of smoothing that are tried, and how many channels are divided down.
const SMOOTHING: [f32; 3] = [0.35, 0.5, 0.7];
const DIVIDED: [usize; 2] = [4, 16];
/// The levels that a matrix may get, each faster than the one before where products gain by it: the
/// products of 0, 1, 2 and 4 byte pairs fit 16 bits. Within a step weights and inputs share the
/// range so that either adds about as much error.
pub const LADDER: [Levels; 4] = [
    Levels::FULL,
    Levels {
        weights: 80,
        inputs: 204,
    },
    Levels {
        weights: 56,
        inputs: 146,
    },
    Levels {
        weights: 40,
        inputs: 102,
    },
];
/// Inputs so coarse that what they do to the logits stands out.
pub const TRIAL: Levels = Levels {
    weights: 127,
    inputs: 31,
};
/// Rows of the embedding that are quantized at a time.
const ROWS: usize = 4096;

/// How one matrix fared.
#[derive(Debug, Clone)]
pub struct MatrixReport {
    /// Of the matrix, as the packed file has it.
    pub name: String,
    /// `|int8 - f32| / |f32|` of its outputs on the sampled inputs, as root mean squares.
    pub error: f32,
    /// The same with the inputs as they are.
    pub plain_error: f32,
    /// The same at each of [`LADDER`], with weights rounded to the nearest; only of
    /// [`Rounding::Nearest`].
    pub ladder: [f32; LADDER.len()],
    /// The same at [`TRIAL`].
    pub trial: f32,
    /// What was decided for it.
    pub choice: Choice,
}

/// What is decided for a matrix.
#[derive(Debug, Clone)]
pub struct Choice {
    /// How large its products' operands become.
    pub levels: Levels,
    /// What its inputs are multiplied by and what is added, channel by channel.
    pub smooth: Option<(Vec<f32>, Vec<f32>)>,
}

/// What is decided before a model is packed.
#[derive(Debug, Clone)]
pub struct Plan {
    /// For the matrices that are not among `choices`; how their inputs are smoothed is found on the
    /// way.
    pub levels: Levels,
    /// By the matrices' names.
    pub choices: BTreeMap<String, Choice>,
}

/// How weights are rounded.
#[derive(Debug, Clone, Copy)]
pub enum Rounding<'a> {
    /// To the nearest of all levels, which takes little time: for trials.
    Nearest,
    /// So that their errors make up for each other.
    Compensated(&'a Plan),
}

/// An upper bound of the tensors that [`quantize`] writes.
pub fn packed_tensors(layers: usize) -> usize {
    // Four matrices of six tensors and two norms of two a layer; embeddings and head. Padding may
    // double them.
    2 * (layers * 28 + 16)
}

/// Writes every tensor of the packed form of `model`, whose files are `weights`; returns the f32
/// logits of `texts`. `progress` is called after each layer and with each matrix's report.
pub fn quantize(
    model: &Model,
    weights: &Weights,
    texts: &Packed,
    rounding: Rounding<'_>,
    writer: &mut PackedWriter,
    progress: &mut dyn FnMut(Vec<MatrixReport>),
) -> Result<Vec<f32>, ModelError> {
    let description = Description::new(model.config(), weights);
    let mut calibration = Calibration {
        kernels: model.kernels,
        rounding,
        description: &description,
        firsts: &texts.starts,
        writer,
        sites: Default::default(),
        reports: progress,
    };
    let hidden = model.encoder.forward_observed(texts, &mut calibration)?;
    let logits = model.head.forward(&hidden)?;

    let norms = [Some(description.embedding_norm()), description.final_norm()];
    for norm in norms.into_iter().flatten() {
        as_it_is_norm(weights, &norm, writer)?;
    }
    if let Some(projection) = description.embedding_projection() {
        as_it_is(weights, &projection, writer)?;
    }
    for step in description.head() {
        match step {
            HeadStep::Dense(spec, _) => as_it_is(weights, &spec, writer)?,
            HeadStep::Norm(spec) => as_it_is_norm(weights, &spec, writer)?,
        }
    }
    if let Some(table) = description.relative_bias() {
        let heads = model.config().heads;
        check_matrix(weights, &table.name, heads)?;
        let values = weights.matrix(&table.name, table.rows, heads)?;
        writer.floats(&table.name, &[table.rows, heads], &values)?;
    }
    let width = model.config().embedding_size;
    let tables = [description.segments(), description.positions()];
    for table in tables.into_iter().flatten() {
        halves(weights, &table.name, table.rows, width, writer)?;
    }
    let words = description.words();
    words_int8(weights, &words.name, words.rows, width, writer)?;
    Ok(logits)
}

/// The tensors of a linear layer, in f32.
fn as_it_is(
    weights: &Weights,
    spec: &LinearSpec,
    writer: &mut PackedWriter,
) -> Result<(), ModelError> {
    for (tensor, rows) in spec.tensors() {
        let name = format!("{tensor}.weight");
        check_matrix(weights, &name, spec.k)?;
        let values = weights.matrix(&name, rows, spec.k)?;
        writer.floats(&name, &[rows, spec.k], &values)?;
        if spec.bias {
            let name = format!("{tensor}.bias");
            writer.floats(&name, &[rows], &weights.vector(&name, rows)?)?;
        }
    }
    Ok(())
}

/// The same of a norm.
fn as_it_is_norm(
    weights: &Weights,
    spec: &NormSpec,
    writer: &mut PackedWriter,
) -> Result<(), ModelError> {
    let (gamma, beta) = spec.load(weights)?;
    writer.floats(&format!("{}.weight", spec.name), &[spec.width], &gamma)?;
    if spec.bias {
        writer.floats(&format!("{}.bias", spec.name), &[spec.width], &beta)?;
    }
    Ok(())
}

/// A table in f16.
fn halves(
    weights: &Weights,
    name: &str,
    rows: usize,
    columns: usize,
    writer: &mut PackedWriter,
) -> Result<(), ModelError> {
    let table = weights.table(name, rows, columns)?;
    let mut row = vec![0.0; columns];
    let mut beyond = None;
    let pieces = (0..rows).map(|index| {
        table.read_row(index, &mut row);
        let halves = row.iter().map(|v| f16::from_f32(*v));
        if let Some(at) = halves.clone().position(|half| !half.is_finite()) {
            beyond.get_or_insert((index, row[at]));
        }
        let bytes: Vec<u8> = halves.flat_map(f16::to_le_bytes).collect();
        bytes
    });
    writer.tensor(name, Dtype::F16, &[rows, columns], pieces)?;
    match beyond {
        None => Ok(()),
        Some((row, value)) if value.is_finite() => Err(ModelError::unfit(
            weights.path(),
            format!("tensor {name}, row {row}"),
            value,
            format!("at most {} in size, as f16 holds", f16::MAX),
        )),
        Some((row, value)) => Err(not_finite(weights.path(), name, row, value)),
    }
}

/// A table in int8, each row to its own scale.
fn words_int8(
    weights: &Weights,
    name: &str,
    rows: usize,
    columns: usize,
    writer: &mut PackedWriter,
) -> Result<(), ModelError> {
    let table = weights.table(name, rows, columns)?;
    let damaged = Mutex::new(None);
    let mut scales = vec![0f32; rows];
    let pieces = scales.chunks_mut(ROWS).enumerate().map(|(chunk, scales)| {
        let mut bytes = vec![0u8; scales.len() * columns];
        bytes
            .par_chunks_mut(columns)
            .zip(scales)
            .enumerate()
            .for_each_init(
                || vec![0.0; columns],
                |values, (row, (bytes, scale))| {
                    let row = chunk * ROWS + row;
                    table.read_row(row, values);
                    // A maximum passes over NaN, which would become a zero.
                    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                        let mut damaged = damaged.lock().unwrap_or_else(PoisonError::into_inner);
                        damaged.get_or_insert((row, *value));
                    }
                    let largest = values.iter().fold(0f32, |most, v| most.max(v.abs()));
                    *scale = largest / 127.0;
                    if *scale >= f32::MIN_POSITIVE {
                        for (byte, v) in bytes.iter_mut().zip(values) {
                            // Within -127..=127, as `largest` is the largest.
                            #[allow(clippy::cast_possible_truncation)]
                            let q = (*v / *scale).round_ties_even() as i8;
                            *byte = q.cast_unsigned();
                        }
                    }
                },
            );
        table.release(chunk * ROWS, bytes.len() / columns);
        bytes
    });
    writer.tensor(name, Dtype::I8, &[rows, columns], pieces)?;
    if let Some((row, value)) = damaged.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(not_finite(weights.path(), name, row, value));
    }
    writer.floats(&format!("{name}.scale"), &[rows], &scales)
}

/// Refuses a matrix in which anything is no number: quantizing would make one of it.
fn check_matrix(weights: &Weights, name: &str, columns: usize) -> Result<(), ModelError> {
    let rows = weights.rows(name);
    let values = weights.matrix(name, rows, columns)?;
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => Err(not_finite(weights.path(), name, at / columns, values[at])),
    }
}

/// What is seen of a matrix's inputs. Sequences' first tokens are left out: they are far from the
/// rest, and quantized finely anyway.
#[derive(Default)]
struct Seen {
    /// All rows, first tokens' included, if weights are to be compensated.
    rows: Vec<f32>,
    /// Sampled rows, one after the other.
    samples: Vec<f32>,
    /// Of each channel over all rows.
    mean: Vec<f32>,
    least: Vec<f32>,
    largest: Vec<f32>,
}

struct Calibration<'a> {
    kernels: Kernels,
    rounding: Rounding<'a>,
    description: &'a Description<'a>,
    /// Numbers of the sequences' first tokens, ascending.
    firsts: &'a [usize],
    writer: &'a mut PackedWriter,
    sites: [Seen; 4],
    reports: &'a mut dyn FnMut(Vec<MatrixReport>),
}

impl Observer for Calibration<'_> {
    fn input(&mut self, site: Site, x: &Tensor) -> Result<(), ModelError> {
        let (rows, width) = x.dims2()?;
        let x = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut sum = vec![0f64; width];
        let mut seen = Seen {
            rows: Vec::new(),
            samples: Vec::new(),
            mean: Vec::new(),
            least: vec![f32::INFINITY; width],
            largest: vec![f32::NEG_INFINITY; width],
        };
        let step = rows.div_ceil(SAMPLES).max(1);
        let mut counted = 0;
        for (index, row) in x.chunks_exact(width).enumerate() {
            if self.firsts.binary_search(&index).is_ok() {
                continue;
            }
            for (channel, v) in row.iter().enumerate() {
                sum[channel] += f64::from(*v);
                seen.least[channel] = seen.least[channel].min(*v);
                seen.largest[channel] = seen.largest[channel].max(*v);
            }
            if counted % step == 0 {
                seen.samples.extend_from_slice(row);
            }
            counted += 1;
        }
        // A mean of f32 values is as near one as f32 can tell.
        #[allow(clippy::cast_possible_truncation)]
        let mean = |sum: &f64| (sum / f64::from(u32::try_from(counted).unwrap_or(u32::MAX))) as f32;
        seen.mean = sum.iter().map(mean).collect();
        if matches!(self.rounding, Rounding::Compensated(_)) {
            seen.rows = x;
        }
        self.sites[site as usize] = seen;
        Ok(())
    }

    fn layer(
        &mut self,
        index: usize,
        projections: [&Projection; 4],
        norms: [Option<(&[f32], &[f32])>; 2],
    ) -> Result<(), ModelError> {
        let spec: LayerSpec = self.description.layer(index);
        for linear in [&spec.qkv, &spec.attention_out, &spec.up, &spec.down] {
            for (name, _) in linear.tensors() {
                let weights = self.description.weights();
                check_matrix(weights, &format!("{name}.weight"), linear.k)?;
            }
        }
        let names = [QKV, ATTENTION_OUT, UP, DOWN];
        let names = names.map(|name| format!("{}.{name}", spec.packed));
        let (kernels, rounding) = (self.kernels, self.rounding);
        let packed: Vec<Candidate> = projections
            .par_iter()
            .zip(&self.sites)
            .zip(&names)
            .map(|((projection, seen), name)| {
                let matrix = Original::new(kernels, projection, seen);
                matrix.packed(name, rounding, seen)
            })
            .collect();
        let mut reports = Vec::new();
        for ((name, projection), best) in names.into_iter().zip(projections).zip(packed) {
            let (n, k) = projection.shape();
            let channels = Int8Matrix::channels(n);
            let panels = best.packed.panels.chunks(1 << 20).map(|chunk| {
                let bytes: Vec<u8> = chunk.iter().map(|q| q.cast_unsigned()).collect();
                bytes
            });
            let panel_name = format!("{name}.panels");
            self.writer
                .tensor(&panel_name, Dtype::I8, &panel_shape(n, k), panels)?;
            let mut bias = projection.whole_bias();
            bias.resize(channels, 0.0);
            for (bias, product) in bias.iter_mut().zip(&best.offset_product) {
                *bias -= product;
            }
            for (what, values) in [
                ("scales", &best.packed.scales),
                ("sums", &best.packed.sums),
                ("bias", &bias),
            ] {
                self.writer
                    .floats(&format!("{name}.{what}"), &[channels], values)?;
            }
            if let Some((factor, offset)) = &best.choice.smooth {
                for (what, values) in [("factor", factor), ("offset", offset)] {
                    self.writer
                        .floats(&format!("{name}.{what}"), &[k], values)?;
                }
            }
            reports.push(MatrixReport {
                name,
                error: best.error,
                plain_error: best.plain_error,
                ladder: best.ladder,
                trial: best.trial,
                choice: best.choice,
            });
            projection.release();
        }
        for (name, norm) in [ATTENTION_NORM, OUTPUT_NORM].into_iter().zip(norms) {
            let Some((gamma, beta)) = norm else {
                continue;
            };
            for (what, values) in [("weight", gamma), ("bias", beta)] {
                let name = format!("{}.{name}.{what}", spec.packed);
                self.writer.floats(&name, &[values.len()], values)?;
            }
        }
        (self.reports)(reports);
        Ok(())
    }
}

struct Candidate {
    packed: PackedInt8,
    choice: Choice,
    /// What the offsets add to each channel's output.
    offset_product: Vec<f32>,
    error: f32,
    plain_error: f32,
    ladder: [f32; LADDER.len()],
    trial: f32,
}

/// A matrix as it was, with inputs that were seen and their exact products.
struct Original<'a> {
    kernels: Kernels,
    w: Vec<f32>,
    n: usize,
    k: usize,
    samples: &'a [f32],
    exact: Vec<f32>,
}

impl<'a> Original<'a> {
    fn new(kernels: Kernels, projection: &Projection, seen: &'a Seen) -> Self {
        let (n, k) = projection.shape();
        let w = projection.whole_weight();
        let m = seen.samples.len() / k;
        let mut exact = vec![0.0; m * n];
        let shape = LinearShape { m, k, n };
        kernels.linear(&seen.samples, &w, shape, Epilogue::None, &mut exact);
        Self {
            kernels,
            w,
            n,
            k,
            samples: &seen.samples,
            exact,
        }
    }

    fn packed(&self, name: &str, rounding: Rounding<'_>, seen: &Seen) -> Candidate {
        let k = self.k;
        match rounding {
            Rounding::Nearest => {
                let mut best = self.smoothed(seen);
                let smooth = &best.choice.smooth;
                let error = |levels| self.candidate(smooth.clone(), levels).error;
                let ladder = [0, 1, 2, 3].map(|step| match LADDER[step] {
                    Levels::FULL => best.error,
                    levels => error(levels),
                });
                best.trial = error(TRIAL);
                best.ladder = ladder;
                best
            }
            Rounding::Compensated(plan) => {
                let (choice, plain_error) = match plan.choices.get(name) {
                    Some(choice) => (choice.clone(), f32::NAN),
                    None => {
                        let Candidate {
                            mut choice,
                            plain_error,
                            ..
                        } = self.smoothed(seen);
                        choice.levels = plan.levels;
                        (choice, plain_error)
                    }
                };
                let (mut x, mut w) = (seen.rows.clone(), self.w.clone());
                if let Some((factor, offset)) = &choice.smooth {
                    for row in x.chunks_exact_mut(k) {
                        for ((x, f), o) in row.iter_mut().zip(factor).zip(offset) {
                            *x = *x * f + o;
                        }
                    }
                    for row in w.chunks_exact_mut(k) {
                        row.iter_mut().zip(factor).for_each(|(w, f)| *w /= f);
                    }
                }
                let together = Correlation::of(self.kernels, &x, k);
                let (rounded, scales) = together.round(self.kernels, &w, choice.levels);
                let packed = lay_out_int8(&rounded, &scales, k);
                Candidate {
                    plain_error,
                    ..self.measured(packed, choice)
                }
            }
        }
    }

    /// Rounded to the nearest.
    fn candidate(&self, smooth: Option<(Vec<f32>, Vec<f32>)>, levels: Levels) -> Candidate {
        let factor = smooth.as_ref().map(|(factor, _)| &factor[..]);
        let packed = pack_int8(&self.w, self.n, self.k, factor, levels);
        self.measured(packed, Choice { levels, smooth })
    }

    fn measured(&self, packed: PackedInt8, choice: Choice) -> Candidate {
        let Self { n, k, .. } = *self;
        let offset_product = match &choice.smooth {
            Some((factor, offset)) => offset_product(&self.w, factor, offset),
            None => vec![0.0; n],
        };
        let mut bias: Vec<f32> = offset_product.iter().map(|v| -v).collect();
        bias.resize(Int8Matrix::channels(n), 0.0);
        let mut got = vec![0.0; self.exact.len()];
        let matrix = Int8Matrix {
            n,
            k,
            panels: &packed.panels,
            scales: &packed.scales,
            sums: &packed.sums,
            bias: &bias,
            smooth: choice
                .smooth
                .as_ref()
                .map(|(factor, offset)| Smooth { factor, offset }),
            high_precision: false,
            levels: choice.levels,
        };
        self.kernels.int8_linear(self.samples, &matrix, &mut got);
        let error = relative_error(&got, &self.exact);
        Candidate {
            packed,
            choice,
            offset_product,
            error,
            plain_error: error,
            ladder: [f32::NAN; LADDER.len()],
            trial: f32::NAN,
        }
    }

    /// With the inputs smoothed in the way of the least error, at all levels.
    fn smoothed(&self, seen: &Seen) -> Candidate {
        let k = self.k;
        let plain = self.candidate(None, Levels::FULL);
        let plain_error = plain.error;
        // Making the inputs alike costs a multiply-add each; a gain below a tenth does not pay for
        // it.
        let better = |best: Candidate, next: Candidate| {
            let bar = match best.choice.smooth {
                None => 0.9 * best.error,
                Some(_) => best.error,
            };
            if next.error < bar { next } else { best }
        };
        let with = |factor: Vec<f32>, shift: &[f32]| {
            let offset = factor.iter().zip(shift).map(|(f, s)| -f * s).collect();
            self.candidate(Some((factor, offset)), Levels::FULL)
        };
        let none = vec![0.0; k];
        let shifted = with(vec![1.0; k], &seen.mean);
        let shift = if shifted.error < plain_error {
            &seen.mean
        } else {
            &none
        };
        let largest_input = seen.largest_after(shift);
        let largest_weight = largest_of_columns(&self.w, k);
        let mut best = better(plain, shifted);
        for channels in DIVIDED {
            best = better(best, with(division(&largest_input, channels), shift));
        }
        for exponent in SMOOTHING {
            let factor = smoothing(&largest_input, &largest_weight, exponent);
            best = better(best, with(factor, shift));
        }
        Candidate {
            plain_error,
            ..best
        }
    }
}

impl Seen {
    /// Largest magnitude of each channel after `shift` was taken away.
    fn largest_after(&self, shift: &[f32]) -> Vec<f32> {
        let extremes = self.largest.iter().zip(&self.least);
        extremes
            .zip(shift)
            .map(|((largest, least), shift)| (largest - shift).max(shift - least))
            .collect()
    }
}

/// The product of the offsets with the weights that are divided by `factor`, channel by channel.
fn offset_product(w: &[f32], factor: &[f32], offset: &[f32]) -> Vec<f32> {
    let product = |row: &[f32]| {
        let terms = row.iter().zip(factor).zip(offset);
        let sum: f64 = terms
            .map(|((w, f), o)| f64::from(*w) / f64::from(*f) * f64::from(*o))
            .sum();
        // A bias, which is f32.
        #[allow(clippy::cast_possible_truncation)]
        let sum = sum as f32;
        sum
    };
    w.chunks_exact(factor.len()).map(product).collect()
}

fn relative_error(got: &[f32], exact: &[f32]) -> f32 {
    let (mut difference, mut size) = (0f64, 0f64);
    for (got, exact) in got.iter().zip(exact) {
        difference += f64::from(got - exact).powi(2);
        size += f64::from(*exact).powi(2);
    }
    // A ratio, for people.
    #[allow(clippy::cast_possible_truncation)]
    let ratio = (difference / size.max(f64::MIN_POSITIVE)).sqrt() as f32;
    ratio
}

/// Largest magnitude of each input's weights.
fn largest_of_columns(w: &[f32], k: usize) -> Vec<f32> {
    let mut largest = vec![0f32; k];
    for row in w.chunks_exact(k) {
        for (most, w) in largest.iter_mut().zip(row) {
            *most = most.max(w.abs());
        }
    }
    largest
}

/// What inputs are multiplied by so that the `channels` largest become no larger than the next: 1
/// for all others.
fn division(x: &[f32], channels: usize) -> Vec<f32> {
    let mut sorted = x.to_vec();
    sorted.sort_by(f32::total_cmp);
    let next = sorted[sorted.len().saturating_sub(channels + 1)];
    x.iter().map(|x| usable((next / x).min(1.0))).collect()
}

/// What inputs are multiplied by to smooth them: `1 / s`, 1 where a channel is never used.
fn smoothing(x: &[f32], w: &[f32], exponent: f32) -> Vec<f32> {
    let factor = |(x, w): (&f32, &f32)| usable(w.powf(1.0 - exponent) / x.powf(exponent));
    x.iter().zip(w).map(factor).collect()
}

/// `factor` if it and its inverse are numbers to calculate with, else 1.
fn usable(factor: f32) -> f32 {
    if factor.is_normal() && (1.0 / factor).is_normal() {
        factor
    } else {
        1.0
    }
}
