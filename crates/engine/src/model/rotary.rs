//! Rotary positions: cosines and sines, computed as far as sequences have reached.

use std::sync::{Arc, Mutex, PoisonError};

use super::config::Rope;

/// The rotations of one kind of layers.
pub(crate) struct Rotations {
    /// What each pair of channels turns by from one position to the next.
    steps: Vec<f32>,
    tables: Mutex<Arc<Tables>>,
}

/// `[positions, head_dim / 2]` each.
#[derive(Default)]
pub(crate) struct Tables {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

impl Rotations {
    pub(super) fn new(rope: Rope, head_dim: usize) -> Self {
        Self {
            steps: steps(rope, head_dim),
            tables: Mutex::default(),
        }
    }

    /// For at least so many positions. A row does not depend on how many there are.
    pub(crate) fn tables(&self, positions: usize) -> Arc<Tables> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = self.steps.len();
        if tables.cos.len() < positions * pairs {
            // Rounded up, so that they do not grow with each longer sequence.
            let positions = positions.next_power_of_two();
            // The product is f32's, as the reference has it.
            let angles = (0..positions)
                .flat_map(|position| self.steps.iter().map(move |step| position as f32 * step));
            let (sin, cos) = angles.map(f32::sin_cos).unzip();
            *tables = Arc::new(Tables { cos, sin });
        }
        Arc::clone(&tables)
    }
}

/// `1 / base^(2i / head_dim)`; with NTK's factor the base is multiplied by it, and what comes out
/// divided by `factor^(2 / head_dim)`.
fn steps(rope: Rope, head_dim: usize) -> Vec<f32> {
    let width = head_dim as f64;
    let factor = rope.factor.unwrap_or(1.0);
    let base = rope.theta * factor;
    // A power that is rounded once, as PyTorch's nearly is.
    #[allow(clippy::cast_possible_truncation)]
    let divisor = factor.powf(2.0 / width) as f32;
    let step = |pair: usize| {
        #[allow(clippy::cast_possible_truncation)]
        let exponent = (2 * pair) as f32 / width as f32;
        #[allow(clippy::cast_possible_truncation)]
        let power = f64::from(base as f32).powf(f64::from(exponent)) as f32;
        1.0 / power / divisor
    };
    (0..head_dim / 2).map(step).collect()
}
