//! How the parts of a compiled tokenizer lie in its bytes: a header, a table of sections, the
//! sections.
//!
//! Header, in little-endian u32 words: magic (two words), version, length of the whole in bytes,
//! number of sections; then the offset and length in bytes of each section, which starts at a
//! multiple of 8. Sections that came later are left out where they and all behind them are empty,
//! so that files which do not need them stay what they were. Refuses bytes of another kind, version
//! or length, and sections that reach beyond the end; what a section holds is its reader's to
//! judge.

use std::ops::Range;

use bytes::Bytes;

const MAGIC: [u8; 8] = *b"rrtokens";
/// To be raised whenever the meaning of any section changes. A new section behind the others is no
/// change of that kind.
const VERSION: u32 = 1;
const HEADER_WORDS: usize = 5;
const ALIGNMENT: usize = 8;

/// Every section, in the order of the file. A kind of tokenizer leaves those empty that it does not
/// need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// Words: see `compiled::Settings`.
    Settings,
    /// Words: the pieces of a pair.
    Template,
    /// Words: id and flags of each added token.
    Added,
    /// Trie from added tokens to their places in `Added`: those looked for in the text as it is,
    /// and in the normalised text.
    AddedAsIs,
    AddedNormalized,
    /// Trie from pieces or words to ids.
    Vocabulary,
    /// The score of each id of a unigram model.
    Scores,
    /// Words: the steps of normalisation of a unigram model.
    Steps,
    /// Text that `Steps` refers to.
    StepTexts,
    /// SentencePiece's rules: a trie, and the texts its values point to.
    Charsmap,
    CharsmapTexts,
    /// The treatment of each character: u16 numbers of pages, and pages of it. BERT's is words, and
    /// texts that characters become; that of byte-level BPE is bytes.
    CharacterPages,
    Characters,
    CharacterTexts,
    /// Words: the token that each byte starts as in a BPE model.
    Alphabet,
    /// Hash table of the merges of a BPE model.
    Merges,
}

const SECTIONS: usize = Section::Merges as usize + 1;
/// Every file has these.
const FIRST_SECTIONS: usize = Section::CharacterTexts as usize + 1;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Damaged(pub &'static str);

/// Bytes whose header has been read.
pub(crate) struct Layout {
    bytes: Bytes,
    sections: [Range<usize>; SECTIONS],
}

impl Layout {
    pub(crate) fn read(bytes: Bytes) -> Result<Self, Damaged> {
        let words = Words::new(&bytes);
        let word = |index| words.get(index).ok_or(Damaged("no whole header"));
        if bytes.get(..MAGIC.len()) != Some(&MAGIC) {
            return Err(Damaged("no compiled tokenizer"));
        }
        if word(2)? != VERSION {
            return Err(Damaged("another version of the format"));
        }
        if word(3)? as usize != bytes.len() {
            return Err(Damaged("another length than its header tells"));
        }
        let count = word(4)? as usize;
        if !(FIRST_SECTIONS..=SECTIONS).contains(&count) {
            return Err(Damaged("another number of sections"));
        }
        let mut sections = [const { 0..0 }; SECTIONS];
        for (index, section) in sections.iter_mut().take(count).enumerate() {
            let start = word(HEADER_WORDS + 2 * index)? as usize;
            let length = word(HEADER_WORDS + 2 * index + 1)? as usize;
            let end = start.checked_add(length).filter(|&end| end <= bytes.len());
            *section = start..end.ok_or(Damaged("a section beyond its end"))?;
        }
        Ok(Self { bytes, sections })
    }

    pub(crate) fn section(&self, section: Section) -> &[u8] {
        &self.bytes[self.sections[section as usize].clone()]
    }

    pub(crate) fn words(&self, section: Section) -> Words<'_> {
        Words::new(self.section(section))
    }
}

/// Little-endian u32 values read in place.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a>(&'a [[u8; 4]]);

impl<'a> Words<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.as_chunks().0)
    }

    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(crate) fn get(self, index: usize) -> Option<u32> {
        self.0.get(index).map(|word| u32::from_le_bytes(*word))
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u32> + 'a {
        self.0.iter().map(|word| u32::from_le_bytes(*word))
    }

    /// The words in groups of `N`; a rest that is no whole group is left out.
    pub(crate) fn groups<const N: usize>(self) -> impl Iterator<Item = [u32; N]> + 'a {
        self.0
            .as_chunks::<N>()
            .0
            .iter()
            .map(|group| group.map(u32::from_le_bytes))
    }
}

/// Collects sections and writes them out.
#[derive(Default)]
pub(crate) struct Writer {
    sections: [Vec<u8>; SECTIONS],
}

impl Writer {
    pub(crate) fn bytes(&mut self, section: Section, bytes: Vec<u8>) {
        self.sections[section as usize] = bytes;
    }

    pub(crate) fn words(&mut self, section: Section, words: impl IntoIterator<Item = u32>) {
        self.bytes(
            section,
            words.into_iter().flat_map(u32::to_le_bytes).collect(),
        );
    }

    /// None where the whole would exceed what its u32 offsets can tell.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        let filled = self.sections.iter().rposition(|it| !it.is_empty());
        let count = filled.map_or(0, |last| last + 1).max(FIRST_SECTIONS);
        let start = (HEADER_WORDS + 2 * count) * 4;
        let mut body: Vec<u8> = Vec::new();
        let mut table = Vec::new();
        for section in &self.sections[..count] {
            let filled = (start + body.len()).next_multiple_of(ALIGNMENT) - start;
            body.resize(filled, 0);
            table.push(u32::try_from(start + body.len()).ok()?);
            table.push(u32::try_from(section.len()).ok()?);
            body.extend_from_slice(section);
        }
        let total = u32::try_from(start + body.len()).ok()?;
        let mut out = MAGIC.to_vec();
        let words = [VERSION, total, count as u32].into_iter().chain(table);
        out.extend(words.flat_map(u32::to_le_bytes));
        out.append(&mut body);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_come_back_as_they_were_written() {
        let mut writer = Writer::default();
        writer.words(Section::Settings, [7, 8, 9]);
        writer.bytes(Section::StepTexts, b"text".to_vec());
        let layout = Layout::read(writer.finish().expect("small").into()).expect("reads");
        assert_eq!(
            layout.words(Section::Settings).iter().collect::<Vec<_>>(),
            [7, 8, 9]
        );
        assert_eq!(
            layout
                .words(Section::Settings)
                .groups::<2>()
                .collect::<Vec<_>>(),
            [[7, 8]]
        );
        assert_eq!(layout.section(Section::StepTexts), b"text");
        assert_eq!(layout.section(Section::Vocabulary), b"");
        assert_eq!(layout.section(Section::Merges), b"");
    }

    #[test]
    fn sections_that_came_later_take_room_only_where_they_are_needed() {
        let sections = |writer: Writer| {
            let bytes = writer.finish().expect("small");
            let count = Words::new(&bytes).get(4).expect("a header");
            let layout = Layout::read(bytes.into()).expect("reads");
            (count, layout.section(Section::Merges).to_vec())
        };
        assert_eq!(sections(Writer::default()), (14, Vec::new()));
        let mut writer = Writer::default();
        writer.bytes(Section::Merges, b"merges".to_vec());
        assert_eq!(sections(writer), (16, b"merges".to_vec()));
    }

    #[test]
    fn other_bytes_are_refused_with_the_reason() {
        let whole = Writer::default().finish().expect("small");
        let refusal = |bytes: Vec<u8>| Layout::read(bytes.into()).err().expect("refused").0;
        let with = |word: usize, value: u32| {
            let mut bytes = whole.clone();
            bytes[word * 4..][..4].copy_from_slice(&value.to_le_bytes());
            bytes
        };
        assert_eq!(refusal(b"{}".to_vec()), "no compiled tokenizer");
        assert_eq!(refusal(MAGIC.to_vec()), "no whole header");
        assert_eq!(
            refusal(with(2, VERSION + 1)),
            "another version of the format"
        );
        for count in [3, FIRST_SECTIONS as u32 - 1, SECTIONS as u32 + 1] {
            assert_eq!(refusal(with(4, count)), "another number of sections");
        }
        assert_eq!(refusal(with(5, u32::MAX)), "a section beyond its end");
        assert_eq!(refusal(with(6, u32::MAX)), "a section beyond its end");
        assert_eq!(
            refusal([whole.as_slice(), b"more"].concat()),
            "another length than its header tells"
        );
    }
}
