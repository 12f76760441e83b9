//! Text to token ids, exactly as Hugging Face's fast tokenizers do it, and the two rules that cut
//! long pairs.
//!
//! Owns the tokenizer in both its forms: Hugging Face's crate, which reads any `tokenizer.json`,
//! and the compiled form, which is ready as soon as it is mapped. Both give the same ids, those of
//! transformers, which reads more than that file. Texts are encoded alone, cut by a pure function
//! of lengths, and joined by the tokenizer's own template, so that a text shared by many pairs is
//! encoded once. Refuses lengths that leave no room for text.

use std::path::{Path, PathBuf};

use bytes::Bytes;

mod chunk;
mod compile;
mod compiled;
mod files;
mod huggingface;
mod template;

pub use chunk::{sentences, windows};
pub use compile::{BadFile, Compilation, compile};
pub use files::CONFIG_FILE;
pub(crate) use files::ModelFacts;

use compiled::{Compiled, Side, TemplatePiece};
use files::{Effective, Files, alone};
use huggingface::HuggingFace;

use crate::error::ModelError;
use reranker_domain::{Error, Truncation};

/// A tokenizer of pairs, in whichever form it was read.
pub struct PairTokenizer {
    form: Form,
    special_tokens: usize,
    path: PathBuf,
}

enum Form {
    HuggingFace(Box<HuggingFace>),
    Compiled(Box<Compiled>),
}

/// A model folder's tokenizer.
pub struct FolderTokenizer {
    /// The tokenizer itself.
    pub tokenizer: PairTokenizer,
    /// A `tokenizer.json` that gives the same without any other file.
    pub json: Vec<u8>,
    /// Maximum length of a sequence in tokens, if the files have one.
    pub max_length: Option<usize>,
}

/// One text as token ids, without special tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedText(Vec<u32>);

impl EncodedText {
    /// How many tokens it has.
    pub fn tokens(&self) -> usize {
        self.0.len()
    }

    /// Its tokens' ids.
    pub fn ids(&self) -> &[u32] {
        &self.0
    }
}

/// One pair as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence {
    /// Token ids, special ones included.
    pub ids: Vec<u32>,
    /// Segment of each token; as long as `ids`.
    pub type_ids: Vec<u32>,
}

impl PairTokenizer {
    /// A model folder's tokenizer as transformers reads it: the content of `tokenizer.json`, which
    /// lies at `path`, and of the settings beside it. Truncation, padding and dropout that they ask
    /// for are switched off: lengths are decided here, and the same text has the same ids.
    pub(crate) fn of_files(
        json: &[u8],
        settings: Option<&[u8]>,
        path: &Path,
        facts: ModelFacts<'_>,
    ) -> Result<FolderTokenizer, ModelError> {
        let files = Files {
            json,
            json_path: path,
            config: settings,
            facts,
        };
        let Effective {
            json,
            max_length,
            expected,
        } = files.effective()?;
        let inner = Self::read(&json, path)?;
        if let Some(expected) = expected {
            expected.check(inner.template(), |token| inner.id_of(token), path)?;
        }
        Ok(FolderTokenizer {
            tokenizer: Self::new(Form::HuggingFace(Box::new(inner)), path)?,
            json: json.into_owned(),
            max_length,
        })
    }

    /// Reads a `tokenizer.json` as it stands.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let json = std::fs::read(path).map_err(|source| ModelError::io(path, source))?;
        Self::from_json(&json, path)
    }

    /// Parses the content of a `tokenizer.json`. Messages name `path` as its source.
    pub fn from_json(json: &[u8], path: &Path) -> Result<Self, ModelError> {
        let json = alone(json).map_err(|refusal| refusal.at(path))?;
        Self::new(Form::HuggingFace(Box::new(Self::read(&json, path)?)), path)
    }

    fn read(json: &[u8], path: &Path) -> Result<HuggingFace, ModelError> {
        HuggingFace::from_json(json).map_err(|error| {
            let expected = "a Hugging Face fast tokenizer file";
            ModelError::unfit(path, "tokenizer", error, expected)
        })
    }

    /// What [`compile`] wrote, used where it lies: nothing is copied, and pages are read as texts
    /// need them. `path` is the file that holds it, for messages.
    pub fn from_compiled(bytes: Bytes, path: &Path) -> Result<Self, ModelError> {
        let inner = Compiled::open(bytes).map_err(|damaged| {
            let expected = "what this version writes";
            ModelError::unfit(path, "compiled tokenizer", damaged, expected)
        })?;
        Self::new(Form::Compiled(Box::new(inner)), path)
    }

    fn new(form: Form, path: &Path) -> Result<Self, ModelError> {
        let is_token = |piece: &&TemplatePiece| matches!(piece, TemplatePiece::Token { .. });
        let special_tokens = form.template().iter().filter(is_token).count();
        if special_tokens < 3 {
            return Err(ModelError::unfit(
                path,
                "post_processor",
                format!("{special_tokens} special tokens for a pair"),
                "a template that marks the start and separates the two texts",
            ));
        }
        Ok(Self {
            form,
            special_tokens,
            path: path.to_owned(),
        })
    }

    /// The file that it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One more than the largest id, of the vocabulary, of added tokens and of the template.
    pub fn id_bound(&self) -> usize {
        let of_texts = match &self.form {
            Form::HuggingFace(inner) => inner.id_bound(),
            Form::Compiled(inner) => inner.vocab_size(),
        };
        let template = self.form.template().iter();
        let of_template = template.filter_map(|piece| match *piece {
            TemplatePiece::Token { id, .. } => Some(id as usize + 1),
            TemplatePiece::Text { .. } => None,
        });
        of_template.max().unwrap_or(0).max(of_texts)
    }

    /// One more than the largest segment.
    pub fn segment_bound(&self) -> usize {
        let segments = self.form.template().iter().map(|piece| piece.type_id());
        segments.max().map_or(0, |segment| segment as usize + 1)
    }

    /// Special tokens that a pair gains: 4 for the RoBERTa family, 3 for BERT.
    pub fn special_tokens(&self) -> usize {
        self.special_tokens
    }

    /// The shortest maximum length that leaves room for one token of each text.
    pub fn min_length(&self) -> usize {
        self.special_tokens + 2
    }

    /// The ids of one text, without special tokens. Fails if the tokenizer cannot encode it.
    pub fn encode(&self, text: &str) -> Result<EncodedText, Error> {
        // The crate's message may quote the text, so it is not passed on.
        let failed = || {
            let bytes = text.len();
            Error::Internal(format!("the tokenizer failed on a text of {bytes} bytes"))
        };
        match &self.form {
            Form::HuggingFace(inner) => inner.encode(text).map_err(|_| failed()),
            Form::Compiled(inner) => inner.encode(text).ok_or_else(failed),
        }
        .map(EncodedText)
    }

    /// Joins two encoded texts into a sequence of at most `max_length` tokens; what does not fit is
    /// cut from their ends.
    ///
    /// Callers keep `max_length` at or above [`Self::min_length`]; shorter lengths keep the special
    /// tokens alone.
    pub fn join(
        &self,
        query: &EncodedText,
        document: &EncodedText,
        max_length: usize,
        truncation: Truncation,
    ) -> Result<Sequence, Error> {
        let (queries, documents) = (query.tokens(), document.tokens());
        let kept = kept_tokens(
            truncation,
            queries,
            documents,
            max_length,
            self.special_tokens,
        );
        self.join_pieces(&query.0[..kept.query], &document.0[..kept.document])
    }

    /// Joins two texts' tokens, which the caller has cut.
    pub(crate) fn join_pieces(&self, query: &[u32], document: &[u32]) -> Result<Sequence, Error> {
        let (ids, type_ids) = fill(self.form.template(), query, document);
        Ok(Sequence { ids, type_ids })
    }
}

impl Form {
    fn template(&self) -> &[TemplatePiece] {
        match self {
            Self::HuggingFace(inner) => inner.template(),
            Self::Compiled(inner) => inner.template(),
        }
    }
}

/// Ids and segments of a pair put into its template.
fn fill(template: &[TemplatePiece], query: &[u32], document: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let tokens = query.len() + document.len() + template.len();
    let (mut ids, mut type_ids) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
    for piece in template {
        match *piece {
            TemplatePiece::Token { id, type_id } => {
                ids.push(id);
                type_ids.push(type_id);
            }
            TemplatePiece::Text { side, type_id } => {
                ids.extend_from_slice(match side {
                    Side::Query => query,
                    Side::Document => document,
                });
                type_ids.resize(ids.len(), type_id);
            }
        }
    }
    (ids, type_ids)
}

/// How many tokens of each text stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Tokens of the query.
    pub query: usize,
    /// Tokens of the document.
    pub document: usize,
}

/// Lengths after cutting a pair to `max_length` tokens, of which `special` are the template's.
///
/// `None` cuts as `LongestFirst` does; its caller refuses the pair if something
/// was dropped. `LongestFirst` is the closed form that Hugging Face's fast tokenizers use: the
/// longer text alone gives way until both are equal, then they share what is left, the odd token
/// going to the text that was longer (to the document where they were equal). `Flag` is
/// FlagEmbedding's: the query keeps three quarters of `max_length` at most, the document what then
/// remains.
pub fn kept_tokens(
    rule: Truncation,
    query: usize,
    document: usize,
    max_length: usize,
    special: usize,
) -> Kept {
    let room = max_length.saturating_sub(special);
    match rule {
        Truncation::LongestFirst | Truncation::None => {
            if query + document <= room {
                return Kept { query, document };
            }
            let shorter = query.min(document);
            let (low, high) = if shorter * 2 <= room {
                (shorter, room - shorter)
            } else {
                (room / 2, room - room / 2)
            };
            if query > document {
                Kept {
                    query: high,
                    document: low,
                }
            } else {
                Kept {
                    query: low,
                    document: high,
                }
            }
        }
        Truncation::Flag => {
            let query = query.min(max_length * 3 / 4).min(room);
            Kept {
                query,
                document: document.min(room - query),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule in its plain form: remove one token at a time from the longer text.
    fn one_at_a_time(mut query: usize, mut document: usize, room: usize) -> (usize, usize) {
        let document_was_shorter = query > document;
        while query + document > room {
            let cut_query = match query.cmp(&document) {
                std::cmp::Ordering::Greater => true,
                std::cmp::Ordering::Less => false,
                std::cmp::Ordering::Equal => !document_was_shorter,
            };
            if cut_query {
                query -= 1;
            } else {
                document -= 1;
            }
        }
        (query, document)
    }

    proptest! {
        #[test]
        fn longest_first_equals_cutting_one_token_at_a_time(
            query in 0usize..600, document in 0usize..600, max in 4usize..600,
        ) {
            let kept = kept_tokens(Truncation::LongestFirst, query, document, max, 4);
            prop_assert_eq!((kept.query, kept.document), one_at_a_time(query, document, max - 4));
        }

        #[test]
        fn no_rule_exceeds_the_room_or_invents_tokens(
            query in 0usize..10_000, document in 0usize..10_000, max in 0usize..9000, special in 3usize..5,
        ) {
            for rule in [Truncation::LongestFirst, Truncation::Flag, Truncation::None] {
                let kept = kept_tokens(rule, query, document, max, special);
                prop_assert!(kept.query <= query && kept.document <= document);
                prop_assert!(kept.query + kept.document <= max.saturating_sub(special));
                if query + document + special <= max && (rule != Truncation::Flag || query <= max * 3 / 4) {
                    prop_assert_eq!(kept, Kept { query, document });
                }
            }
        }
    }

    #[test]
    fn the_flag_rule_gives_a_long_query_384_of_512_tokens() {
        assert_eq!(
            kept_tokens(Truncation::Flag, 1000, 1000, 512, 4),
            Kept {
                query: 384,
                document: 124
            }
        );
        assert_eq!(
            kept_tokens(Truncation::Flag, 10, 1000, 512, 4),
            Kept {
                query: 10,
                document: 498
            }
        );
    }
}
