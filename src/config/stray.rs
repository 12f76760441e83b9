//! Variables that are set and that this program does not know, where somebody may believe that it
//! does.

use std::collections::BTreeSet;
use std::ffi::OsString;

use super::VARIABLES;

/// What other programs of this kind call it, and what it is called here.
const COUSINS: [(&str, &[&str]); 13] = [
    (
        "MODEL_NAME or MODEL_DIR",
        &[
            "MODEL",
            "MODEL_ID",
            "MODEL_PATH",
            "MODEL_FOLDER",
            "MODEL_NAME_OR_PATH",
            "HF_MODEL_ID",
            "HF_MODEL",
        ],
    ),
    ("MODEL_REVISION", &["REVISION", "HF_MODEL_REVISION"]),
    (
        "API_KEYS or API_KEYS_FILE",
        &["APIKEY", "APIKEYS", "API_TOKEN", "AUTH_TOKEN"],
    ),
    ("THREADS", &["WORKERS", "NUM_WORKERS", "NUM_THREADS"]),
    ("LOG_LEVEL", &["LOGGING_LEVEL", "RUST_LOG"]),
    ("PRECISION", &["DTYPE", "TORCH_DTYPE"]),
    ("PORT", &["LISTEN_PORT", "SERVER_PORT", "HTTP_PORT"]),
    (
        "HOST",
        &["LISTEN_HOST", "LISTEN_ADDRESS", "BIND", "BIND_ADDRESS"],
    ),
    ("BASE_PATH", &["ROOT_PATH", "URL_PREFIX", "PATH_PREFIX"]),
    (
        "MAX_LENGTH",
        &["MAX_SEQ_LENGTH", "MAX_MODEL_LEN", "MAX_INPUT_LENGTH"],
    ),
    (
        "REQUEST_TIMEOUT_S",
        &["TIMEOUT", "TIMEOUT_S", "REQUEST_TIMEOUT"],
    ),
    ("CORS_ORIGINS", &["ALLOWED_ORIGINS", "CORS_ALLOW_ORIGINS"]),
    ("MAX_PAIRS", &["MAX_DOCUMENTS", "MAX_CLIENT_BATCH_SIZE"]),
];
/// Shorter names are near too many others.
const SHORTEST: usize = 5;

/// A note for each of these names that is nearly ours, or another program's word for one of ours
/// that is not set. No value is looked at.
pub fn notes(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let set: BTreeSet<String> = names.filter_map(|name| name.into_string().ok()).collect();
    let ours = |name: &str| VARIABLES.iter().any(|variable| variable.name == name);
    let strays = set.iter().filter(|name| !ours(name)).filter_map(|name| {
        let upper = name.to_ascii_uppercase();
        let near = VARIABLES
            .iter()
            .map(|variable| variable.name)
            .find(|known| known.len() >= SHORTEST && (upper == *known || one_edit(&upper, known)));
        let meant = near.or_else(|| {
            let cousin = COUSINS
                .iter()
                .find(|(_, names)| names.contains(&upper.as_str()));
            let meant = cousin.map(|(meant, _)| *meant)?;
            let is_set = meant.split(" or ").any(|meant| set.contains(meant));
            (!is_set).then_some(meant)
        })?;
        Some(format!(
            "{name} is set, which means nothing here: did you mean {meant}?"
        ))
    });
    strays.collect()
}

/// Whether one letter more, less, changed, or two neighbours swapped make one word of the other.
fn one_edit(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let front = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[front..], &b[front..]);
    let back = a
        .iter()
        .rev()
        .zip(b.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (a, b) = (&a[..a.len() - back], &b[..b.len() - back]);
    match (a, b) {
        ([], [_]) | ([_], [] | [_]) => true,
        ([a, b], [c, d]) => a == d && b == c,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Vec<String> {
        notes(names.iter().map(OsString::from))
    }

    #[test]
    fn what_is_nearly_ours_is_noted() {
        for (name, meant) in [
            ("MAX_LENTH", "MAX_LENGTH"),
            ("MAX_LENGTHS", "MAX_LENGTH"),
            ("MAX_LENGHT", "MAX_LENGTH"),
            ("MAX-LENGTH", "MAX_LENGTH"),
            ("max_length", "MAX_LENGTH"),
            ("API_KEY", "API_KEYS"),
            ("LOGLEVEL", "LOG_LEVEL"),
            ("CORS_ORIGIN", "CORS_ORIGINS"),
            ("MODEL", "MODEL_NAME or MODEL_DIR"),
            ("MODEL_ID", "MODEL_NAME or MODEL_DIR"),
            ("MODEL_PATH", "MODEL_NAME or MODEL_DIR"),
            ("WORKERS", "THREADS"),
            ("RUST_LOG", "LOG_LEVEL"),
        ] {
            let notes = of(&[name, "PATH"]);
            let note = format!("{name} is set, which means nothing here: did you mean {meant}?");
            assert_eq!(notes, [note]);
        }
    }

    #[test]
    fn what_is_ours_or_far_from_it_is_not() {
        let all: Vec<&str> = VARIABLES.iter().map(|variable| variable.name).collect();
        assert_eq!(of(&all), [""; 0]);
        for names in [
            &[
                "PATH",
                "HOME",
                "HOSTNAME",
                "POST",
                "PORT0",
                "PWD",
                "TERM",
                "AWS_REGION",
                "HF_HOME",
            ][..],
            // Whoever has said what they mean may say it to others too.
            &["MODEL", "MODEL_DIR"],
            &["MODEL_PATH", "MODEL_NAME"],
            &["RUST_LOG", "LOG_LEVEL"],
        ] {
            assert_eq!(of(names), [""; 0], "{names:?}");
        }
    }
}
