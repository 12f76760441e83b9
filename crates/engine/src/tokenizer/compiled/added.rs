//! Added tokens: literal strings such as `<s>` that become their own id wherever they stand in a
//! text.
//!
//! Finds, from left to right, the longest added token that starts earliest, as Hugging Face's
//! matcher does, and lets a token take the whitespace beside it where it is marked so. Tokens for
//! whole words are passed over within words.

use super::layout::{Damaged, Words};
use super::trie::Trie;

pub(crate) const TAKES_SPACE_LEFT: u32 = 1;
pub(crate) const TAKES_SPACE_RIGHT: u32 = 2;
pub(crate) const WHOLE_WORD: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub id: u32,
    /// A sum of the constants above.
    pub flags: u32,
}

pub(crate) fn read_tokens(words: Words<'_>) -> Result<Vec<AddedToken>, Damaged> {
    if !words.len().is_multiple_of(2) {
        return Err(Damaged("half an added token"));
    }
    Ok(words
        .groups()
        .map(|[id, flags]| AddedToken { id, flags })
        .collect())
}

/// The bytes that added tokens start with, so that most of a text is passed over quickly.
pub(crate) struct FirstBytes([bool; 256]);

impl FirstBytes {
    pub(crate) fn of(trie: Trie<'_>) -> Self {
        let root = trie.root();
        Self(std::array::from_fn(|byte| {
            trie.step(root, byte as u8).is_some()
        }))
    }
}

/// A part of a text between added tokens, or the id of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

/// Cuts `text` at added tokens; parts of text are never empty. `is_word` tells characters of words,
/// for tokens that are for whole ones.
pub(crate) fn split<'t>(
    text: &'t str,
    trie: Trie<'_>,
    first: &FirstBytes,
    tokens: &[AddedToken],
    is_word: impl Fn(char) -> bool,
    mut each: impl FnMut(Part<'t>),
) {
    let bytes = text.as_bytes();
    let mut done = 0;
    let mut at = 0;
    while let Some(found) = bytes[at..]
        .iter()
        .position(|byte| first.0[usize::from(*byte)])
    {
        at += found;
        let longest = trie.longest_prefix(trie.root(), &bytes[at..]);
        let token = longest.and_then(|(length, place)| Some((length, tokens.get(place as usize)?)));
        let Some((length, token)) = token else {
            at += 1;
            continue;
        };
        let (mut start, mut end) = (at, at + length);
        at = end;
        // Only damaged bytes hold a token that ends within a character.
        let (Some(before), Some(after)) = (text.get(..start), text.get(end..)) else {
            continue;
        };
        if token.flags & WHOLE_WORD != 0
            && (before.ends_with(&is_word) || after.starts_with(&is_word))
        {
            continue;
        }
        if token.flags & TAKES_SPACE_LEFT != 0 {
            start = before.trim_end().len().max(done);
        }
        if token.flags & TAKES_SPACE_RIGHT != 0 {
            end += after.len() - after.trim_start().len();
        }
        if done < start {
            each(Part::Text(&text[done..start]));
        }
        each(Part::Token(token.id));
        done = end;
    }
    if done < text.len() {
        each(Part::Text(&text[done..]));
    }
}

#[cfg(test)]
mod tests {
    use super::super::trie::build;
    use super::*;

    #[test]
    fn tokens_are_found_longest_first_and_take_the_space_beside_them() {
        let tokens = [
            AddedToken { id: 10, flags: 0 },
            AddedToken {
                id: 11,
                flags: TAKES_SPACE_LEFT,
            },
            AddedToken {
                id: 12,
                flags: TAKES_SPACE_RIGHT,
            },
            AddedToken {
                id: 13,
                flags: WHOLE_WORD | TAKES_SPACE_LEFT,
            },
        ];
        let keys: [(&[u8], u32); 4] = [(b"<a>", 0), (b"<a>b", 1), (b"<r>", 2), (b"day", 3)];
        let trie = build(&keys).expect("builds");
        let trie = Trie::new(&trie);
        let cut = |text| {
            let mut parts = Vec::new();
            let is_word = char::is_alphanumeric;
            split(
                text,
                trie,
                &FirstBytes::of(trie),
                &tokens,
                is_word,
                |part| parts.push(part),
            );
            parts
        };
        use Part::{Text, Token};
        assert_eq!(cut(""), []);
        assert_eq!(cut("<a"), [Text("<a")]);
        assert_eq!(cut("<<a>é"), [Text("<"), Token(10), Text("é")]);
        assert_eq!(cut("x \u{3000}<a>b y"), [Text("x"), Token(11), Text(" y")]);
        assert_eq!(
            cut("<r> \n<a>b <r> "),
            [Token(12), Token(11), Text(" "), Token(12)]
        );
        assert_eq!(
            cut("a day today days day"),
            [Text("a"), Token(13), Text(" today days"), Token(13)]
        );
    }
}
