//! BERT's words: text cleaned, lowered and stripped of accents as its tokenizer asks, cut at
//! whitespace and punctuation.
//!
//! What becomes of each character is looked up in a table that was computed when the tokenizer was
//! compiled, so that nothing at run time depends on a version of Unicode. Only where marks with a
//! combining class survive could their order depend on their neighbours: such a text is decomposed
//! as a whole.

use unicode_normalization_alignments::UnicodeNormalization;

use super::layout::Words;

/// Characters of one page of the table.
pub(crate) const PAGE: usize = 128;

/// What a table entry says about a character; the bits above hold a place in the texts where
/// `BECOMES_TEXT` is set.
pub(crate) mod entry {
    /// As a character of the normalised text: separates words.
    pub(crate) const SPACE: u32 = 1;
    /// As a character of the normalised text: is a word of its own.
    pub(crate) const PUNCTUATION: u32 = 1 << 1;
    /// Is dropped before anything else.
    pub(crate) const REMOVED: u32 = 1 << 2;
    /// Gets a space on either side.
    pub(crate) const APART: u32 = 1 << 3;
    /// Is dropped when accents are stripped, after decomposition.
    pub(crate) const ACCENT: u32 = 1 << 4;
    /// Becomes other characters than itself.
    pub(crate) const BECOMES_TEXT: u32 = 1 << 5;
    /// Leaves marks whose order depends on the neighbours.
    pub(crate) const NEEDS_ORDER: u32 = 1 << 6;
    pub(crate) const TEXT_SHIFT: u32 = 8;
}

pub(crate) struct Characters<'a> {
    /// Number of the page of each `PAGE` characters.
    pub pages: &'a [[u8; 2]],
    pub entries: Words<'a>,
    /// Each a length byte and that many bytes.
    pub texts: &'a [u8],
    pub lowercase: bool,
}

/// The words of a text, handed out one by one.
struct Cutter<F> {
    word: String,
    chars: usize,
    each: F,
}

impl<F: FnMut(&str, usize)> Cutter<F> {
    #[inline]
    fn push(&mut self, c: char, entry: u32) {
        if entry & (entry::SPACE | entry::PUNCTUATION) == 0 {
            self.word.push(c);
            self.chars += 1;
            return;
        }
        self.end_word();
        if entry & entry::PUNCTUATION != 0 {
            (self.each)(c.encode_utf8(&mut [0; 4]), 1);
        }
    }

    #[inline]
    fn end_word(&mut self) {
        if self.chars > 0 {
            (self.each)(&self.word, self.chars);
            self.word.clear();
            self.chars = 0;
        }
    }
}

impl Characters<'_> {
    #[inline]
    fn entry(&self, c: char) -> u32 {
        let code = c as usize;
        let page = self
            .pages
            .get(code / PAGE)
            .copied()
            .map_or(0, u16::from_le_bytes);
        self.entries
            .get(usize::from(page) * PAGE + code % PAGE)
            .unwrap_or(0)
    }

    fn text(&self, entry: u32) -> &str {
        let at = (entry >> entry::TEXT_SHIFT) as usize;
        self.texts
            .get(at)
            .and_then(|&length| self.texts.get(at + 1..at + 1 + usize::from(length)))
            .and_then(|text| std::str::from_utf8(text).ok())
            .unwrap_or_default()
    }

    /// Calls `each` with every word of `text` and its number of characters.
    pub(crate) fn words(&self, text: &str, each: impl FnMut(&str, usize)) {
        let mut cutter = Cutter {
            word: String::new(),
            chars: 0,
            each,
        };
        if text
            .chars()
            .any(|c| !c.is_ascii() && self.entry(c) & entry::NEEDS_ORDER != 0)
        {
            self.cut_decomposed(text, &mut cutter);
        } else {
            self.cut(text, &mut cutter);
        }
        cutter.end_word();
    }

    fn cut(&self, text: &str, cutter: &mut Cutter<impl FnMut(&str, usize)>) {
        for c in text.chars() {
            let entry = self.entry(c);
            if entry & entry::REMOVED != 0 {
                continue;
            }
            if entry & entry::APART != 0 {
                cutter.end_word();
            }
            if entry & entry::BECOMES_TEXT == 0 {
                cutter.push(c, entry);
            } else {
                for c in self.text(entry).chars() {
                    cutter.push(c, self.entry(c));
                }
            }
            if entry & entry::APART != 0 {
                cutter.end_word();
            }
        }
    }

    /// The same in the plain steps, with marks brought into canonical order.
    fn cut_decomposed(&self, text: &str, cutter: &mut Cutter<impl FnMut(&str, usize)>) {
        let mut cleaned = String::with_capacity(text.len());
        for c in text.chars() {
            let entry = self.entry(c);
            if entry & entry::REMOVED != 0 {
                continue;
            }
            if entry & entry::APART != 0 {
                cleaned.extend([' ', c, ' ']);
            } else {
                cleaned.push(c);
            }
        }
        for (c, _) in cleaned.nfd() {
            if self.entry(c) & entry::ACCENT != 0 {
                continue;
            }
            if self.lowercase {
                for c in c.to_lowercase() {
                    cutter.push(c, self.entry(c));
                }
            } else {
                cutter.push(c, self.entry(c));
            }
        }
    }
}
