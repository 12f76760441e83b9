//! Softmax attention within each sequence by batched matrix products, and what layers add to it by
//! positions: rotations, windows and biases by distance.

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::rotary_emb::rope_thd;
use kernels::AttentionKind;

use super::super::blocks::{Block, Blocks};
use super::{WIDE, rows};
use crate::error::ModelError;

/// Attention of all layers of one kind, over the sequences of one pass.
pub(crate) struct Attention<'a> {
    heads: usize,
    head_dim: usize,
    dtype: DType,
    /// Cosines and sines of each token, `[tokens, head_dim / 2]`.
    rotation: Option<(Tensor, Tensor)>,
    blocks: Vec<Placed<'a>>,
    places: Tensor,
}

/// A block with what it needs on the device.
struct Placed<'a> {
    block: &'a Block,
    /// The rows that it takes.
    rows: Tensor,
    /// What keeps padding out, `[pieces, 1, 1, keys]`.
    mask: Option<Tensor>,
    /// What is added to scores by distance, `[1, heads or 1, tile, columns]`: see
    /// [`Block::distances`].
    by_distance: Option<Tensor>,
}

impl<'a> Attention<'a> {
    /// `positions` of the tokens, each within its sequence where `kind` rotates.
    pub(crate) fn new(
        blocks: &'a Blocks,
        kind: &AttentionKind,
        (heads, head_dim): (usize, usize),
        positions: &Tensor,
        dtype: DType,
    ) -> Result<Self, ModelError> {
        let device = positions.device();
        let rotation = kind.rotary.as_ref().map(|rotary| {
            let of_tokens = |table: &[f32]| {
                let pairs = head_dim / 2;
                let table = Tensor::from_slice(table, (table.len() / pairs, pairs), device)?;
                table.index_select(positions, 0)
            };
            Ok::<_, ModelError>((of_tokens(rotary.cos)?, of_tokens(rotary.sin)?))
        });
        let place = |block: &'a Block| {
            let mask = block.mask().map(|mask| {
                let shape = (block.pieces, 1, 1, block.keys);
                Tensor::from_vec(mask, shape, device)?.to_dtype(dtype)
            });
            Ok::<_, ModelError>(Placed {
                block,
                rows: rows(&block.rows, device)?,
                mask: mask.transpose()?,
                by_distance: by_distance(block, kind, heads, device, dtype)?,
            })
        };
        let placed = blocks.blocks.iter().map(place);
        Ok(Self {
            heads,
            head_dim,
            dtype,
            rotation: rotation.transpose()?,
            blocks: placed.collect::<Result<_, _>>()?,
            places: rows(&blocks.places, device)?,
        })
    }

    /// `[tokens, 3 · hidden]` to `[tokens, hidden]`, block by block.
    pub(crate) fn forward(&self, qkv: &Tensor) -> Result<Tensor, ModelError> {
        let hidden = self.heads * self.head_dim;
        let qkv = self.rotated(qkv)?;
        let mut contexts = Vec::with_capacity(self.blocks.len());
        for placed in &self.blocks {
            let block = placed.block;
            let heads = (block.pieces, block.keys, 3, self.heads, self.head_dim);
            let qkv = qkv.index_select(&placed.rows, 0)?.reshape(heads)?;
            let qkv = qkv.permute((2, 0, 3, 1, 4))?.contiguous()?;
            let (queries, keys, values) = (qkv.i(0)?, qkv.i(1)?.t()?, qkv.i(2)?);
            let tiles = block.tiles().map(|tile| {
                let count = block.tile.min(block.queries.len() - tile);
                let queries = queries.narrow(2, block.queries.start + tile, count)?;
                let mut scores = queries.matmul(&keys)?;
                if let Some(added) = &placed.by_distance {
                    let added = added.narrow(2, 0, count)?;
                    let added = added.narrow(3, block.column(tile), block.keys)?;
                    scores = scores.broadcast_add(&added)?;
                }
                if let Some(mask) = &placed.mask {
                    scores = scores.broadcast_add(mask)?;
                }
                softmax(&scores)?.matmul(&values)
            });
            let tiles = tiles.collect::<candle_core::Result<Vec<_>>>()?;
            let context = Tensor::cat(&tiles, 2)?.transpose(1, 2)?;
            contexts.push(context.reshape((block.pieces * block.queries.len(), hidden))?);
        }
        Ok(Tensor::cat(&contexts, 0)?.index_select(&self.places, 0)?)
    }

    /// Queries and keys rotated by their positions, in f32; values as they are.
    fn rotated(&self, qkv: &Tensor) -> Result<Tensor, ModelError> {
        let Some((cos, sin)) = &self.rotation else {
            return Ok(qkv.clone());
        };
        let tokens = qkv.dim(0)?;
        let hidden = self.heads * self.head_dim;
        let heads = (1, tokens, 2 * self.heads, self.head_dim);
        let turning = qkv.narrow(1, 0, 2 * hidden)?.to_dtype(WIDE)?;
        let turned = rope_thd(&turning.contiguous()?.reshape(heads)?, cos, sin)?;
        let turned = turned.reshape((tokens, 2 * hidden))?.to_dtype(self.dtype)?;
        let values = qkv.narrow(1, 2 * hidden, hidden)?;
        Ok(Tensor::cat(&[turned, values], 1)?)
    }
}

/// The biases of distances, and minus infinity beyond the window; nothing where neither is in this
/// block.
fn by_distance(
    block: &Block,
    kind: &AttentionKind,
    heads: usize,
    device: &Device,
    dtype: DType,
) -> Result<Option<Tensor>, ModelError> {
    let window = kind.window.filter(|&window| block.reaches_beyond(window));
    if window.is_none() && kind.bias.is_none() {
        return Ok(None);
    }
    let (distances, width) = block.distances();
    let shape = |heads: usize| (1, heads, block.tile, width);
    let beyond = window.map(|window| {
        let beyond = |distance: &isize| distance.unsigned_abs() > window;
        let added = distances
            .iter()
            .map(|it| if beyond(it) { f32::NEG_INFINITY } else { 0.0 });
        Tensor::from_iter(added, device)?
            .reshape(shape(1))?
            .to_dtype(dtype)
    });
    let biases = kind.bias.as_ref().map(|bias| {
        let reach = bias.reach.cast_signed();
        let column = |distance: &isize| (distance.clamp(&-reach, &reach) + reach).unsigned_abs();
        let columns: Vec<usize> = distances.iter().map(column).collect();
        let table = Tensor::from_slice(bias.table, (heads, 2 * bias.reach + 1), device)?;
        let biases = table
            .to_dtype(dtype)?
            .index_select(&rows(&columns, device)?, 1)?;
        Ok::<_, ModelError>(biases.reshape(shape(heads))?)
    });
    Ok(match (biases.transpose()?, beyond.transpose()?) {
        (Some(biases), Some(beyond)) => Some(biases.broadcast_add(&beyond)?),
        (biases, beyond) => biases.or(beyond),
    })
}

/// Over the last dimension. candle's CUDA kernel adds in f32 whatever the dtype, its loop for CPUs
/// in the dtype itself.
fn softmax(scores: &Tensor) -> candle_core::Result<Tensor> {
    if scores.device().is_cpu() {
        softmax_last_dim(&scores.to_dtype(WIDE)?)?.to_dtype(scores.dtype())
    } else {
        softmax_last_dim(scores)
    }
}
