//! The words of a byte-level tokenizer: text cut as GPT-2's pattern cuts it, without a regular
//! expression.
//!
//! The kind of every character is looked up in a table that was computed with the regular
//! expressions of Hugging Face's crate when the tokenizer was compiled, so that nothing at run time
//! depends on a version of Unicode. The crate's expressions give up on runs of more than a million
//! white-space characters, and leave the rest of such a text whole; here they are cut like any
//! others.

use super::bert::PAGE;

/// What the table says of a character: at most one of the first three.
pub(crate) mod class {
    /// `\p{L}`
    pub(crate) const LETTER: u8 = 1;
    /// `\p{N}`
    pub(crate) const NUMBER: u8 = 1 << 1;
    /// `\s`
    pub(crate) const SPACE: u8 = 1 << 2;
    /// `\w`
    pub(crate) const WORD: u8 = 1 << 3;
    /// May change, or order the marks beside it, in the normal form C.
    pub(crate) const UNSTABLE: u8 = 1 << 4;
    pub(crate) const KIND: u8 = LETTER | NUMBER | SPACE;
}

#[derive(Clone, Copy)]
pub(crate) struct Classes<'a> {
    /// Number of the page of each `PAGE` characters.
    pages: &'a [[u8; 2]],
    entries: &'a [u8],
    ascii: &'a [u8; PAGE],
}

impl<'a> Classes<'a> {
    /// None where there is no page of the first characters.
    pub(crate) fn new(pages: &'a [u8], entries: &'a [u8]) -> Option<Self> {
        let pages = pages.as_chunks().0;
        let first = usize::from(u16::from_le_bytes(*pages.first()?));
        let ascii = entries.as_chunks().0.get(first)?;
        Some(Self {
            pages,
            entries,
            ascii,
        })
    }

    #[inline]
    fn of(self, c: char) -> u8 {
        let code = c as usize;
        if let Some(&class) = self.ascii.get(code) {
            return class;
        }
        let page = self.pages.get(code / PAGE).copied();
        let page = usize::from(page.map_or(0, u16::from_le_bytes));
        self.entries
            .get(page * PAGE + code % PAGE)
            .copied()
            .unwrap_or(0)
    }

    pub(crate) fn is_word(self, c: char) -> bool {
        self.of(c) & class::WORD != 0
    }

    /// Whether the normal form C is certainly the text itself.
    pub(crate) fn is_stable(self, text: &str) -> bool {
        text.is_ascii() || text.chars().all(|c| self.of(c) & class::UNSTABLE == 0)
    }

    /// Calls `each` with every match of `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+|
    /// ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, which are all of the text.
    pub(crate) fn pieces(self, text: &str, mut each: impl FnMut(&str)) {
        let mut rest = text;
        while let Some(length) = self.piece(rest) {
            let (piece, after) = rest.split_at(length);
            each(piece);
            rest = after;
        }
    }

    /// Length of the first match.
    #[inline]
    fn piece(self, text: &str) -> Option<usize> {
        let bytes = text.as_bytes();
        let first = *bytes.first()?;
        if first == b'\'' {
            match bytes {
                [_, b's' | b't' | b'm' | b'd', ..] => return Some(2),
                [_, b'r' | b'v', b'e', ..] | [_, b'l', b'l', ..] => return Some(3),
                _ => {}
            }
        }
        let space = usize::from(first == b' ');
        let kind = text[space..]
            .chars()
            .next()
            .map(|c| self.of(c) & class::KIND);
        if let Some(kind) = kind.filter(|&kind| kind != class::SPACE) {
            return Some(space + self.run(&text[space..], kind));
        }
        // Only in damaged bytes is a space none.
        let end = self.run(text, class::SPACE).max(space);
        // Before more text, all white space but its last character; a single one stays whole.
        let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
        Some(if end < text.len() && last < end {
            end - last
        } else {
            end
        })
    }

    /// Bytes of the characters of that kind at the start.
    #[inline]
    fn run(self, text: &str, kind: u8) -> usize {
        let bytes = text.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let Some(&class) = self.ascii.get(usize::from(byte)) {
                if class & class::KIND != kind {
                    break;
                }
                at += 1;
                continue;
            }
            let Some(c) = text[at..].chars().next() else {
                break;
            };
            if self.of(c) & class::KIND != kind {
                break;
            }
            at += c.len_utf8();
        }
        at
    }
}
