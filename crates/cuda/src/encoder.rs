//! The weights and buffers on the device, and the launches of one pass.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublas::{self, CudaBlas, sys as blas};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DeviceRepr,
    DriverError, LaunchConfig, PushKernelArg, sys,
};
use cudarc::nvrtc::Ptx;

use crate::{AT_ONCE, Shape, WARPS, Work};

static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// The version of CUDA that all this was built with.
pub const BUILT_WITH: (u32, u32) = version(sys::CUDA_VERSION);

const fn version(number: u32) -> (u32, u32) {
    (number / 1000, number % 1000 / 10)
}

/// The newest version of CUDA that the driver is made for.
pub fn driver_version() -> Result<(u32, u32), Error> {
    let mut number = 0;
    // SAFETY: it writes one number.
    unsafe { sys::cuDriverGetVersion(&raw mut number) }.result()?;
    Ok(version(number.unsigned_abs()))
}

/// Threads of a block where each has its own values.
const THREADS: usize = 256;
/// Rows of a block where a warp has a row.
const ROWS: usize = 4;
/// Values of f32 on their way to the device that are narrowed there at a time.
const PIECE: usize = 16 << 20;

/// Why a model cannot be loaded, or a pass not computed.
#[allow(missing_docs, reason = "each variant's message says it")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the GPU's driver answers {0}")]
    Driver(#[from] DriverError),
    #[error("cuBLAS answers {0}")]
    Blas(#[from] cublas::result::CublasError),
    #[error("a pass of {0} tokens has numbers that do not fit into 32 bits")]
    TooLarge(usize),
    #[error("{0}")]
    Unfit(String),
}

/// The 16-bit type of weights, products and most activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// IEEE's half precision: 5 bits of exponent, 10 of fraction.
    F16,
    /// The upper half of an f32: 8 bits of exponent, 7 of fraction.
    Bf16,
}

impl Half {
    fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    fn of_blas(self) -> blas::cudaDataType {
        match self {
            Self::F16 => blas::cudaDataType::CUDA_R_16F,
            Self::Bf16 => blas::cudaDataType::CUDA_R_16BF,
        }
    }
}

/// `x · Wᵀ + b`, with a weight of `[n, k]`, row by row.
pub struct Linear<'a> {
    /// `[n, k]`, row-major.
    pub weight: &'a [f32],
    /// `[n]`.
    pub bias: &'a [f32],
}

/// A layer norm over a token's vector.
pub struct Norm<'a> {
    /// `[hidden]`: the factors.
    pub gamma: &'a [f32],
    /// `[hidden]`: the summands.
    pub beta: &'a [f32],
}

/// One layer, with norms after its sub-layers.
pub struct Layer<'a> {
    /// `[hidden, hidden]`.
    pub query: Linear<'a>,
    /// `[hidden, hidden]`.
    pub key: Linear<'a>,
    /// `[hidden, hidden]`.
    pub value: Linear<'a>,
    /// `[hidden, hidden]`: the projection of attention's output.
    pub attention_out: Linear<'a>,
    /// After the sum of attention and its residual.
    pub attention_norm: Norm<'a>,
    /// `[inner, hidden]`, before GELU.
    pub up: Linear<'a>,
    /// `[hidden, inner]`, after GELU.
    pub down: Linear<'a>,
    /// After the sum of the feed-forward network and its residual.
    pub output_norm: Norm<'a>,
}

/// `dense → tanh → one output`.
pub struct Head<'a> {
    /// `[hidden, hidden]`, before tanh.
    pub dense: Linear<'a>,
    /// `[hidden]`: the weights of the one output.
    pub out: &'a [f32],
    /// The bias of the one output.
    pub out_bias: f32,
}

/// A matrix on the device, `[n, k]`.
struct Matrix {
    values: CudaSlice<u16>,
    n: usize,
    k: usize,
}

struct DeviceNorm {
    gamma: CudaSlice<f32>,
    beta: CudaSlice<f32>,
}

struct DeviceLayer {
    qkv: Matrix,
    query_bias: CudaSlice<f32>,
    attention_out: Matrix,
    attention_bias: CudaSlice<f32>,
    attention_norm: DeviceNorm,
    up: Matrix,
    up_bias: CudaSlice<f32>,
    down: Matrix,
    down_bias: CudaSlice<f32>,
    output_norm: DeviceNorm,
}

struct DeviceHead {
    dense: CudaSlice<f32>,
    dense_bias: CudaSlice<f32>,
    out: CudaSlice<f32>,
    out_bias: f32,
}

/// The embeddings' tables.
struct Tables {
    words: CudaSlice<u16>,
    positions: CudaSlice<u16>,
    segments: CudaSlice<u16>,
    /// Of each.
    rows: [usize; 3],
    norm: DeviceNorm,
}

struct Functions {
    /// With queries once, and twice for each warp.
    attention: [CudaFunction; 2],
    add_norm: CudaFunction,
    embed: CudaFunction,
    bias_gelu: CudaFunction,
    logits: CudaFunction,
    narrow: CudaFunction,
}

impl Functions {
    fn load(module: &Arc<CudaModule>, shape: &Shape, half: Half) -> Result<Self, DriverError> {
        let (half, units) = (half.name(), shape.hidden / 128);
        let find = |name: String| module.load_function(&name);
        let width = shape.head_width();
        let attention = |times| find(format!("attention_{half}_{width}_{times}_{WARPS}"));
        Ok(Self {
            attention: [attention(1)?, attention(2)?],
            add_norm: find(format!("add_norm_{half}_{units}"))?,
            embed: find(format!("embed_{half}_{units}"))?,
            bias_gelu: find(format!("bias_gelu_{half}"))?,
            logits: find("logits_f32".into())?,
            narrow: find(format!("narrow_{half}"))?,
        })
    }
}

/// What a pass computes in, kept for the next one.
struct Space {
    tokens: usize,
    sequences: usize,
    integers: CudaSlice<i32>,
    /// The residual, and what it is narrowed to, `[tokens, hidden]`.
    wide: CudaSlice<f32>,
    narrow: CudaSlice<u16>,
    /// Queries, keys and values, and attention's outputs behind them; or the feed-forward's inner
    /// values.
    large: CudaSlice<u16>,
    /// What a projection adds to the residual, `[tokens, hidden]`.
    added: CudaSlice<u16>,
    /// The residual of first tokens, the head's inner values, and the logits.
    first: CudaSlice<f32>,
    dense: CudaSlice<f32>,
    logits: CudaSlice<f32>,
}

/// A model on the first GPU of the machine. All its work is in one stream, in order.
pub struct Encoder {
    shape: Shape,
    half: Half,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    blas: CudaBlas,
    functions: Functions,
    tables: Tables,
    layers: Vec<DeviceLayer>,
    head: DeviceHead,
    space: Mutex<Option<Space>>,
}

/// The address of what a kernel is given.
fn at<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> u64 {
    slice.device_ptr(stream).0
}

/// Launches a function on so many blocks of so many threads, with arguments by value.
macro_rules! launch {
    ($stream:expr, $function:expr, $blocks:expr, $threads:expr, $($argument:expr),+ $(,)?) => {{
        let blocks: (usize, usize) = $blocks;
        let config = LaunchConfig {
            grid_dim: (blocks.0 as u32, blocks.1 as u32, 1),
            block_dim: ($threads as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut builder = $stream.launch_builder(&$function);
        launch!(@with builder, config, $($argument),+)
    }};
    (@with $builder:ident, $config:ident, $first:expr $(, $rest:expr)*) => {{
        let argument = $first;
        $builder.arg(&argument);
        launch!(@with $builder, $config $(, $rest)*)
    }};
    (@with $builder:ident, $config:ident) => {
        // SAFETY: the caller's: each address is of a buffer of the size that the kernel is told,
        // which lives until the stream is done.
        unsafe { $builder.launch($config) }.map(drop)
    };
}

/// Brings weights to the device.
struct Loader<'a> {
    stream: &'a Arc<CudaStream>,
    narrow: &'a CudaFunction,
    /// For f32 on their way.
    piece: CudaSlice<f32>,
}

impl Loader<'_> {
    fn floats(&self, values: &[f32], count: usize, what: &str) -> Result<CudaSlice<f32>, Error> {
        expect(values.len(), count, what)?;
        Ok(self.stream.clone_htod(values)?)
    }

    /// Parts one after the other, in 16 bits, each multiplied by its factor.
    fn halves(
        &mut self,
        parts: &[(&[f32], f32)],
        each: usize,
        what: &str,
    ) -> Result<CudaSlice<u16>, Error> {
        // SAFETY: every value is written below, before anything reads it.
        let out = unsafe { self.stream.alloc::<u16>(parts.len() * each) }?;
        let mut to = at(&out, self.stream);
        for (values, factor) in parts {
            expect(values.len(), each, what)?;
            if !each.is_multiple_of(2) {
                return Err(Error::Unfit(format!(
                    "{what} has {each} values, an odd number"
                )));
            }
            for piece in values.chunks(PIECE) {
                self.stream.memcpy_htod(piece, &mut self.piece)?;
                let pairs = piece.len() / 2;
                let from = at(&self.piece, self.stream);
                launch!(
                    self.stream,
                    self.narrow,
                    (pairs.div_ceil(THREADS), 1),
                    THREADS,
                    from,
                    *factor,
                    to,
                    pairs as i32
                )?;
                to += 2 * piece.len() as u64;
            }
        }
        Ok(out)
    }

    fn matrix(&mut self, weight: &[f32], n: usize, k: usize, what: &str) -> Result<Matrix, Error> {
        let values = self.halves(&[(weight, 1.0)], n * k, what)?;
        Ok(Matrix { values, n, k })
    }

    fn norm(&self, norm: &Norm, width: usize) -> Result<DeviceNorm, Error> {
        Ok(DeviceNorm {
            gamma: self.floats(norm.gamma, width, "a norm's gamma")?,
            beta: self.floats(norm.beta, width, "a norm's beta")?,
        })
    }

    fn layer(&mut self, layer: &Layer, shape: &Shape) -> Result<DeviceLayer, Error> {
        let (hidden, inner) = (shape.hidden, shape.inner);
        // Softmax is in powers of two.
        let scale = std::f32::consts::LOG2_E / (shape.head_width() as f32).sqrt();
        let qkv = [
            (layer.query.weight, scale),
            (layer.key.weight, 1.0),
            (layer.value.weight, 1.0),
        ];
        let query_bias: Vec<f32> = layer.query.bias.iter().map(|x| x * scale).collect();
        // A bias of keys adds the same to all scores of a query, which softmax takes away. One of
        // values is added to every weighted sum of them, and so adds a constant to the projection
        // behind.
        let projection = &layer.attention_out;
        expect(
            projection.weight.len(),
            hidden * hidden,
            "attention's output",
        )?;
        expect(layer.value.bias.len(), hidden, "the values' bias")?;
        let through = |row: &[f32]| -> f64 {
            let products = row.iter().zip(layer.value.bias);
            products.map(|(&w, &b)| f64::from(w) * f64::from(b)).sum()
        };
        let rows = projection.weight.chunks(hidden).zip(projection.bias);
        let attention_bias: Vec<f32> = rows
            .map(|(row, &bias)| (f64::from(bias) + through(row)) as f32)
            .collect();
        Ok(DeviceLayer {
            qkv: Matrix {
                values: self.halves(&qkv, hidden * hidden, "a projection of attention")?,
                n: 3 * hidden,
                k: hidden,
            },
            query_bias: self.floats(&query_bias, hidden, "the queries' bias")?,
            attention_out: self.matrix(projection.weight, hidden, hidden, "attention's output")?,
            attention_bias: self.floats(&attention_bias, hidden, "attention's bias")?,
            attention_norm: self.norm(&layer.attention_norm, hidden)?,
            up: self.matrix(
                layer.up.weight,
                inner,
                hidden,
                "the first of the feed-forward",
            )?,
            up_bias: self.floats(layer.up.bias, inner, "the feed-forward's first bias")?,
            down: self.matrix(
                layer.down.weight,
                hidden,
                inner,
                "the second of the feed-forward",
            )?,
            down_bias: self.floats(layer.down.bias, hidden, "the feed-forward's second bias")?,
            output_norm: self.norm(&layer.output_norm, hidden)?,
        })
    }
}

fn expect(found: usize, wanted: usize, what: &str) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::Unfit(format!(
        "{what} has {found} values instead of {wanted}"
    )))
}

impl Encoder {
    /// `tables` are those of words, positions and segments; `layers` are asked for one after the
    /// other, and are let go when they are on the device.
    pub fn load<'a, E: From<Error>>(
        shape: Shape,
        half: Half,
        tables: [&[f32]; 3],
        norm: &Norm,
        layers: usize,
        mut load_layer: impl FnMut(usize, &mut dyn FnMut(&Layer) -> Result<(), Error>) -> Result<(), E>,
        head: &Head<'a>,
    ) -> Result<Self, E> {
        let context = CudaContext::new(0).map_err(Error::from)?;
        // SAFETY: all that this context's own slices are used for is in the one stream below, where
        // it is done in order.
        unsafe { context.disable_event_tracking() };
        let (major, minor) = context.compute_capability().map_err(Error::from)?;
        if let Some(reason) = shape.lacks((major.unsigned_abs(), minor.unsigned_abs())) {
            return Err(Error::Unfit(reason).into());
        }
        if layers == 0 {
            return Err(Error::Unfit("the model has no layers".into()).into());
        }
        let stream = context.new_stream().map_err(Error::from)?;
        let blas = CudaBlas::new(Arc::clone(&stream)).map_err(Error::from)?;
        let module = context
            .load_module(Ptx::from_binary(IMAGE.to_vec()))
            .map_err(Error::from)?;
        let functions = Functions::load(&module, &shape, half).map_err(Error::from)?;
        let hidden = shape.hidden;
        let mut loader = Loader {
            stream: &stream,
            narrow: &functions.narrow,
            // SAFETY: what is read of it has been copied to it.
            piece: unsafe { stream.alloc(PIECE) }.map_err(Error::from)?,
        };
        let mut on_device = Vec::with_capacity(layers);
        for index in 0..layers {
            load_layer(index, &mut |layer| {
                on_device.push(loader.layer(layer, &shape)?);
                Ok(())
            })?;
        }
        let mut table = |values: &[f32]| {
            loader.halves(&[(values, 1.0)], values.len() / hidden * hidden, "a table")
        };
        let [words, positions, segments] =
            [table(tables[0])?, table(tables[1])?, table(tables[2])?];
        let tables = Tables {
            words,
            positions,
            segments,
            rows: tables.map(|table| table.len() / hidden),
            norm: loader.norm(norm, hidden)?,
        };
        let head = DeviceHead {
            dense: loader.floats(head.dense.weight, hidden * hidden, "the head's first layer")?,
            dense_bias: loader.floats(head.dense.bias, hidden, "the head's first bias")?,
            out: loader.floats(head.out, hidden, "the head's second layer")?,
            out_bias: head.out_bias,
        };
        stream.synchronize().map_err(Error::from)?;
        Ok(Self {
            shape,
            half,
            context,
            blas,
            functions,
            tables,
            layers: on_device,
            head,
            space: Mutex::new(None),
            stream,
        })
    }

    /// One logit for each sequence.
    pub fn forward(&self, work: &Work) -> Result<Vec<f32>, Error> {
        for ids in work.rows.chunks(3) {
            for (&id, rows) in ids.iter().zip(self.tables.rows) {
                assert!(
                    usize::try_from(id).is_ok_and(|id| id < rows),
                    "an id is in its table"
                );
            }
        }
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        self.context.bind_to_thread()?;
        let space = self.room(&mut space, work)?;
        self.launch(space, work)?;
        let logits = space.logits.slice(..work.sequences());
        // Waits until all of it is done.
        Ok(self.stream.clone_dtoh(&logits)?)
    }

    /// Buffers that are large enough, the ones that are there or, where these are not, new ones.
    fn room<'a>(&self, space: &'a mut Option<Space>, work: &Work) -> Result<&'a mut Space, Error> {
        let (tokens, sequences) = (work.tokens, work.sequences());
        if space
            .as_ref()
            .is_some_and(|space| space.tokens < tokens || space.sequences < sequences)
        {
            *space = None;
        }
        if space.is_none() {
            *space = Some(self.make_room(tokens, sequences)?);
        }
        Ok(space.as_mut().expect("was made"))
    }

    fn make_room(&self, tokens: usize, sequences: usize) -> Result<Space, Error> {
        fn buffer<T: DeviceRepr>(
            stream: &Arc<CudaStream>,
            count: usize,
        ) -> Result<CudaSlice<T>, DriverError> {
            // SAFETY: a pass writes each value of it before it reads it.
            unsafe { stream.alloc(count) }
        }
        let (hidden, stream) = (self.shape.hidden, &self.stream);
        let tiles = Work::most_tiles(tokens, sequences);
        Ok(Space {
            tokens,
            sequences,
            integers: buffer(stream, 3 * tokens + 4 * tiles + 5 * sequences)?,
            wide: buffer(stream, tokens * hidden)?,
            narrow: buffer(stream, tokens * hidden)?,
            large: buffer(stream, tokens * self.shape.inner.max(4 * hidden))?,
            added: buffer(stream, tokens * hidden)?,
            first: buffer(stream, sequences * hidden)?,
            dense: buffer(stream, sequences * hidden)?,
            logits: buffer(stream, sequences)?,
        })
    }

    fn launch(&self, space: &mut Space, work: &Work) -> Result<(), Error> {
        let (stream, functions, shape) = (&self.stream, &self.functions, &self.shape);
        let hidden = shape.hidden;
        let int = |number: usize| i32::try_from(number).map_err(|_| Error::TooLarge(work.tokens));
        let parts = [&work.rows, &work.tiles, &work.first_tiles, &work.firsts];
        let integers = parts.map(Vec::as_slice).concat();
        stream.memcpy_htod(&integers, &mut space.integers)?;
        let [rows, tiles, first_tiles, firsts] = {
            let mut next = at(&space.integers, stream);
            parts.map(|part| {
                let here = next;
                next += 4 * part.len() as u64;
                here
            })
        };
        let [wide, first] = [&space.wide, &space.first].map(|floats| at(floats, stream));
        let [narrow, large, added] =
            [&space.narrow, &space.large, &space.added].map(|halves| at(halves, stream));
        let context = large + 2 * (work.tokens * 3 * hidden) as u64;
        // One warp has a row.
        let of_rows = |rows: usize| (rows.div_ceil(ROWS), 1);

        let tables = &self.tables;
        let [words, positions, segments] =
            [&tables.words, &tables.positions, &tables.segments].map(|table| at(table, stream));
        let (gamma, beta) = (
            at(&tables.norm.gamma, stream),
            at(&tables.norm.beta, stream),
        );
        launch!(
            stream,
            functions.embed,
            of_rows(work.tokens),
            ROWS * 32,
            words,
            positions,
            segments,
            rows,
            gamma,
            beta,
            shape.eps,
            wide,
            narrow,
            int(work.tokens)?
        )?;
        let norm = |norm: &DeviceNorm,
                    bias: &CudaSlice<f32>,
                    before: u64,
                    from: u64,
                    after: u64,
                    rows: usize|
         -> Result<(), Error> {
            let [bias, gamma, beta] =
                [bias, &norm.gamma, &norm.beta].map(|floats| at(floats, stream));
            launch!(
                stream,
                functions.add_norm,
                of_rows(rows),
                ROWS * 32,
                before,
                from,
                added,
                bias,
                gamma,
                beta,
                shape.eps,
                after,
                narrow,
                int(rows)?
            )?;
            Ok(())
        };
        for (index, layer) in self.layers.iter().enumerate() {
            // Only first tokens are read after the last layer, and nothing after attention mixes
            // tokens.
            let last = index + 1 == self.layers.len();
            self.product(narrow, &layer.qkv, large, work.tokens)?;
            let (list, count, times) = if last {
                (first_tiles, work.sequences(), 1)
            } else {
                (tiles, work.tiles.len() / 4, work.times)
            };
            let bias = at(&layer.query_bias, stream);
            launch!(
                stream,
                functions.attention[times - 1],
                (count, shape.heads),
                WARPS * 32,
                large,
                bias,
                context,
                list,
                int(hidden)?,
                i32::from(last)
            )?;
            let rows = if last { work.sequences() } else { work.tokens };
            let residual = if last { first } else { wide };
            self.product(context, &layer.attention_out, added, rows)?;
            let from = if last { firsts } else { 0 };
            norm(
                &layer.attention_norm,
                &layer.attention_bias,
                wide,
                from,
                residual,
                rows,
            )?;
            self.product(narrow, &layer.up, large, rows)?;
            let bias = at(&layer.up_bias, stream);
            let threads = rows * shape.inner / AT_ONCE;
            launch!(
                stream,
                functions.bias_gelu,
                (threads.div_ceil(THREADS), 1),
                THREADS,
                large,
                bias,
                int(shape.inner)?,
                int(rows)?
            )?;
            self.product(large, &layer.down, added, rows)?;
            norm(
                &layer.output_norm,
                &layer.down_bias,
                residual,
                0,
                residual,
                rows,
            )?;
        }
        let head = &self.head;
        let [weight, dense, bias, out, logits] = [
            &head.dense,
            &space.dense,
            &head.dense_bias,
            &head.out,
            &space.logits,
        ]
        .map(|floats| at(floats, stream));
        let float = blas::cudaDataType::CUDA_R_32F;
        self.multiply(
            first,
            weight,
            dense,
            (work.sequences(), hidden, hidden),
            float,
        )?;
        launch!(
            stream,
            functions.logits,
            of_rows(work.sequences()),
            ROWS * 32,
            dense,
            bias,
            out,
            head.out_bias,
            logits,
            int(hidden)?,
            int(work.sequences())?
        )?;
        Ok(())
    }

    /// `x · Wᵀ`, in 16 bits, with sums of f32.
    fn product(&self, x: u64, matrix: &Matrix, out: u64, rows: usize) -> Result<(), Error> {
        let weight = at(&matrix.values, &self.stream);
        self.multiply(
            x,
            weight,
            out,
            (rows, matrix.n, matrix.k),
            self.half.of_blas(),
        )
    }

    /// `[m, k]` times the other way round of `[n, k]`, to `[m, n]`.
    fn multiply(
        &self,
        x: u64,
        weight: u64,
        out: u64,
        (m, n, k): (usize, usize, usize),
        of: blas::cudaDataType,
    ) -> Result<(), Error> {
        let int = |number: usize| i32::try_from(number).map_err(|_| Error::TooLarge(m));
        let (m, n, k) = (int(m)?, int(n)?, int(k)?);
        let (alpha, beta) = (1f32, 0f32);
        // SAFETY: the buffers hold `m · k`, `n · k` and `m · n` values of this type, and live until
        // the stream is done. For cuBLAS, whose matrices are column by column, each is the other
        // way round.
        unsafe {
            cublas::result::gemm_ex(
                *self.blas.handle(),
                blas::cublasOperation_t::CUBLAS_OP_T,
                blas::cublasOperation_t::CUBLAS_OP_N,
                n,
                m,
                k,
                (&raw const alpha).cast::<c_void>(),
                weight as *const c_void,
                of,
                k,
                x as *const c_void,
                of,
                k,
                (&raw const beta).cast::<c_void>(),
                out as *mut c_void,
                of,
                n,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }?;
        Ok(())
    }
}
