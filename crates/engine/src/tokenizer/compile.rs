//! Turns a Hugging Face `tokenizer.json` into the compiled form.
//!
//! The file's parts are read by Hugging Face's own types, so that defaults and old spellings mean
//! here what they mean there. What has no equal in the compiled form is refused with the reason,
//! never approximated: the caller then keeps the file as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine as _;
use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::utils::SysRegex;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, NormalizerWrapper, PreTokenizerWrapper,
};
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::char::canonical_combining_class;
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::compiled::write::{
    ALPHABET, Bpe, BuildError, Charsmap, DROPPED, Merges, MetaspaceRules, Model, PAGE, Prepend,
    Scratch, Section, Settings, StepKind, TAKES_SPACE_LEFT, TAKES_SPACE_RIGHT, TemplatePiece, Trie,
    UNKNOWN, WHOLE_WORD, Words, Writer, build, build_merges, class, entry, key_byte,
};
use super::files::alone;
use super::template::template;

/// What became of a tokenizer file.
#[derive(Debug)]
pub enum Compilation {
    /// The bytes that `PairTokenizer::from_compiled` opens; the same file gives the same bytes.
    Compiled(Vec<u8>),
    /// Why there is no compiled form of this kind of tokenizer.
    Refused(String),
}

/// The file is no tokenizer file, or a broken one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadFile(String);

/// Why compiling stopped.
enum Stop {
    Bad(String),
    Refused(String),
}

type Step<T> = Result<T, Stop>;

fn refuse<T>(reason: impl Into<String>) -> Step<T> {
    Err(Stop::Refused(reason.into()))
}

impl From<serde_json::Error> for Stop {
    fn from(error: serde_json::Error) -> Self {
        Self::Bad(error.to_string())
    }
}

impl From<BuildError> for Stop {
    fn from(error: BuildError) -> Self {
        Self::Refused(format!("the vocabulary: {error}"))
    }
}

/// Makes the compiled form of a `tokenizer.json`, or says which part of it has none.
pub fn compile(json: &[u8]) -> Result<Compilation, BadFile> {
    let json = alone(json).map_err(|fault| BadFile(fault.to_string()))?;
    match compile_file(&json) {
        Ok(bytes) => Ok(Compilation::Compiled(bytes)),
        Err(Stop::Refused(reason)) => Ok(Compilation::Refused(reason)),
        Err(Stop::Bad(reason)) => Err(BadFile(reason)),
    }
}

const UNIGRAM: &str = "Unigram";
const WORD_PIECE: &str = "WordPiece";
const BPE: &str = "BPE";

/// The kind alone: files of other kinds need not have the shapes below.
#[derive(Deserialize)]
struct Kind {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct File {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<DeclaredToken>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    model: ModelFile,
}

/// An added token as the file has it. Its declared id is not looked at, as Hugging Face's crate
/// does not.
#[derive(Deserialize)]
struct DeclaredToken {
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct ModelFile {
    vocab: Vocabulary,
    unk_id: Option<u32>,
    byte_fallback: Option<bool>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    max_input_chars_per_word: Option<u32>,
    fuse_unk: Option<bool>,
    ignore_merges: Option<bool>,
    merges: Option<MergeList>,
}

/// Merges as newer and as older files have them: pairs, or lines of two entries with a space
/// between.
#[derive(Deserialize)]
#[serde(untagged)]
enum MergeList {
    Pairs(Vec<(String, String)>),
    Lines(Vec<String>),
}

impl MergeList {
    fn pairs(&self) -> Step<Vec<(&str, &str)>> {
        match self {
            Self::Pairs(pairs) => Ok(pairs
                .iter()
                .map(|(a, b)| (a.as_str(), b.as_str()))
                .collect()),
            Self::Lines(lines) => {
                let lines = lines.iter().filter(|line| !line.starts_with("#version"));
                lines
                    .map(|line| {
                        let pair = line.split_once(' ').filter(|(_, b)| !b.contains(' '));
                        pair.ok_or_else(|| Stop::Bad(format!("the merge {line:?}")))
                    })
                    .collect()
            }
        }
    }
}

/// A model's entries.
pub(super) enum Vocabulary {
    Scored(Vec<(String, f64)>),
    Ids(BTreeMap<String, u32>),
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of scored pieces or a map from words to ids")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                let mut pieces = Vec::new();
                while let Some(piece) = list.next_element()? {
                    pieces.push(piece);
                }
                Ok(Vocabulary::Scored(pieces))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut ids = BTreeMap::new();
                while let Some((word, id)) = map.next_entry()? {
                    ids.insert(word, id);
                }
                Ok(Vocabulary::Ids(ids))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// What the model's part of the file gives for the rest.
struct Parts<'f> {
    /// Every word or piece with the id that Hugging Face's crate would give it.
    ids: BTreeMap<&'f str, u32>,
    /// Number of entries, doubled ones included.
    entries: u32,
    unknown_id: u32,
    model: Model,
}

fn compile_file(json: &[u8]) -> Step<Vec<u8>> {
    let kind: Kind = serde_json::from_slice(json)?;
    let kind = kind.model.kind.unwrap_or_default();
    if ![UNIGRAM, WORD_PIECE, BPE].contains(&kind.as_str()) {
        return refuse(format!("a model of type {kind:?}"));
    }
    let file: File = serde_json::from_slice(json)?;
    if let Some(version) = file.version.as_deref().filter(|&version| version != "1.0") {
        return Err(Stop::Bad(format!("unknown tokenizer version {version}")));
    }
    let mut writer = Writer::default();
    let parts = match &file.model.vocab {
        Vocabulary::Scored(pieces) if kind == UNIGRAM => write_unigram(&file, pieces, &mut writer)?,
        Vocabulary::Ids(ids) if kind == WORD_PIECE => write_wordpiece(&file, ids, &mut writer)?,
        Vocabulary::Ids(ids) if kind == BPE => write_bpe(&file, ids, &mut writer)?,
        _ => return Err(Stop::Bad(format!("a vocabulary that is not {kind}'s"))),
    };
    let vocab_size = write_added_tokens(&file, &parts, &mut writer)?;
    if let Some(id) = parts.ids.values().find(|&&id| id >= vocab_size) {
        return refuse(format!("the id {id} in a vocabulary of {vocab_size}"));
    }
    write_template(&file, vocab_size, &mut writer)?;
    let settings = Settings {
        vocab_size,
        unknown_id: parts.unknown_id,
        model: parts.model,
    };
    writer.words(Section::Settings, settings.to_words());
    writer
        .finish()
        .ok_or_else(|| Stop::Refused("more than 4 GB".into()))
}

fn write_unigram<'f>(
    file: &'f File,
    pieces: &'f [(String, f64)],
    writer: &mut Writer,
) -> Step<Parts<'f>> {
    let Some(unknown_id) = file.model.unk_id else {
        return refuse("no unknown token");
    };
    if unknown_id as usize >= pieces.len() {
        return Err(Stop::Bad("an unknown token beyond the vocabulary".into()));
    }
    let metaspace = metaspace(file.pre_tokenizer.as_ref())?;
    let mut steps = Steps::default();
    if let Some(normalizer) = &file.normalizer {
        steps.add(normalizer)?;
    }
    if metaspace.prepend == Prepend::First && !steps.words.is_empty() {
        // Hugging Face's crate looks where the normalised text's first character was.
        return refuse("a prefix for the first piece alone of a text that is normalised");
    }
    let ascii_unchanged = steps.write(writer);

    // Where a piece stands twice, its later id counts everywhere.
    let ids: BTreeMap<&str, u32> = (0..)
        .zip(pieces)
        .map(|(id, (piece, _))| (piece.as_str(), id))
        .collect();
    let scores = || pieces.iter().map(|&(_, score)| score);
    let scores_are_f64 = scores().any(|score| f64::from(score as f32).to_bits() != score.to_bits());
    let bytes = if scores_are_f64 {
        scores().flat_map(f64::to_le_bytes).collect()
    } else {
        scores()
            .flat_map(|score| (score as f32).to_le_bytes())
            .collect()
    };
    writer.bytes(Section::Scores, bytes);
    write_vocabulary(&ids, writer)?;
    Ok(Parts {
        ids,
        entries: pieces.len() as u32,
        unknown_id,
        model: Model::Unigram {
            lowest_score: scores().fold(f64::INFINITY, f64::min),
            scores_are_f64,
            ascii_unchanged,
            metaspace,
            byte_fallback: file.model.byte_fallback == Some(true),
        },
    })
}

fn write_vocabulary(ids: &BTreeMap<&str, u32>, writer: &mut Writer) -> Step<()> {
    let vocabulary: Vec<(&[u8], u32)> = ids
        .iter()
        // Nothing in a text is ever taken for an empty entry.
        .filter(|(entry, _)| !entry.is_empty())
        .map(|(entry, &id)| (entry.as_bytes(), id))
        .collect();
    writer.bytes(Section::Vocabulary, build(&vocabulary)?);
    Ok(())
}

fn metaspace(pre_tokenizer: Option<&PreTokenizerWrapper>) -> Step<MetaspaceRules> {
    let rules = |metaspace: &Metaspace, split_whitespace| {
        Ok(MetaspaceRules {
            replacement: metaspace.get_replacement(),
            split_whitespace,
            prepend: match metaspace.get_prepend_scheme() {
                PrependScheme::Always => Prepend::Always,
                PrependScheme::Never => Prepend::Never,
                PrependScheme::First if split_whitespace => {
                    return refuse("a prefix for the first word alone");
                }
                PrependScheme::First => Prepend::First,
            },
            split: metaspace.get_split(),
        })
    };
    match pre_tokenizer {
        // The normalizer has done all of it.
        None => Ok(MetaspaceRules {
            replacement: ' ',
            split_whitespace: false,
            prepend: Prepend::Never,
            split: false,
        }),
        Some(PreTokenizerWrapper::Metaspace(metaspace)) => rules(metaspace, false),
        Some(PreTokenizerWrapper::Sequence(sequence)) => match sequence.as_ref() {
            [
                PreTokenizerWrapper::WhitespaceSplit(_),
                PreTokenizerWrapper::Metaspace(metaspace),
            ] => rules(metaspace, true),
            _ => refuse("a sequence of pre-tokenizers other than WhitespaceSplit and Metaspace"),
        },
        _ => refuse("a pre-tokenizer other than Metaspace"),
    }
}

/// The steps of normalisation, collected for writing.
#[derive(Default)]
struct Steps {
    words: Vec<u32>,
    texts: Vec<u8>,
    /// SentencePiece's rules: the trie and the texts.
    charsmap: Option<(Vec<u8>, Vec<u8>)>,
}

impl Steps {
    fn add(&mut self, normalizer: &NormalizerWrapper) -> Step<()> {
        match normalizer {
            NormalizerWrapper::Sequence(sequence) => {
                for normalizer in sequence.as_ref() {
                    self.add(normalizer)?;
                }
            }
            NormalizerWrapper::Precompiled(_) => {
                if self.charsmap.is_some() {
                    return refuse("two sets of SentencePiece rules");
                }
                self.charsmap = Some(read_charsmap(&serde_json::to_value(normalizer)?)?);
                self.step(StepKind::Charsmap, [0, 0]);
            }
            NormalizerWrapper::StripNormalizer(strip) => {
                self.step(
                    StepKind::Strip,
                    [strip.strip_left.into(), strip.strip_right.into()],
                );
            }
            NormalizerWrapper::Replace(replace) => {
                let pattern = &serde_json::to_value(replace)?["pattern"];
                let with = self.text(&replace.content);
                match (pattern["Regex"].as_str(), pattern["String"].as_str()) {
                    (Some(" {2,}"), _) => self.step(StepKind::ReplaceSpaces, with),
                    (None, Some(text)) if !text.is_empty() => {
                        let text = self.text(text);
                        self.step(StepKind::ReplaceText, text);
                        self.step(StepKind::ReplaceText, with);
                    }
                    _ => return refuse(format!("replacing the pattern {pattern}")),
                }
            }
            NormalizerWrapper::NFC(_) => self.step(StepKind::Nfc, [0, 0]),
            NormalizerWrapper::Prepend(prepend) => {
                let text = self.text(&prepend.prepend);
                self.step(StepKind::Prepend, text);
            }
            other => {
                let kind = &serde_json::to_value(other)?["type"];
                return refuse(format!(
                    "the normalizer {kind} for a model other than WordPiece"
                ));
            }
        }
        Ok(())
    }

    fn step(&mut self, kind: StepKind, numbers: [u32; 2]) {
        self.words.push(kind as u32);
        self.words.extend(numbers);
    }

    /// Place and length of a text.
    fn text(&mut self, text: &str) -> [u32; 2] {
        let place = self.texts.len() as u32;
        self.texts.extend_from_slice(text.as_bytes());
        [place, text.len() as u32]
    }

    /// Returns the ASCII characters that the rules leave as they are.
    fn write(self, writer: &mut Writer) -> u128 {
        let (rules, texts) = self.charsmap.unwrap_or_default();
        let charsmap = Charsmap {
            rules: Trie::new(&rules),
            texts: &texts,
            ascii_unchanged: 0,
        };
        let ascii_unchanged = charsmap.unchanged_ascii();
        writer.words(Section::Steps, self.words);
        writer.bytes(Section::StepTexts, self.texts);
        writer.bytes(Section::Charsmap, rules);
        writer.bytes(Section::CharsmapTexts, texts);
        ascii_unchanged
    }
}

/// The trie and the texts of `precompiled_charsmap`: a u32 with the trie's length in bytes, the
/// trie, the texts.
fn read_charsmap(normalizer: &Value) -> Step<(Vec<u8>, Vec<u8>)> {
    let bad = || Stop::Bad("SentencePiece rules that cannot be read".into());
    let text = normalizer["precompiled_charsmap"]
        .as_str()
        .ok_or_else(bad)?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|_| bad())?;
    let (length, rest) = bytes.split_first_chunk().ok_or_else(bad)?;
    let whole_units = u32::from_le_bytes(*length) as usize / 4 * 4;
    let (rules, texts) = rest.split_at_checked(whole_units).ok_or_else(bad)?;
    Ok((rules.to_vec(), texts.to_vec()))
}

fn write_wordpiece<'f>(
    file: &'f File,
    ids: &'f BTreeMap<String, u32>,
    writer: &mut Writer,
) -> Step<Parts<'f>> {
    let Some(NormalizerWrapper::BertNormalizer(normalizer)) = &file.normalizer else {
        return refuse("a normalizer other than BertNormalizer for a WordPiece model");
    };
    if !matches!(
        file.pre_tokenizer,
        Some(PreTokenizerWrapper::BertPreTokenizer(_))
    ) {
        return refuse("a pre-tokenizer other than BertPreTokenizer for a WordPiece model");
    }
    let missing = |field| Stop::Bad(format!("a WordPiece model without {field}"));
    let model = &file.model;
    let unknown = model
        .unk_token
        .as_ref()
        .ok_or_else(|| missing("unk_token"))?;
    let Some(&unknown_id) = ids.get(unknown) else {
        return refuse("an unknown token that is not in the vocabulary");
    };
    let prefix = model
        .continuing_subword_prefix
        .as_ref()
        .ok_or_else(|| missing("continuing_subword_prefix"))?;
    write_characters(normalizer, writer)?;
    writer.bytes(Section::StepTexts, prefix.clone().into_bytes());
    let ids = ids.iter().map(|(word, &id)| (word.as_str(), id)).collect();
    write_vocabulary(&ids, writer)?;
    Ok(Parts {
        entries: ids.len() as u32,
        ids,
        unknown_id,
        model: Model::WordPiece {
            lowercase: normalizer.lowercase,
            max_word_chars: model
                .max_input_chars_per_word
                .ok_or_else(|| missing("max_input_chars_per_word"))?,
            prefix_bytes: prefix.len() as u32,
        },
    })
}

fn write_bpe<'f>(
    file: &'f File,
    ids: &'f BTreeMap<String, u32>,
    writer: &mut Writer,
) -> Step<Parts<'f>> {
    let model = &file.model;
    let byte_level = byte_level(file.pre_tokenizer.as_ref())?;
    for (text, what) in [
        (
            &model.continuing_subword_prefix,
            "before pieces that continue a word",
        ),
        (&model.end_of_word_suffix, "behind the last piece of a word"),
    ] {
        if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
            return refuse(format!("the text {text:?} {what}"));
        }
    }
    if ids.is_empty() {
        return refuse("an empty vocabulary");
    }
    let mut distinct = BTreeSet::new();
    if let Some(id) = ids.values().find(|&&id| !distinct.insert(id)) {
        return refuse(format!("two entries with the id {id}"));
    }
    let mut steps = Steps::default();
    if let Some(normalizer) = &file.normalizer {
        steps.add(normalizer)?;
    }
    if steps.charsmap.is_some() {
        return refuse("SentencePiece's rules for a BPE model");
    }
    steps.write(writer);

    let unknown_id = model
        .unk_token
        .as_ref()
        .map(|token| ids.get(token).copied());
    let mut alphabet = Vec::with_capacity(ALPHABET);
    for char in byte_chars() {
        alphabet.push(match (ids.get(char.encode_utf8(&mut [0; 4])), unknown_id) {
            (Some(&id), _) => id,
            (None, _) if model.byte_fallback == Some(true) => {
                return refuse("unknown characters as bytes");
            }
            (None, Some(None)) => {
                return refuse("an unknown token that is not in the vocabulary");
            }
            (None, Some(Some(_))) => UNKNOWN,
            (None, None) => DROPPED,
        });
    }
    let unknown_id = unknown_id.flatten().unwrap_or(0);
    let list = model
        .merges
        .as_ref()
        .ok_or_else(|| Stop::Bad("a BPE model without merges".into()))?;
    let mut merges: BTreeMap<[u32; 2], (u32, u32)> = BTreeMap::new();
    for (rank, (left, right)) in (0..).zip(list.pairs()?) {
        let id = |entry: &str| {
            let missing = || {
                Stop::Bad(format!(
                    "a merge of {entry:?}, which is not in the vocabulary"
                ))
            };
            ids.get(entry).copied().ok_or_else(missing)
        };
        let pair = [id(left)?, id(right)?];
        if pair.contains(&unknown_id) && alphabet.contains(&UNKNOWN) {
            return refuse("a merge of the unknown token");
        }
        // Of a pair that stands twice the later rank counts.
        merges.insert(pair, (rank, id(&format!("{left}{right}"))?));
    }
    let mut merges: Vec<_> = merges
        .into_iter()
        .map(|(pair, (rank, id))| (pair, rank, id))
        .collect();
    merges.sort_by_key(|(_, rank, _)| *rank);
    let merges = build_merges(&merges);
    let alphabet: Vec<u8> = alphabet.into_iter().flat_map(u32::to_le_bytes).collect();
    let fuse_unknown = model.fuse_unk == Some(true);
    let whole = whole_words(
        ids,
        model.ignore_merges == Some(true),
        &Bpe {
            words: Trie::new(&[]),
            alphabet: Words::new(&alphabet),
            merges: Merges::new(&merges).ok_or_else(|| Stop::Bad("no table of merges".into()))?,
            vocab_size: u32::MAX,
            unknown_id,
            fuse_unknown,
        },
    );
    let whole: Vec<(&[u8], u32)> = whole
        .iter()
        .map(|(word, id)| (word.as_slice(), *id))
        .collect();
    writer.bytes(Section::Vocabulary, build(&whole)?);
    writer.bytes(Section::Alphabet, alphabet);
    writer.bytes(Section::Merges, merges);
    write_classes(writer)?;
    Ok(Parts {
        ids: ids.iter().map(|(word, &id)| (word.as_str(), id)).collect(),
        entries: ids.len() as u32,
        unknown_id,
        model: Model::Bpe {
            prefix_space: byte_level.add_prefix_space,
            split: byte_level.use_regex,
            fuse_unknown,
        },
    })
}

fn byte_level(pre_tokenizer: Option<&PreTokenizerWrapper>) -> Step<&ByteLevel> {
    match pre_tokenizer {
        Some(PreTokenizerWrapper::ByteLevel(byte_level)) => Ok(byte_level),
        Some(PreTokenizerWrapper::Sequence(sequence)) => match sequence.as_ref() {
            [PreTokenizerWrapper::ByteLevel(byte_level)] => Ok(byte_level),
            _ => refuse("a sequence of pre-tokenizers for a BPE model"),
        },
        _ => refuse("a pre-tokenizer other than ByteLevel for a BPE model"),
    }
}

/// The characters that a byte-level vocabulary spells bytes with: printable ones of Latin-1 as they
/// are, the others in order from 256 on.
fn byte_chars() -> impl Iterator<Item = char> {
    let mut others = '\u{100}'..;
    (0..=u8::MAX).filter_map(move |byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae.. => Some(byte.into()),
        _ => others.next(),
    })
}

/// The words that become one token, by their keys in the trie. Nothing else than UTF-8 is ever a
/// word.
fn whole_words(
    ids: &BTreeMap<String, u32>,
    whatever_merges: bool,
    bpe: &Bpe<'_>,
) -> BTreeMap<Vec<u8>, u32> {
    let bytes: BTreeMap<char, u8> = byte_chars().zip(0..=u8::MAX).collect();
    let mut scratch = Scratch::default();
    let mut found = Vec::new();
    let words = ids.iter().filter_map(|(entry, &id)| {
        let word: Option<Vec<u8>> = entry.chars().map(|c| bytes.get(&c).copied()).collect();
        let mut word = word.filter(|word| !word.is_empty() && std::str::from_utf8(word).is_ok())?;
        found.clear();
        bpe.merge(&word, &mut scratch, &mut found);
        if !whatever_merges && found != [id] {
            return None;
        }
        word.iter_mut().for_each(|byte| *byte = key_byte(*byte));
        Some((word, id))
    });
    words.collect()
}

/// Writes the kind of every character.
fn write_classes(writer: &mut Writer) -> Step<()> {
    let mut classes = vec![0u8; char::MAX as usize + 1];
    let all: String = ('\0'..=char::MAX).collect();
    for (pattern, flag) in [
        (r"\p{L}+", class::LETTER),
        (r"\p{N}+", class::NUMBER),
        (r"\s+", class::SPACE),
        (r"\w+", class::WORD),
    ] {
        let pattern = SysRegex::new(pattern).map_err(|error| Stop::Bad(error.to_string()))?;
        for (start, end) in pattern.find_iter(&all) {
            all[start..end]
                .chars()
                .for_each(|c| classes[c as usize] |= flag);
        }
    }
    for c in all.chars() {
        let alone = std::iter::once(c);
        if canonical_combining_class(c) != 0 || is_nfc_quick(alone) != IsNormalized::Yes {
            classes[c as usize] |= class::UNSTABLE;
        }
    }
    let mut page_numbers: BTreeMap<&[u8], u16> = BTreeMap::new();
    let (mut pages, mut entries) = (Vec::new(), Vec::new());
    for page in classes.chunks(PAGE) {
        let next = page_numbers.len() as u16;
        let number = *page_numbers.entry(page).or_insert_with(|| {
            entries.extend_from_slice(page);
            next
        });
        pages.extend(number.to_le_bytes());
    }
    writer.bytes(Section::CharacterPages, pages);
    writer.bytes(Section::Characters, entries);
    Ok(())
}

/// Writes what becomes of every character.
fn write_characters(normalizer: &BertNormalizer, writer: &mut Writer) -> Step<()> {
    let mut page_numbers: BTreeMap<Vec<u32>, u16> = BTreeMap::new();
    let mut places: BTreeMap<String, u32> = BTreeMap::new();
    let (mut pages, mut entries, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    let codes: Vec<u32> = (0..=u32::from(char::MAX)).collect();
    for codes in codes.chunks(PAGE) {
        let mut page = Vec::with_capacity(PAGE);
        for &code in codes {
            // Surrogates are no characters; their entries are never read.
            let Some(c) = char::from_u32(code) else {
                page.push(0);
                continue;
            };
            let (flags, becomes) = treatment(c, normalizer);
            let text = becomes.map(|text| {
                *places.entry(text).or_insert_with_key(|text| {
                    let place = texts.len() as u32;
                    texts.push(text.len() as u8);
                    texts.extend_from_slice(text.as_bytes());
                    place
                })
            });
            page.push(match text {
                None => flags,
                Some(place) => flags | entry::BECOMES_TEXT | place << entry::TEXT_SHIFT,
            });
        }
        let next = page_numbers.len() as u16;
        let number = *page_numbers.entry(page).or_insert_with_key(|page| {
            entries.extend_from_slice(page);
            next
        });
        pages.extend(number.to_le_bytes());
    }
    if texts.len() >= 1 << (u32::BITS - entry::TEXT_SHIFT) || places.keys().any(|t| t.len() > 255) {
        return refuse("characters that become too much text");
    }
    writer.bytes(Section::CharacterPages, pages);
    writer.words(Section::Characters, entries);
    writer.bytes(Section::CharacterTexts, texts);
    Ok(())
}

/// What Hugging Face's BERT normalizer and pre-tokenizer do with a character: flags of `entry`, and
/// what it becomes if not itself.
fn treatment(c: char, normalizer: &BertNormalizer) -> (u32, Option<String>) {
    let strip_accents = normalizer.strip_accents.unwrap_or(normalizer.lowercase);
    let mut flags = 0;
    if c.is_whitespace() {
        flags |= entry::SPACE;
    } else if c.is_ascii_punctuation() || c.is_punctuation() {
        flags |= entry::PUNCTUATION;
    }
    let is_control = !matches!(c, '\t' | '\n' | '\r') && c.is_other();
    if normalizer.clean_text && (is_control || matches!(c, '\0' | '\u{fffd}')) {
        flags |= entry::REMOVED;
    }
    if normalizer.handle_chinese_chars && is_set_apart(c) {
        flags |= entry::APART;
    }
    let mut becomes = String::from(c);
    if strip_accents {
        if c.is_mark_nonspacing() {
            flags |= entry::ACCENT;
        }
        let stays = |c: &char| !c.is_mark_nonspacing();
        let decomposed = || std::iter::once(c).nfd().map(|(c, _)| c).filter(stays);
        if decomposed().any(|c| canonical_combining_class(c) != 0) {
            flags |= entry::NEEDS_ORDER;
        }
        becomes = decomposed().collect();
    }
    if normalizer.lowercase {
        becomes = becomes.chars().flat_map(char::to_lowercase).collect();
    }
    let is_itself = becomes.chars().eq([c]);
    (flags, (!is_itself).then_some(becomes))
}

/// The blocks of Chinese characters that BERT sets apart.
fn is_set_apart(c: char) -> bool {
    matches!(c,
        '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{2a6df}'
        | '\u{2a700}'..='\u{2b73f}'
        | '\u{2b740}'..='\u{2b81f}'
        | '\u{2b920}'..='\u{2ceaf}'
        | '\u{2f800}'..='\u{2fa1f}'
    )
}

/// Returns the size of the whole vocabulary.
fn write_added_tokens(file: &File, parts: &Parts<'_>, writer: &mut Writer) -> Step<u32> {
    // A token of the vocabulary keeps its id; others get the next ones.
    let mut ids: BTreeMap<&str, u32> = BTreeMap::new();
    let mut tokens: BTreeMap<u32, &AddedToken> = BTreeMap::new();
    let mut vocab_size = parts.entries;
    for DeclaredToken { token } in &file.added_tokens {
        let content = token.content.as_str();
        if content.is_empty() {
            continue;
        }
        let known = ids.get(content).or_else(|| parts.ids.get(content));
        let id = known.copied().unwrap_or_else(|| {
            vocab_size += 1;
            vocab_size - 1
        });
        ids.insert(content, id);
        let before = tokens.insert(id, token);
        if before.is_some_and(|before| before.content != token.content) {
            return refuse(format!("two added tokens with the id {id}"));
        }
    }
    let (mut as_is, mut normalized) = (BTreeMap::new(), BTreeMap::new());
    let mut words = Vec::new();
    for (place, (&id, token)) in (0..).zip(&tokens) {
        if token.single_word && !matches!(parts.model, Model::Bpe { .. }) {
            return refuse(format!(
                "the added token {:?}, which is for whole words only",
                token.content
            ));
        }
        let known = if token.normalized {
            if matches!(parts.model, Model::WordPiece { .. }) {
                return refuse(format!(
                    "the added token {:?}, which is matched after normalisation",
                    token.content
                ));
            }
            normalized.insert(normalize(file.normalizer.as_ref(), &token.content)?, place)
        } else {
            as_is.insert(token.content.clone(), place)
        };
        if known.is_some() {
            return refuse(format!(
                "the added token {:?}, which equals another one once normalised",
                token.content
            ));
        }
        let left = if token.lstrip { TAKES_SPACE_LEFT } else { 0 };
        let right = if token.rstrip { TAKES_SPACE_RIGHT } else { 0 };
        let whole = if token.single_word { WHOLE_WORD } else { 0 };
        words.extend([id, left | right | whole]);
    }
    writer.words(Section::Added, words);
    for (section, patterns) in [
        (Section::AddedAsIs, as_is),
        (Section::AddedNormalized, normalized),
    ] {
        let patterns: Vec<(&[u8], u32)> = patterns
            .iter()
            .map(|(text, place)| (text.as_bytes(), *place))
            .collect();
        writer.bytes(section, build(&patterns)?);
    }
    Ok(vocab_size)
}

fn normalize(normalizer: Option<&NormalizerWrapper>, text: &str) -> Step<String> {
    let mut normalized = NormalizedString::from(text);
    if let Some(normalizer) = normalizer {
        normalizer
            .normalize(&mut normalized)
            .map_err(|error| Stop::Bad(error.to_string()))?;
    }
    Ok(normalized.get().to_owned())
}

fn write_template(file: &File, vocab_size: u32, writer: &mut Writer) -> Step<()> {
    let Some(processor) = &file.post_processor else {
        return refuse("no post-processor");
    };
    let pieces = template(processor).map_err(Stop::Refused)?;
    let beyond = |piece: &&TemplatePiece| matches!(piece, TemplatePiece::Token { id, .. } if *id >= vocab_size);
    if pieces.iter().find(beyond).is_some() {
        return refuse("a template with ids beyond the vocabulary");
    }
    writer.words(
        Section::Template,
        pieces.into_iter().flat_map(TemplatePiece::to_words),
    );
    Ok(())
}
