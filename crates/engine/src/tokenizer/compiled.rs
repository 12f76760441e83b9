//! A tokenizer that is ready as soon as its bytes are mapped.
//!
//! Owns the format that `compile` writes: an index of sections, tries that are walked where they
//! lie, scores, merges and character tables that are looked up in place. Opening reads a few
//! hundred bytes; pages of the rest are touched as texts need them. Refuses bytes whose header,
//! settings, template or added tokens do not hold together. Tries and tables are trusted to be what
//! was written, but never further than a wrong id below the vocabulary's size: there is no index
//! that is not checked.

use bytes::Bytes;

mod added;
mod bert;
mod bpe;
mod byte_level;
mod charsmap;
mod layout;
mod trie;
mod unigram;
mod wordpiece;

pub(crate) use layout::Damaged;

/// What `compile` needs to write the format.
pub(super) mod write {
    pub(crate) use super::added::{TAKES_SPACE_LEFT, TAKES_SPACE_RIGHT, WHOLE_WORD};
    pub(crate) use super::bert::{PAGE, entry};
    pub(crate) use super::bpe::{
        ALPHABET, Bpe, DROPPED, Merges, Scratch, UNKNOWN, build_merges, key_byte,
    };
    pub(crate) use super::byte_level::class;
    pub(crate) use super::charsmap::Charsmap;
    pub(crate) use super::layout::{Section, Words, Writer};
    pub(crate) use super::trie::{BuildError, Trie, build};
    pub(crate) use super::{MetaspaceRules, Model, Prepend, Settings, StepKind, TemplatePiece};
}

use added::{AddedToken, FirstBytes, Part};
use bert::Characters;
use bpe::{ALPHABET, Bpe, DROPPED, Merges, UNKNOWN};
use byte_level::Classes;
use charsmap::Charsmap;
use layout::{Layout, Section, Words};
use trie::Trie;
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unigram::{Scores, Scratch, Unigram};
use wordpiece::WordPiece;

/// Far beyond any request, and so far below `u32::MAX` that normalisation cannot lead there.
const LONGEST_TEXT_BYTES: usize = 1 << 26;

/// Numbers that the whole tokenizer hangs on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    /// Number of token ids; every id is below it.
    pub vocab_size: u32,
    pub unknown_id: u32,
    pub model: Model,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Model {
    Unigram {
        lowest_score: f64,
        scores_are_f64: bool,
        ascii_unchanged: u128,
        metaspace: MetaspaceRules,
        /// Unknown characters become a token for each byte, where the vocabulary has them.
        byte_fallback: bool,
    },
    WordPiece {
        lowercase: bool,
        max_word_chars: u32,
        /// The continuing prefix (`##`) is the text at the start of `StepTexts`.
        prefix_bytes: u32,
    },
    Bpe {
        /// A text that does not begin with a space gets one.
        prefix_space: bool,
        /// Cut into words; otherwise the whole text is one.
        split: bool,
        fuse_unknown: bool,
    },
}

/// How normalised text is cut into pieces that each begin with the replacement for a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MetaspaceRules {
    pub replacement: char,
    /// Whitespace is removed and cut at before anything else.
    pub split_whitespace: bool,
    /// Which pieces get a replacement where they do not begin with one.
    pub prepend: Prepend,
    /// Cut before every replacement.
    pub split: bool,
}

/// Which pieces of a text begin with the replacement in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prepend {
    Never,
    Always,
    /// The one at the text's beginning.
    First,
}

impl Settings {
    pub(crate) fn to_words(self) -> Vec<u32> {
        let mut words = vec![self.vocab_size, self.unknown_id];
        match self.model {
            Model::Unigram {
                lowest_score,
                scores_are_f64,
                ascii_unchanged,
                metaspace,
                byte_fallback,
            } => {
                words.push(if byte_fallback { 3 } else { 0 });
                words.extend(in_words(lowest_score.to_bits().into()).take(2));
                words.push(scores_are_f64.into());
                words.extend(in_words(ascii_unchanged));
                words.push(metaspace.replacement.into());
                words.push(metaspace.split_whitespace.into());
                words.push(metaspace.prepend as u32);
                words.push(metaspace.split.into());
            }
            Model::WordPiece {
                lowercase,
                max_word_chars,
                prefix_bytes,
            } => words.extend([1, lowercase.into(), max_word_chars, prefix_bytes]),
            Model::Bpe {
                prefix_space,
                split,
                fuse_unknown,
            } => words.extend([2, prefix_space.into(), split.into(), fuse_unknown.into()]),
        }
        words
    }

    fn read(words: Words<'_>) -> Result<Self, Damaged> {
        let mut words = words.iter();
        let mut next = || words.next().ok_or(Damaged("incomplete settings"));
        let flag = |word: u32| match word {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged("settings that are neither on nor off")),
        };
        let (vocab_size, unknown_id) = (next()?, next()?);
        if unknown_id >= vocab_size {
            return Err(Damaged("an unknown token beyond its vocabulary"));
        }
        let model = match next()? {
            kind @ (0 | 3) => Model::Unigram {
                lowest_score: f64::from_bits(u64::from(next()?) | u64::from(next()?) << 32),
                scores_are_f64: flag(next()?)?,
                ascii_unchanged: u128::from(next()?)
                    | u128::from(next()?) << 32
                    | u128::from(next()?) << 64
                    | u128::from(next()?) << 96,
                metaspace: MetaspaceRules {
                    replacement: char::from_u32(next()?).ok_or(Damaged("no character"))?,
                    split_whitespace: flag(next()?)?,
                    prepend: match next()? {
                        0 => Prepend::Never,
                        1 => Prepend::Always,
                        2 => Prepend::First,
                        _ => return Err(Damaged("an unknown place of a prefix")),
                    },
                    split: flag(next()?)?,
                },
                byte_fallback: kind == 3,
            },
            1 => Model::WordPiece {
                lowercase: flag(next()?)?,
                max_word_chars: next()?,
                prefix_bytes: next()?,
            },
            2 => Model::Bpe {
                prefix_space: flag(next()?)?,
                split: flag(next()?)?,
                fuse_unknown: flag(next()?)?,
            },
            _ => return Err(Damaged("an unknown kind of model")),
        };
        Ok(Self {
            vocab_size,
            unknown_id,
            model,
        })
    }
}

fn in_words(value: u128) -> impl Iterator<Item = u32> {
    (0..4).map(move |word| (value >> (32 * word)) as u32)
}

/// A step of normalisation: in `Steps` a word for the kind and two for its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepKind {
    /// SentencePiece's rules.
    Charsmap = 0,
    /// Whitespace goes; the numbers tell whether at the start and at the end.
    Strip = 1,
    /// Two or more spaces become a text; the numbers are its place in `StepTexts` and its length.
    ReplaceSpaces = 2,
    /// One text becomes another; the numbers are the place of the first and its length, and another
    /// step follows whose numbers are those of the second.
    ReplaceText = 3,
    /// The normal form C of Unicode.
    Nfc = 4,
    /// A text that is not empty gets another one before it; the numbers are its place in
    /// `StepTexts` and its length.
    Prepend = 5,
}

enum Step {
    Charsmap,
    Strip { left: bool, right: bool },
    ReplaceSpaces { with: String },
    ReplaceText { text: String, with: String },
    Nfc,
    Prepend { text: String },
}

fn read_steps(words: Words<'_>, texts: &[u8]) -> Result<Vec<Step>, Damaged> {
    let text = |start: u32, length: u32| {
        let (start, length) = (start as usize, length as usize);
        texts
            .get(start..)
            .and_then(|rest| rest.get(..length))
            .and_then(|text| std::str::from_utf8(text).ok())
            .map(str::to_owned)
            .ok_or(Damaged("a step of normalisation without its text"))
    };
    let mut steps = Vec::new();
    let mut groups = words.groups();
    while let Some([kind, a, b]) = groups.next() {
        steps.push(match kind {
            kind if kind == StepKind::Charsmap as u32 => Step::Charsmap,
            kind if kind == StepKind::Strip as u32 => Step::Strip {
                left: a != 0,
                right: b != 0,
            },
            kind if kind == StepKind::ReplaceSpaces as u32 => {
                Step::ReplaceSpaces { with: text(a, b)? }
            }
            kind if kind == StepKind::ReplaceText as u32 => {
                let [_, c, d] = groups.next().ok_or(Damaged("half a replacement"))?;
                Step::ReplaceText {
                    text: text(a, b)?,
                    with: text(c, d)?,
                }
            }
            kind if kind == StepKind::Nfc as u32 => Step::Nfc,
            kind if kind == StepKind::Prepend as u32 => Step::Prepend { text: text(a, b)? },
            _ => return Err(Damaged("an unknown step of normalisation")),
        });
    }
    Ok(steps)
}

/// One piece of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TemplatePiece {
    Token { id: u32, type_id: u32 },
    Text { side: Side, type_id: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Query,
    Document,
}

impl TemplatePiece {
    /// The segment of its tokens.
    pub(crate) fn type_id(self) -> u32 {
        match self {
            Self::Token { type_id, .. } | Self::Text { type_id, .. } => type_id,
        }
    }

    pub(crate) fn to_words(self) -> [u32; 3] {
        match self {
            Self::Token { id, type_id } => [0, id, type_id],
            Self::Text { side, type_id } => [1, side as u32, type_id],
        }
    }
}

fn read_template(words: Words<'_>, vocab_size: u32) -> Result<Vec<TemplatePiece>, Damaged> {
    words
        .groups()
        .map(|group| match group {
            [0, id, type_id] if id < vocab_size => Ok(TemplatePiece::Token { id, type_id }),
            [1, side @ (0 | 1), type_id] => Ok(TemplatePiece::Text {
                side: if side == 0 {
                    Side::Query
                } else {
                    Side::Document
                },
                type_id,
            }),
            _ => Err(Damaged("a template with an unknown piece")),
        })
        .collect()
}

/// An opened compiled tokenizer.
pub(crate) struct Compiled {
    layout: Layout,
    settings: Settings,
    template: Vec<TemplatePiece>,
    added: Vec<AddedToken>,
    first_as_is: FirstBytes,
    first_normalized: FirstBytes,
    steps: Vec<Step>,
}

impl Compiled {
    pub(crate) fn open(bytes: Bytes) -> Result<Self, Damaged> {
        let layout = Layout::read(bytes)?;
        let settings = Settings::read(layout.words(Section::Settings))?;
        let template = read_template(layout.words(Section::Template), settings.vocab_size)?;
        for wanted in [Side::Query, Side::Document] {
            let places = template.iter().filter(
                |piece| matches!(piece, TemplatePiece::Text { side, .. } if *side == wanted),
            );
            if places.count() != 1 {
                return Err(Damaged("a template that does not hold each text once"));
            }
        }
        let added = added::read_tokens(layout.words(Section::Added))?;
        if added.iter().any(|token| token.id >= settings.vocab_size) {
            return Err(Damaged("an added token beyond its vocabulary"));
        }
        let steps = read_steps(
            layout.words(Section::Steps),
            layout.section(Section::StepTexts),
        )?;
        let holds = match settings.model {
            Model::Unigram { scores_are_f64, .. } => {
                let width = if scores_are_f64 { 8 } else { 4 };
                layout.section(Section::Scores).len() / width <= settings.vocab_size as usize
            }
            Model::WordPiece { prefix_bytes, .. } => layout
                .section(Section::StepTexts)
                .get(..prefix_bytes as usize)
                .is_some(),
            Model::Bpe { .. } => {
                let alphabet = layout.words(Section::Alphabet);
                let fits = |id| id < settings.vocab_size || matches!(id, DROPPED | UNKNOWN);
                alphabet.len() == ALPHABET
                    && alphabet.iter().all(fits)
                    && Merges::new(layout.section(Section::Merges)).is_some()
                    && classes(&layout).is_some()
            }
        };
        if !holds {
            return Err(Damaged("sections that do not fit its settings"));
        }
        let first = |section| FirstBytes::of(Trie::new(layout.section(section)));
        Ok(Self {
            first_as_is: first(Section::AddedAsIs),
            first_normalized: first(Section::AddedNormalized),
            layout,
            settings,
            template,
            added,
            steps,
        })
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.settings.vocab_size as usize
    }

    pub(crate) fn template(&self) -> &[TemplatePiece] {
        &self.template
    }

    fn trie(&self, section: Section) -> Trie<'_> {
        Trie::new(self.layout.section(section))
    }

    /// The ids of one text without the template's tokens; None where it is too long for places that
    /// are counted in u32.
    pub(crate) fn encode(&self, text: &str) -> Option<Vec<u32>> {
        if text.len() > LONGEST_TEXT_BYTES {
            return None;
        }
        let mut ids = Vec::with_capacity(text.len() / 3);
        match self.settings.model {
            Model::Unigram {
                lowest_score,
                scores_are_f64,
                ascii_unchanged,
                metaspace,
                byte_fallback,
            } => {
                let scores = self.layout.section(Section::Scores);
                let model = Unigram {
                    vocabulary: self.trie(Section::Vocabulary),
                    scores: if scores_are_f64 {
                        Scores::F64(scores.as_chunks().0)
                    } else {
                        Scores::F32(scores.as_chunks().0)
                    },
                    lowest_score,
                    unknown_id: self.settings.unknown_id,
                    byte_fallback,
                };
                let charsmap = Charsmap {
                    rules: self.trie(Section::Charsmap),
                    texts: self.layout.section(Section::CharsmapTexts),
                    ascii_unchanged,
                };
                let mut scratch = Scratch::default();
                let mut marked = String::new();
                self.each_part(text, &charsmap, None, &mut ids, |part, ids| {
                    let prepends = match metaspace.prepend {
                        Prepend::Never => false,
                        Prepend::Always => true,
                        // There is no normalisation, so a part lies in the text.
                        Prepend::First => std::ptr::eq(part.as_ptr(), text.as_ptr()),
                    };
                    metaspace.pieces(part, prepends, &mut marked, |piece| {
                        model.encode(piece, &mut scratch, ids);
                    });
                });
            }
            Model::WordPiece {
                lowercase,
                max_word_chars,
                prefix_bytes,
            } => {
                let vocabulary = self.trie(Section::Vocabulary);
                let prefix = &self.layout.section(Section::StepTexts)[..prefix_bytes as usize];
                let model = WordPiece {
                    vocabulary,
                    continuation: vocabulary.follow(prefix),
                    unknown_id: self.settings.unknown_id,
                    vocab_size: self.settings.vocab_size,
                    max_word_chars,
                };
                let characters = Characters {
                    pages: self.layout.section(Section::CharacterPages).as_chunks().0,
                    entries: self.layout.words(Section::Characters),
                    texts: self.layout.section(Section::CharacterTexts),
                    lowercase,
                };
                self.split_as_is(
                    text,
                    |_| false,
                    |part| match part {
                        Part::Token(id) => ids.push(id),
                        Part::Text(text) => characters
                            .words(text, |word, chars| model.encode(word, chars, &mut ids)),
                    },
                );
            }
            Model::Bpe {
                prefix_space,
                split,
                fuse_unknown,
            } => {
                // Both were there when it was opened.
                let merges = Merges::new(self.layout.section(Section::Merges))?;
                let classes = classes(&self.layout)?;
                let model = Bpe {
                    words: self.trie(Section::Vocabulary),
                    alphabet: self.layout.words(Section::Alphabet),
                    merges,
                    vocab_size: self.settings.vocab_size,
                    unknown_id: self.settings.unknown_id,
                    fuse_unknown,
                };
                let mut scratch = bpe::Scratch::default();
                let mut marked = String::new();
                let no_charsmap = Charsmap {
                    rules: Trie::new(&[]),
                    texts: &[],
                    ascii_unchanged: u128::MAX,
                };
                self.each_part(text, &no_charsmap, Some(classes), &mut ids, |text, ids| {
                    let mut text = text;
                    if prefix_space && !text.starts_with(' ') {
                        marked.clear();
                        marked.push(' ');
                        marked.push_str(text);
                        text = &marked;
                    }
                    let mut word = |word: &str| model.encode(word.as_bytes(), &mut scratch, ids);
                    if split {
                        classes.pieces(text, word);
                    } else {
                        word(text);
                    }
                });
            }
        }
        Some(ids)
    }

    fn split_as_is<'t>(
        &self,
        text: &'t str,
        is_word: impl Fn(char) -> bool,
        each: impl FnMut(Part<'t>),
    ) {
        let trie = self.trie(Section::AddedAsIs);
        added::split(text, trie, &self.first_as_is, &self.added, is_word, each);
    }

    /// Appends the ids of all added tokens, and has `each` append those of the normalised text
    /// between them.
    fn each_part(
        &self,
        text: &str,
        charsmap: &Charsmap<'_>,
        classes: Option<Classes<'_>>,
        ids: &mut Vec<u32>,
        mut each: impl FnMut(&str, &mut Vec<u32>),
    ) {
        let (mut normalized, mut spare) = (String::new(), String::new());
        let normalized_tokens = self.trie(Section::AddedNormalized);
        let is_word = |c| classes.is_some_and(|classes| classes.is_word(c));
        self.split_as_is(text, is_word, |part| {
            let mut text = match part {
                Part::Token(id) => return ids.push(id),
                Part::Text(text) => text,
            };
            if !self.steps.iter().all(|step| step.leaves(text, classes)) {
                normalized.clear();
                normalized.push_str(text);
                for step in &self.steps {
                    if !step.leaves(&normalized, classes) {
                        step.apply(charsmap, &mut normalized, &mut spare);
                    }
                }
                text = &normalized;
            }
            let (first, tokens) = (&self.first_normalized, &self.added);
            added::split(
                text,
                normalized_tokens,
                first,
                tokens,
                is_word,
                |part| match part {
                    Part::Token(id) => ids.push(id),
                    Part::Text(text) => each(text, ids),
                },
            );
        });
    }
}

fn classes(layout: &Layout) -> Option<Classes<'_>> {
    let section = |section| layout.section(section);
    Classes::new(
        section(Section::CharacterPages),
        section(Section::Characters),
    )
}

impl Step {
    /// Whether the text certainly stays what it is.
    fn leaves(&self, text: &str, classes: Option<Classes<'_>>) -> bool {
        match self {
            Self::Charsmap => false,
            Self::Strip { left, right } => {
                !(*left && text.starts_with(char::is_whitespace)
                    || *right && text.ends_with(char::is_whitespace))
            }
            Self::ReplaceSpaces { .. } => !text.contains("  "),
            Self::ReplaceText { text: old, .. } => !text.contains(old.as_str()),
            Self::Nfc => {
                classes.is_some_and(|classes| classes.is_stable(text))
                    || is_nfc_quick(text.chars()) == IsNormalized::Yes
            }
            Self::Prepend { .. } => text.is_empty(),
        }
    }

    /// Changes `text`; `spare` is memory to write to.
    fn apply(&self, charsmap: &Charsmap<'_>, text: &mut String, spare: &mut String) {
        match self {
            Self::Charsmap => {
                spare.clear();
                charsmap.normalize(text, spare);
                std::mem::swap(text, spare);
            }
            Self::Strip { left, right } => {
                if *right {
                    text.truncate(text.trim_end().len());
                }
                if *left {
                    text.drain(..text.len() - text.trim_start().len());
                }
            }
            Self::ReplaceSpaces { with } => {
                spare.clear();
                let mut rest = text.as_str();
                while let Some(at) = rest.find("  ") {
                    spare.push_str(&rest[..at]);
                    spare.push_str(with);
                    rest = rest[at..].trim_start_matches(' ');
                }
                spare.push_str(rest);
                std::mem::swap(text, spare);
            }
            Self::ReplaceText { text: old, with } => {
                *text = text.replace(old.as_str(), with);
            }
            Self::Nfc => {
                spare.clear();
                spare.extend(text.nfc().map(|(c, _)| c));
                std::mem::swap(text, spare);
            }
            Self::Prepend { text: before } => text.insert_str(0, before),
        }
    }
}

impl MetaspaceRules {
    /// Calls `each` with every piece of a text that is not empty; `marked` is memory to write to.
    fn pieces(self, text: &str, prepends: bool, marked: &mut String, mut each: impl FnMut(&str)) {
        if self.split_whitespace {
            for word in text.split_whitespace() {
                self.pieces_of_word(word, prepends, marked, &mut each);
            }
        } else {
            self.pieces_of_word(text, prepends, marked, &mut each);
        }
    }

    fn pieces_of_word(
        self,
        text: &str,
        prepends: bool,
        marked: &mut String,
        each: &mut impl FnMut(&str),
    ) {
        marked.clear();
        if prepends && !text.starts_with([' ', self.replacement]) {
            marked.push(self.replacement);
        }
        for (index, part) in text.split(' ').enumerate() {
            if index > 0 {
                marked.push(self.replacement);
            }
            marked.push_str(part);
        }
        if !self.split {
            return each(marked);
        }
        let mark = self.replacement.encode_utf8(&mut [0; 4]).as_bytes()[0];
        let mut start = 0;
        // Pieces are short: looking at each byte is faster than a search that is made for long
        // distances.
        for (at, &byte) in marked.as_bytes().iter().enumerate() {
            if byte == mark && at > start && marked[at..].starts_with(self.replacement) {
                each(&marked[start..at]);
                start = at;
            }
        }
        each(&marked[start..]);
    }
}
