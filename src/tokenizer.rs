//! Text to token ids, exactly as Hugging Face's fast tokenizer does it, and the two rules that cut long pairs.
//!
//! Owns the tokenizer crate. Texts are encoded alone, cut by a pure function of lengths, and joined by the tokenizer's own
//! post-processor, so that a text shared by many pairs is encoded once. Refuses lengths that leave no room for text.

use std::path::{Path, PathBuf};

use tokenizers::{Encoding, PostProcessor, Tokenizer, TruncationDirection};

use crate::error::{Error, ModelError};
use crate::rerank::Truncation;

pub struct PairTokenizer {
    inner: Tokenizer,
    special_tokens: usize,
    path: PathBuf,
}

/// One text as token ids, without special tokens.
#[derive(Clone)]
pub struct EncodedText(Encoding);

impl EncodedText {
    pub fn tokens(&self) -> usize {
        self.0.len()
    }

    pub fn ids(&self) -> &[u32] {
        self.0.get_ids()
    }
}

/// One pair as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub ids: Vec<u32>,
    /// Segment of each token; as long as `ids`.
    pub type_ids: Vec<u32>,
    /// Tokens of both texts that were cut away.
    pub dropped_tokens: usize,
}

impl PairTokenizer {
    /// Reads a `tokenizer.json`. Truncation and padding that the file asks for are switched off: lengths are decided here.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let bytes = std::fs::read(path).map_err(|source| ModelError::io(path, source))?;
        let unfit = |error: tokenizers::Error| {
            ModelError::unfit(
                path,
                "tokenizer",
                error,
                "a Hugging Face fast tokenizer file",
            )
        };
        let mut inner = Tokenizer::from_bytes(bytes).map_err(unfit)?;
        inner.with_truncation(None).map_err(unfit)?;
        inner.with_padding(None);
        let special_tokens = inner
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(true));
        if special_tokens < 3 {
            return Err(ModelError::unfit(
                path,
                "post_processor",
                format!("{special_tokens} special tokens for a pair"),
                "a template that marks the start and separates the two texts",
            ));
        }
        Ok(Self {
            inner,
            special_tokens,
            path: path.to_owned(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of token ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Special tokens that a pair gains: 4 for the RoBERTa family, 3 for BERT.
    pub fn special_tokens(&self) -> usize {
        self.special_tokens
    }

    /// The shortest maximum length that leaves room for one token of each text.
    pub fn min_length(&self) -> usize {
        self.special_tokens + 2
    }

    pub fn encode(&self, text: &str) -> Result<EncodedText, Error> {
        // The crate's message may quote the text, so it is not passed on.
        self.inner
            .encode_fast(text, false)
            .map(EncodedText)
            .map_err(|_| {
                Error::Internal(format!(
                    "the tokenizer failed on a text of {} bytes",
                    text.len()
                ))
            })
    }

    /// Joins two encoded texts into a sequence of at most `max_length` tokens.
    ///
    /// Callers keep `max_length` at or above [`Self::min_length`]; shorter lengths keep the special tokens alone.
    pub fn join(
        &self,
        query: &EncodedText,
        document: &EncodedText,
        max_length: usize,
        truncation: Truncation,
    ) -> Result<Sequence, Error> {
        let kept = kept_tokens(
            truncation,
            query.tokens(),
            document.tokens(),
            max_length,
            self.special_tokens,
        );
        let (mut left, mut right) = (query.0.clone(), document.0.clone());
        left.truncate(kept.query, 0, TruncationDirection::Right);
        right.truncate(kept.document, 0, TruncationDirection::Right);
        let joined = self
            .inner
            .post_process(left, Some(right), true)
            .map_err(|_| Error::Internal("the tokenizer failed to join a pair".into()))?;
        Ok(Sequence {
            ids: joined.get_ids().to_vec(),
            type_ids: joined.get_type_ids().to_vec(),
            dropped_tokens: query.tokens() - kept.query + document.tokens() - kept.document,
        })
    }
}

/// How many tokens of each text stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub query: usize,
    pub document: usize,
}

/// Lengths after cutting a pair to `max_length` tokens, of which `special` are the template's.
///
/// `LongestFirst` is the closed form that Hugging Face's fast tokenizers use: the longer text alone gives way until both are
/// equal, then they share what is left, the odd token going to the text that was longer (to the document where they were
/// equal). `Flag` is FlagEmbedding's: the query keeps three quarters of `max_length` at most, the document what then remains.
pub fn kept_tokens(
    rule: Truncation,
    query: usize,
    document: usize,
    max_length: usize,
    special: usize,
) -> Kept {
    let room = max_length.saturating_sub(special);
    match rule {
        Truncation::LongestFirst => {
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
            for rule in [Truncation::LongestFirst, Truncation::Flag] {
                let kept = kept_tokens(rule, query, document, max, special);
                prop_assert!(kept.query <= query && kept.document <= document);
                prop_assert!(kept.query + kept.document <= max.saturating_sub(special));
                if query + document + special <= max && (rule == Truncation::LongestFirst || query <= max * 3 / 4) {
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
