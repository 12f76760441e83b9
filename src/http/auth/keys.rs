//! The keys that are let in: their hashes, and the names of those that have one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::sigv4::Claim;

/// A key's name, as it was configured. Logs, metrics and traces have it.
pub type KeyName = Arc<str>;

/// Each name is a series of its own in the metrics.
const MAX_NAMES: usize = 1000;
const MAX_NAME_BYTES: usize = 64;
/// Between a name and its key. A plain key may itself have `=` anywhere, so `=` alone gives no name.
const NAMED_HASH: &str = "=sha256:";
const NAMED_PLAIN: &str = "=plain:";

/// The keys that are let in; everyone is where there are none.
#[derive(Clone, Default, PartialEq)]
pub struct Keys(Vec<Key>);

#[derive(Clone, PartialEq)]
pub(super) struct Key {
    hash: [u8; 32],
    /// The key itself, where it was given: signatures cannot be verified with a hash.
    plain: Option<String>,
    pub name: Option<KeyName>,
}

/// A key that cannot be one. The key itself is not repeated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {place} {problem}")]
pub struct BadKey {
    /// Counted from 1.
    pub place: usize,
    pub problem: Problem,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("is empty")]
    Empty,
    #[error("has sha256: without 64 hexadecimal digits after it")]
    Hash,
    #[error(
        "has a name that is not 1 to {MAX_NAME_BYTES} letters, digits, dots, hyphens and underscores"
    )]
    Name,
    #[error("has been given before, under another name")]
    Again,
    #[error("has a name more than the limit of {MAX_NAMES}")]
    Names,
}

impl Keys {
    /// From keys as they are, or as `sha256:` and the hash in hexadecimal; with a name as `NAME=sha256:HASH` or `NAME=plain:KEY`.
    pub fn parse<K: AsRef<str>>(keys: &[K]) -> Result<Self, BadKey> {
        let mut parsed: Vec<Key> = Vec::with_capacity(keys.len());
        let (mut names, mut known) = (BTreeSet::new(), BTreeMap::new());
        for (index, key) in keys.iter().enumerate() {
            let bad = |problem| BadKey {
                place: index + 1,
                problem,
            };
            let key = Key::parse(key.as_ref()).map_err(bad)?;
            let earlier = known.insert(key.hash, key.name.clone());
            if earlier.is_some_and(|name| name != key.name) {
                return Err(bad(Problem::Again));
            }
            names.extend(key.name.clone());
            if names.len() > MAX_NAMES {
                return Err(bad(Problem::Names));
            }
            parsed.push(key);
        }
        Ok(Self(parsed))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn has_name(&self, name: &str) -> bool {
        self.0.iter().any(|key| key.name.as_deref() == Some(name))
    }

    pub fn has_names(&self) -> bool {
        self.0.iter().any(|key| key.name.is_some())
    }

    /// Whether a signature can be one of theirs.
    pub(super) fn can_sign(&self) -> bool {
        self.0.iter().any(|key| key.plain.is_some())
    }

    /// The key that was given. Each is compared, in constant time.
    pub(super) fn find(&self, key: &[u8]) -> Option<&Key> {
        let given = hash(key);
        let mut found = (Choice::from(0), 0_u64);
        for (index, known) in (0_u64..).zip(&self.0) {
            let equal = known.hash.ct_eq(&given);
            found.0 |= equal;
            found.1.conditional_assign(&index, equal);
        }
        let index = usize::try_from(found.1).ok()?;
        bool::from(found.0).then(|| self.0.get(index)).flatten()
    }

    /// The key that has signed this, with a body of this digest.
    pub(super) fn signer(&self, claim: &Claim, body_hash: &str) -> Option<&Key> {
        let signature = claim.signature(body_hash)?;
        let by = |key: &&Key| key.plain.as_ref().is_some_and(|key| signature.is_by(key));
        self.0.iter().find(by)
    }
}

impl Key {
    fn parse(text: &str) -> Result<Self, Problem> {
        let of_hash = |hex, name| {
            Ok(Self {
                hash: unhex(hex).ok_or(Problem::Hash)?,
                plain: None,
                name,
            })
        };
        let of_plain = |key: &str, name| match key {
            "" => Err(Problem::Empty),
            key => Ok(Self {
                hash: hash(key.as_bytes()),
                plain: Some(key.to_owned()),
                name,
            }),
        };
        if let Some(hex) = text.strip_prefix("sha256:") {
            of_hash(hex, None)
        } else if let Some((name, hex)) = text.split_once(NAMED_HASH) {
            of_hash(hex, Some(named(name)?))
        } else if let Some((name, key)) = text.split_once(NAMED_PLAIN) {
            of_plain(key, Some(named(name)?))
        } else {
            of_plain(text, None)
        }
    }
}

fn named(name: &str) -> Result<KeyName, Problem> {
    if is_name(name) {
        Ok(name.into())
    } else {
        Err(Problem::Name)
    }
}

/// Whether a key may be called so.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(plain)
}

/// Not even hashes are shown.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

pub(super) fn unhex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if hex.len() != 2 * N || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf secret | sha256sum`
    const HASHED: &str = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn name<'a>(keys: &'a Keys, key: &str) -> Option<Option<&'a str>> {
        keys.find(key.as_bytes()).map(|key| key.name.as_deref())
    }

    #[test]
    fn a_key_may_be_given_as_its_hash_and_may_have_a_name() {
        let named = format!("mobile-app.v2={HASHED}");
        for (key, given, is) in [
            ("first", "first", Some(None)),
            ("first", "First", None),
            ("first", "", None),
            (HASHED, "secret", Some(None)),
            (HASHED, "Secret", None),
            (HASHED, HASHED, None),
            (&named, "secret", Some(Some("mobile-app.v2"))),
            (&named, "mobile-app.v2", None),
            ("crawler=plain:s=1", "s=1", Some(Some("crawler"))),
            // Keys from before there were names.
            ("bW9iaWxl==", "bW9iaWxl==", Some(None)),
            ("mobile=secret", "mobile=secret", Some(None)),
            ("mobile=secret", "secret", None),
        ] {
            for keys in [vec![key], vec!["other", key, "another"], vec![key, key]] {
                let keys = Keys::parse(&keys).expect(key);
                assert_eq!(name(&keys, given), is, "{given:?} of {key:?}");
            }
        }
    }

    #[test]
    fn a_name_may_have_several_keys_for_as_long_as_they_change() {
        let new = format!("mobile={HASHED}");
        let keys = Keys::parse(&["mobile=plain:old", &new]).expect("keys");
        assert_eq!(name(&keys, "old"), Some(Some("mobile")));
        assert_eq!(name(&keys, "secret"), Some(Some("mobile")));
        assert!(keys.has_name("mobile") && !keys.has_name("mobil") && keys.has_names());
    }

    #[test]
    fn what_is_no_key_is_named_by_its_place() {
        let g = "g".repeat(64);
        let long = "n".repeat(65);
        for (wrong, problem) in [
            ("sha256:abc".to_owned(), Problem::Hash),
            ("sha256:".into(), Problem::Hash),
            (format!("sha256:{g}"), Problem::Hash),
            ("mobile=sha256:abc".into(), Problem::Hash),
            (String::new(), Problem::Empty),
            ("mobile=plain:".into(), Problem::Empty),
            (format!("={HASHED}"), Problem::Name),
            (format!("my app={HASHED}"), Problem::Name),
            (format!("a=b={HASHED}"), Problem::Name),
            (format!("{long}={HASHED}"), Problem::Name),
            (format!("m\u{f6}bel={HASHED}"), Problem::Name),
            ("mobile=plain:first".into(), Problem::Again),
        ] {
            let error = Keys::parse(&["first", &wrong]).expect_err(&wrong);
            let said = error.to_string();
            assert_eq!(error, BadKey { place: 2, problem }, "{wrong}");
            assert!(said.starts_with("key 2 "), "{said}");
            assert!(!said.contains("mobile") && !said.contains(&g), "{said}");
        }
        let many = |count: usize| -> Vec<String> {
            (0..count).map(|i| format!("n{i}=plain:k{i}")).collect()
        };
        assert!(Keys::parse(&many(MAX_NAMES)).is_ok());
        let error = Keys::parse(&many(MAX_NAMES + 1)).expect_err("too many");
        assert_eq!(error.problem, Problem::Names);
    }
}
