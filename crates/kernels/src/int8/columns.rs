//! The encoder of few tokens on a matrix unit: every thread takes a part of each matrix's columns for all rows.
//!
//! The unit is faster than weights come from memory, so that threads with a block of rows each would all wait for the same
//! weights. Here each weight is read once by all threads together, at the price of more waits for each other: rows are
//! quantized and normed by rows, and multiplied by columns, in turns. What is computed is the same, to the bit.

use crate::attention::Layout;
use crate::elementwise::GateRows;
use crate::int8::encoder::{Attentions, Int8Layer, Norms, PAD, Pooling};
use crate::int8::product::{Out, Scale};
use crate::int8::tiles::{Operands, SharedRows, multiply, product_len, rows_words};
use crate::int8::{Int8Matrix, PANEL};
use crate::isa::Kernels;
use crate::layer_norm::{Between, RowsMut};
use crate::matrix_unit::{MatrixUnit, UnitKernel};
use crate::parallel::{self, Shared};
use crate::scratch::{Buffer, Slot};
use crate::simd::Int8;
use crate::tile::panel_start;

/// Rows of an item that goes by rows.
const ROWS: usize = 8;

/// A pass of one group through the layers.
pub(super) struct Pass<'a> {
    pub(super) layers: &'a [Int8Layer<'a>],
    /// The sequences' first tokens.
    pub(super) firsts: &'a [usize],
    pub(super) tokens: usize,
    pub(super) pooled: Pooling,
    pub(super) attentions: &'a Attentions,
    pub(super) layout: Layout,
    pub(super) hidden: Shared,
    pub(super) qkv: Shared,
    pub(super) qkv_len: usize,
    pub(super) context: Shared,
    pub(super) own: Own,
}

/// The memory of [`Pass`] alone, which [`Own::lens`] measures.
#[derive(Clone, Copy)]
pub(super) struct Own {
    pub(super) bytes: Shared,
    pub(super) scales: Shared<Scale>,
    pub(super) attended: Shared,
    pub(super) wide: Shared,
}

impl Own {
    /// The lengths of `bytes`, `scales`, `attended` and `wide`.
    pub(super) fn lens(layers: &[Int8Layer<'_>], tokens: usize) -> [usize; 4] {
        let Some(first) = layers.first() else {
            return [0; 4];
        };
        let width = first.qkv.k;
        let inputs = layers.iter().map(|layer| layer.down.k).max();
        let wide = layers.iter().map(|layer| layer.up.n).max();
        [
            rows_words(2 * tokens, width.max(inputs.unwrap_or(0))),
            2 * tokens,
            tokens * (width + PAD),
            tokens * (wide.unwrap_or(0).max(width) + PAD),
        ]
    }
}

/// A phase; those of a layer are told its number. Rows are quantized for the product of the next phase.
#[derive(Clone, Copy)]
enum Step {
    Attend(usize),
    /// First tokens' rows move together: what follows is for them alone.
    Gather,
    /// Attention's result is quantized.
    Context(usize),
    Out(usize),
    /// Residual and norm.
    Attended(usize),
    Up(usize),
    Inner(usize),
    Down(usize),
    /// Residual and norm, but before the first layer.
    Next(Option<usize>),
    Qkv(usize),
}

/// Which rows have high precision whatever the matrix.
#[derive(Clone, Copy)]
enum Firsts<'a> {
    All,
    These(&'a [usize]),
}

impl Pass<'_> {
    pub(super) fn run(&self, kernels: Kernels) {
        let last = self.layers.len() - 1;
        let mut steps = vec![Step::Next(None), Step::Qkv(0)];
        for layer in 0..=last {
            steps.push(Step::Attend(layer));
            if layer == last && self.pooled == Pooling::First {
                steps.push(Step::Gather);
            }
            steps.extend([
                Step::Context(layer),
                Step::Out(layer),
                Step::Attended(layer),
                Step::Up(layer),
                Step::Inner(layer),
                Step::Down(layer),
                Step::Next(Some(layer)),
            ]);
            if layer < last {
                steps.push(Step::Qkv(layer + 1));
            }
        }
        let ends = |step: usize| self.pooled == Pooling::First && step + 8 > steps.len();
        let rows = |step| {
            if ends(step) {
                self.firsts.len()
            } else {
                self.tokens
            }
        };
        let threads = rayon::current_num_threads();
        let items: Vec<usize> = steps
            .iter()
            .enumerate()
            .map(|(number, &step)| match step {
                Step::Attend(layer) => self.attentions.items(layer).len(),
                Step::Gather => 1,
                Step::Out(_) | Step::Up(_) | Step::Down(_) | Step::Qkv(_) => {
                    parts(self.matrix(step), threads)
                }
                Step::Context(_) | Step::Attended(_) | Step::Inner(_) | Step::Next(_) => {
                    rows(number).div_ceil(ROWS)
                }
            })
            .collect();
        let width = self.layers[0].qkv.k;
        let stride = width + PAD;
        // What every access rests on: an item of a phase writes rows, or columns, or heads of rows, that no other item of the phase
        // touches, and the phases follow each other.
        parallel::for_each_phase(&items, |number, item| {
            let step = steps[number];
            let firsts = if ends(number) {
                Firsts::All
            } else {
                Firsts::These(self.firsts)
            };
            match step {
                Step::Attend(layer) => {
                    let item = &self.attentions.items(layer)[item];
                    let kind = &self.layers[layer].kind;
                    // SAFETY: see above. All of `qkv` was written by the phase before and is only read in this one.
                    unsafe {
                        let qkv = self.qkv.read(0, self.qkv_len);
                        kernels.attend(item, qkv, self.layout, kind, true, (self.context, stride));
                    }
                }
                Step::Gather => {
                    // SAFETY: see above; the only item of its phase.
                    let (context, hidden) = unsafe {
                        (
                            self.context.write(0, self.tokens * stride),
                            self.hidden.write(0, self.tokens * width),
                        )
                    };
                    for (row, &first) in self.firsts.iter().enumerate() {
                        // In ascending order no row is overwritten before it was read, because no sequence is empty.
                        context.copy_within(first * stride..(first + 1) * stride, row * stride);
                        hidden.copy_within(first * width..(first + 1) * width, row * width);
                    }
                }
                Step::Out(_) | Step::Up(_) | Step::Down(_) | Step::Qkv(_) => {
                    kernels.dispatch_unit(Columns {
                        pass: self,
                        step,
                        part: item,
                        parts: items[number],
                        rows: rows(number),
                        firsts,
                    });
                }
                Step::Context(_) | Step::Attended(_) | Step::Inner(_) | Step::Next(_) => {
                    let first = item * ROWS;
                    kernels.dispatch_unit(Rows {
                        pass: self,
                        step,
                        first,
                        count: ROWS.min(rows(number) - first),
                        rows: rows(number),
                        firsts,
                    });
                }
            }
        });
    }

    /// The matrix of a product, or that for which rows are quantized; the last layer's output goes nowhere.
    fn matrix_after(&self, step: Step) -> Option<&Int8Matrix<'_>> {
        let layer = |number: usize| self.layers.get(number);
        match step {
            Step::Context(l) | Step::Out(l) => layer(l).map(|layer| &layer.attention_out),
            Step::Attended(l) | Step::Up(l) => layer(l).map(|layer| &layer.up),
            Step::Inner(l) | Step::Down(l) => layer(l).map(|layer| &layer.down),
            Step::Next(l) => layer(l.map_or(0, |l| l + 1)).map(|layer| &layer.qkv),
            Step::Qkv(l) => layer(l).map(|layer| &layer.qkv),
            Step::Attend(_) | Step::Gather => None,
        }
    }

    fn matrix(&self, step: Step) -> &Int8Matrix<'_> {
        self.matrix_after(step).expect("a step with a product")
    }

    /// Where the quantized rows of a product lie.
    fn shared_rows(&self, matrix: &Int8Matrix<'_>, rows: usize, firsts: Firsts<'_>) -> SharedRows {
        SharedRows {
            bytes: self.own.bytes,
            scales: self.own.scales,
            residuals: match firsts {
                Firsts::These(firsts) if !matrix.high_precision => firsts.len(),
                _ => rows,
            },
        }
    }
}

/// Into how many items a product goes: a few for each thread, because the others may be slower.
fn parts(matrix: &Int8Matrix<'_>, threads: usize) -> usize {
    matrix.n.div_ceil(PANEL).min(4 * threads)
}

/// A product's columns of one item.
struct Columns<'a> {
    pass: &'a Pass<'a>,
    step: Step,
    part: usize,
    parts: usize,
    rows: usize,
    firsts: Firsts<'a>,
}

impl UnitKernel for Columns<'_> {
    #[inline(always)]
    fn run<S: Int8, U: MatrixUnit>(self, s: S, unit: U) {
        let pass = self.pass;
        let matrix = pass.matrix(self.step);
        let shared = pass.shared_rows(matrix, self.rows, self.firsts);
        let total = shared.residuals + self.rows;
        let panels = matrix.n.div_ceil(PANEL);
        let panels = panel_start(self.part, self.parts, panels)
            ..panel_start(self.part + 1, self.parts, panels);
        let width = pass.layers[0].qkv.k;
        let near = width + PAD;
        let (values, stride) = match self.step {
            Step::Out(_) => (pass.own.attended, near),
            Step::Up(_) => (pass.own.wide, matrix.n.max(width) + PAD),
            Step::Qkv(_) => (pass.qkv, pass.layout.token),
            _ => (pass.own.wide, near),
        };
        let in_slabs = matches!(self.step, Step::Qkv(_)) && stride == pass.layout.head_dim;
        let mut scratch = Buffer::take(Slot::Thread, product_len(shared.residuals, matrix.k));
        let tiles = unit.configure();
        // SAFETY: the rows' bytes and scales were written by the phase before and are only read in this one. The columns of the
        // panels, in every row (of each slab, a head of all tokens, where it lies in slabs), belong to this item alone; the
        // buffers have rows of `stride` values, no fewer than the matrix has columns.
        unsafe {
            let operands = Operands {
                bytes: shared.bytes.read(0, rows_words(total, matrix.k)),
                scales: shared.scales.read(0, total),
                residuals: shared.residuals,
                total,
            };
            let out = Out {
                values: values.at(0),
                stride,
                slab: if in_slabs { stride } else { usize::MAX },
                slab_stride: pass.layout.head,
            };
            let gelu = matches!(self.step, Step::Up(l) if !pass.layers[l].gated);
            multiply::<S, U>(
                s,
                &tiles,
                operands,
                matrix,
                panels,
                gelu,
                &out,
                &mut scratch,
            );
        }
    }
}

/// Rows between two products.
struct Rows<'a> {
    pass: &'a Pass<'a>,
    step: Step,
    first: usize,
    count: usize,
    /// Of all items.
    rows: usize,
    firsts: Firsts<'a>,
}

impl UnitKernel for Rows<'_> {
    #[inline(always)]
    fn run<S: Int8, U: MatrixUnit>(self, s: S, _: U) {
        let pass = self.pass;
        let width = pass.layers[0].qkv.k;
        let near = width + PAD;
        let matrix = pass.matrix_after(self.step);
        let mut room = Buffer::take(Slot::Thread, matrix.map_or(0, |matrix| matrix.k));
        for row in self.first..self.first + self.count {
            // SAFETY: the row of every buffer belongs to this item alone.
            let x: &[f32] = unsafe {
                match self.step {
                    Step::Context(_) => pass.context.read(row * near, width),
                    Step::Attended(l) => {
                        let x = pass.own.attended.write(row * near, width);
                        match &pass.layers[l].norms {
                            Norms::After { attention, .. } => s.vectorize(Between::AddNorm {
                                x: one_row(x),
                                residual: (pass.hidden.read(row * width, width), width),
                                norm: attention,
                            }),
                            Norms::Before { output, .. } => {
                                let hidden = pass.hidden.write(row * width, width);
                                s.vectorize(Between::Add {
                                    x: one_row(hidden),
                                    other: (x, width),
                                    width,
                                });
                                s.vectorize(Between::Norm {
                                    from: (hidden, width),
                                    to: one_row(x),
                                    norm: output,
                                });
                            }
                        }
                        x
                    }
                    Step::Inner(l) => {
                        let (wide, inner) = (pass.layers[l].up.n, pass.layers[l].down.k);
                        let row = pass.own.wide.write(row * (wide.max(width) + PAD), wide);
                        if pass.layers[l].gated {
                            s.vectorize(GateRows {
                                values: row,
                                stride: wide,
                                inner,
                            });
                        }
                        &row[..inner]
                    }
                    Step::Next(layer) => {
                        let hidden = pass.hidden.write(row * width, width);
                        let attended = pass.own.attended.write(row * near, width);
                        if let Some(l) = layer {
                            let x = pass.own.wide.read(row * near, width);
                            match &pass.layers[l].norms {
                                Norms::After { output, .. } => {
                                    hidden.copy_from_slice(x);
                                    s.vectorize(Between::AddNorm {
                                        x: one_row(hidden),
                                        residual: (attended, width),
                                        norm: output,
                                    });
                                }
                                Norms::Before { .. } => s.vectorize(Between::Add {
                                    x: one_row(hidden),
                                    other: (x, width),
                                    width,
                                }),
                            }
                        }
                        let next = pass.layers.get(layer.map_or(0, |l| l + 1));
                        match next.map(|next| &next.norms) {
                            Some(Norms::Before {
                                attention: Some(norm),
                                ..
                            }) => {
                                s.vectorize(Between::Norm {
                                    from: (hidden, width),
                                    to: one_row(attended),
                                    norm,
                                });
                                attended
                            }
                            _ => hidden,
                        }
                    }
                    _ => unreachable!("a step by columns"),
                }
            };
            let Some(matrix) = matrix else {
                continue;
            };
            let shared = pass.shared_rows(matrix, self.rows, self.firsts);
            let residual = match self.firsts {
                Firsts::These(firsts) if !matrix.high_precision => firsts.binary_search(&row).ok(),
                _ => Some(row),
            };
            // SAFETY: the row, and its residual row, belong to this item alone; there are bytes and scales for both of each row.
            unsafe { shared.quantize(s, x, matrix, (row, residual), &mut room) };
        }
    }
}

fn one_row(values: &mut [f32]) -> RowsMut<'_> {
    let stride = values.len();
    RowsMut { values, stride }
}
