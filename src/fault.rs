//! Panics and delays on purpose, for the tests of what they do: only in builds with debug assertions. `INJECT_PANIC` asks for panics, a file in
//! the model's folder for a delay.

use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

/// Where a request can panic: on the thread that makes its tokens, on the compute thread, or where its answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Tokenize,
    Compute,
    Answer,
}

/// Panic at these places, each where a sequence of so many tokens comes by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(Vec<(Place, usize)>);

static ARMED: OnceLock<Faults> = OnceLock::new();

impl FromStr for Faults {
    type Err = ();

    /// `compute:20,tokenize:21,answer:22`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let one = |text: &str| {
            let (place, tokens) = text.split_once(':').ok_or(())?;
            let place = match place {
                "tokenize" => Place::Tokenize,
                "compute" => Place::Compute,
                "answer" => Place::Answer,
                _ => return Err(()),
            };
            Ok((place, tokens.parse().map_err(drop)?))
        };
        text.split(',')
            .map(one)
            .collect::<Result<_, ()>>()
            .map(Self)
    }
}

/// Waits for as long as a model's folder holds a file of the name `hold-loading`.
pub fn hold_loading(folder: &Path) {
    if cfg!(debug_assertions) {
        while folder.join("hold-loading").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// From now on the process panics at these.
pub fn arm(faults: Faults) {
    if cfg!(debug_assertions) {
        // Armed once; nothing that runs arms again.
        let _ = ARMED.set(faults);
    }
}

/// A place where a test may ask for a panic; nothing in a build without debug assertions.
macro_rules! fault_point {
    ($place:ident, $tokens:expr, $text:expr) => {
        if cfg!(debug_assertions) {
            $crate::fault::point($crate::fault::Place::$place, $tokens, $text);
        }
    };
}
pub(crate) use fault_point;

/// Panics where that was asked for. The message quotes `text`, as a panic of someone else's code might.
pub fn point(place: Place, tokens: impl IntoIterator<Item = usize>, text: &str) {
    let Some(Faults(faults)) = ARMED.get() else {
        return;
    };
    for tokens in tokens {
        assert!(!faults.contains(&(place, tokens)), "on purpose, at {text}");
    }
}
