//! From a request to the sequences that the model has to see, and from their logits back to the
//! request's scores.
//!
//! Each distinct text is encoded once; a document is cut, or taken apart into chunks and sentences;
//! equal sequences are computed once. Refuses what only tokens show: a pair that is too long where
//! nothing may be cut, and a request of too many tokens. Stops where nobody waits for it any more.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::tokenizer::{EncodedText, PairTokenizer, Sequence, kept_tokens, sentences, windows};
use reranker_domain::{
    Chunking, Code, Error, Field, Pair, Refusal, Request, Result, Score, Sentence, Side, Truncation,
};

/// Maximum number of sentences that one request may have scored.
const MAX_SENTENCES: usize = 50_000;

/// The server's defaults for fields that a request lacks.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// Longest sequence in tokens.
    pub max_length: usize,
    /// How a longer pair is cut.
    pub truncation: Truncation,
    /// Maximum number of tokens of one request; 0 for no limit.
    pub max_tokens: usize,
}

/// A request as sequences.
pub struct Prepared {
    /// All different from each other, in the order in which the request needs them. May be taken
    /// out: what follows needs their lengths alone.
    pub sequences: Vec<Sequence>,
    lengths: Vec<usize>,
    pairs: Vec<PreparedPair>,
}

/// Which sequences make up a pair's score.
struct PreparedPair {
    /// Numbers of sequences: one, or one for each chunk.
    chunks: Vec<usize>,
    /// Each sentence with the number of its sequence.
    sentences: Vec<(Sentence, usize)>,
    dropped_tokens: usize,
}

/// Why the work on a request may have become vain while it is done: its time is over, or nobody
/// waits for it.
#[derive(Debug, Clone, Default)]
pub struct Halt {
    deadline: Option<Instant>,
    gone: Arc<AtomicBool>,
}

impl Halt {
    /// One whose time is over at `deadline`.
    pub fn at(deadline: Option<Instant>) -> Self {
        let gone = Arc::default();
        Self { deadline, gone }
    }

    /// Says, when it is dropped, that nobody waits any more.
    pub fn waiting(&self) -> Waiting {
        Waiting(Arc::clone(&self.gone))
    }

    /// Looked at between texts and sentences, of which none takes long.
    fn check(&self) -> Result<()> {
        let late = self.deadline.is_some_and(|at| Instant::now() >= at);
        if late || self.gone.load(Ordering::Relaxed) {
            return Err(Error::Deadline);
        }
        Ok(())
    }
}

/// What [`Halt::waiting`] gives.
pub struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Prepared {
    /// Encodes and cuts every pair of the request. Fails on what only tokens show, and where `halt`
    /// says that it is in vain.
    pub fn new(
        tokenizer: &PairTokenizer,
        defaults: Defaults,
        request: &Request,
        halt: &Halt,
    ) -> Result<Self> {
        let texts = Texts::encode(tokenizer, request, halt)?;
        let mut distinct = Distinct::new(defaults.max_tokens);
        let mut pairs = Vec::with_capacity(request.pairs.len());
        for (index, pair) in request.pairs.iter().enumerate() {
            halt.check()?;
            let query = texts.of(&pair.query);
            let most = request.max_query_tokens.unwrap_or(usize::MAX);
            let builder = PairBuilder {
                tokenizer,
                defaults,
                request,
                halt,
                query: query.cut(most, request.side),
                beyond: query.tokens().saturating_sub(most),
            };
            pairs.push(builder.pair(index, pair, texts.of(&pair.document), &mut distinct)?);
        }
        let sequences = distinct.in_order();
        Ok(Self {
            lengths: sequences.iter().map(|s| s.ids.len()).collect(),
            sequences,
            pairs,
        })
    }

    /// Tokens of every pair, those of equal pairs counted for each.
    pub fn tokens(&self) -> usize {
        self.pairs.iter().map(|pair| self.tokens_of(pair)).sum()
    }

    /// Pairs that do not get to the model whole.
    pub fn truncated(&self) -> usize {
        let cut = |pair: &&PreparedPair| pair.dropped_tokens > 0;
        self.pairs.iter().filter(cut).count()
    }

    fn tokens_of(&self, pair: &PreparedPair) -> usize {
        let sentences = pair.sentences.iter().map(|(_, sequence)| sequence);
        let all = pair.chunks.iter().chain(sentences);
        all.map(|&sequence| self.lengths[sequence]).sum()
    }

    /// One score for each pair, from one logit for each sequence.
    pub fn scores(&self, logits: &[f32]) -> Result<Vec<Score>> {
        // A score that is no number has no place in any order.
        if logits.len() != self.lengths.len() || logits.iter().any(|logit| logit.is_nan()) {
            return Err(Error::Internal(
                "the model did not give a number for every sequence".into(),
            ));
        }
        let score = |pair: &PreparedPair| {
            let chunks = pair.chunks.iter().map(|&chunk| logits[chunk]);
            let sentence = |(sentence, sequence): &(Sentence, usize)| Sentence {
                logit: logits[*sequence],
                ..sentence.clone()
            };
            Score {
                logit: chunks.fold(f32::NEG_INFINITY, f32::max),
                tokens: self.tokens_of(pair),
                dropped_tokens: pair.dropped_tokens,
                chunks: pair.chunks.len(),
                sentences: pair.sentences.iter().map(sentence).collect(),
            }
        };
        Ok(self.pairs.iter().map(score).collect())
    }
}

/// Every text of a request, encoded once.
struct Texts<'a> {
    // Ordered, not hashed: hash keys are drawn once and would be the same in every copy of a
    // snapshot.
    places: BTreeMap<&'a str, usize>,
    encoded: Vec<EncodedText>,
}

impl<'a> Texts<'a> {
    fn encode(tokenizer: &PairTokenizer, request: &'a Request, halt: &Halt) -> Result<Self> {
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        let mut texts: Vec<&str> = Vec::new();
        let all = |pair: &'a Pair| [&*pair.query, &*pair.document];
        for text in request.pairs.iter().flat_map(all) {
            places.entry(text).or_insert_with(|| {
                texts.push(text);
                texts.len() - 1
            });
        }
        let encoded = texts.iter().map(|text| {
            halt.check()?;
            tokenizer.encode(text)
        });
        Ok(Self {
            places,
            encoded: encoded.collect::<Result<_>>()?,
        })
    }

    fn of(&self, text: &str) -> &EncodedText {
        &self.encoded[self.places[text]]
    }
}

struct PairBuilder<'a> {
    tokenizer: &'a PairTokenizer,
    defaults: Defaults,
    request: &'a Request,
    halt: &'a Halt,
    query: &'a [u32],
    /// Tokens of the query that are not looked at.
    beyond: usize,
}

impl PairBuilder<'_> {
    fn pair(
        &self,
        index: usize,
        pair: &Pair,
        document: &EncodedText,
        distinct: &mut Distinct,
    ) -> Result<PreparedPair> {
        let most = self.request.max_document_tokens.unwrap_or(usize::MAX);
        let beyond = document.tokens().saturating_sub(most);
        let document = document.cut(most, self.request.side);
        let fits = self.query.len() + document.len() + self.tokenizer.special_tokens()
            <= self.max_length();
        if !fits && self.truncation() == Truncation::None {
            return Err(self.too_long(index, document.len()).into());
        }
        // A query that leaves no room for the document leaves none for chunks of it either.
        let chunked = self.kept(Truncation::Flag, document.len()).document > 0;
        let (chunks, dropped) = match self.request.chunking {
            Some(chunking) if !fits && chunked => self.chunks(document, chunking, distinct)?,
            _ => {
                let (sequence, dropped) = self.one(document)?;
                (vec![distinct.add(sequence)?], dropped)
            }
        };
        let sentences = if self.request.sentences {
            self.sentences(&pair.document, most, distinct)?
        } else {
            Vec::new()
        };
        Ok(PreparedPair {
            chunks,
            sentences,
            dropped_tokens: dropped + beyond + self.beyond,
        })
    }

    fn max_length(&self) -> usize {
        self.request.max_length.unwrap_or(self.defaults.max_length)
    }

    fn truncation(&self) -> Truncation {
        self.request.truncation.unwrap_or(self.defaults.truncation)
    }

    fn too_long(&self, index: usize, document: usize) -> Refusal {
        let got = self.query.len() + document + self.tokenizer.special_tokens();
        let limit = self.max_length();
        let says =
            format!("and its query have {got} tokens, the limit is {limit}, and truncation is off");
        let refusal = Refusal::of(Code::PairTooLong, Field::Document(index), says);
        refusal.got(got).limit(limit)
    }

    /// The pair as one sequence, cut where it is too long.
    fn one(&self, document: &[u32]) -> Result<(Sequence, usize)> {
        let query = self.query;
        let kept = self.kept(self.truncation(), document.len());
        let dropped = query.len() - kept.query + document.len() - kept.document;
        let side = self.request.side;
        let sequence = self.tokenizer.join_pieces(
            side.cut(query, kept.query),
            side.cut(document, kept.document),
        )?;
        Ok((sequence, dropped))
    }

    /// The document in pieces, each with the query. A long query leaves room for them, as the rule
    /// `flag` has it.
    fn chunks(
        &self,
        document: &[u32],
        chunking: Chunking,
        distinct: &mut Distinct,
    ) -> Result<(Vec<usize>, usize)> {
        let query = self.query;
        let kept = self.kept(Truncation::Flag, document.len());
        let query_cut = query.len() - kept.query;
        let query = self.request.side.cut(query, kept.query);
        let windows = windows(
            document.len(),
            kept.document,
            chunking.overlap_tokens,
            chunking.max_chunks,
        );
        let covered = windows.last().map_or(0, |window| window.end);
        let sequences = windows
            .into_iter()
            .map(|window| {
                self.halt.check()?;
                let sequence = self.tokenizer.join_pieces(query, &document[window])?;
                distinct.add(sequence)
            })
            .collect::<Result<_>>()?;
        Ok((sequences, query_cut + document.len() - covered))
    }

    fn kept(&self, rule: Truncation, document: usize) -> crate::tokenizer::Kept {
        let special = self.tokenizer.special_tokens();
        kept_tokens(rule, self.query.len(), document, self.max_length(), special)
    }

    /// Each sentence of the text with the query, by itself, up to the one that reaches `most`
    /// tokens.
    fn sentences(
        &self,
        text: &str,
        most: usize,
        distinct: &mut Distinct,
    ) -> Result<Vec<(Sentence, usize)>> {
        let (mut at, mut chars, mut tokens) = (0, 0, 0);
        // Counts on from the last place, so that a text is gone through once.
        let mut chars_at = |byte: usize| {
            chars += text[at..byte].chars().count();
            at = byte;
            chars
        };
        let mut scored = Vec::new();
        for bytes in sentences(text) {
            if tokens >= most {
                break;
            }
            self.halt.check()?;
            let encoded = self.tokenizer.encode(&text[bytes.clone()])?;
            tokens += encoded.tokens();
            let (sequence, _) = self.one(encoded.ids())?;
            let sentence = Sentence {
                chars: chars_at(bytes.start)..chars_at(bytes.end),
                bytes,
                logit: 0.0,
            };
            scored.push((sentence, distinct.add_sentence(sequence)?));
        }
        Ok(scored)
    }
}

impl EncodedText {
    fn cut(&self, kept: usize, side: Side) -> &[u32] {
        side.cut(self.ids(), kept)
    }
}

/// Sequences by their content, numbered in the order of their first appearance. Refuses more tokens
/// than a request may have as soon as they are too many, before memory is spent on the rest.
struct Distinct {
    numbers: BTreeMap<Sequence, usize>,
    tokens: usize,
    sentences: usize,
    /// 0 where there is no limit.
    max_tokens: usize,
}

impl Distinct {
    fn new(max_tokens: usize) -> Self {
        Self {
            numbers: BTreeMap::new(),
            tokens: 0,
            sentences: 0,
            max_tokens,
        }
    }

    fn add(&mut self, sequence: Sequence) -> Result<usize> {
        let (next, tokens) = (self.numbers.len(), sequence.ids.len());
        let number = match self.numbers.entry(sequence) {
            Entry::Occupied(found) => return Ok(*found.get()),
            Entry::Vacant(place) => *place.insert(next),
        };
        self.count(tokens)?;
        Ok(number)
    }

    /// Each sentence has a place in the answer, so equal ones count too.
    fn add_sentence(&mut self, sequence: Sequence) -> Result<usize> {
        self.sentences += 1;
        if self.sentences > MAX_SENTENCES {
            let (got, limit) = (self.sentences, MAX_SENTENCES);
            let message = format!(
                "the documents have {got} sentences and more, the limit is {limit}: send fewer documents, or ask for no sentences"
            );
            let refusal = Refusal::new(Code::TooManySentences, message);
            return Err(refusal.got(got).limit(limit).into());
        }
        let (known, tokens) = (self.numbers.len(), sequence.ids.len());
        let number = self.add(sequence)?;
        if number < known {
            self.count(tokens)?;
        }
        Ok(number)
    }

    fn count(&mut self, tokens: usize) -> Result<()> {
        self.tokens += tokens;
        let (got, limit) = (self.tokens, self.max_tokens);
        if limit > 0 && got > limit {
            let message = format!(
                "the request comes to {got} tokens and more, the limit is {limit}: send fewer texts"
            );
            let refusal = Refusal::new(Code::TooManyTokens, message);
            return Err(refusal.got(got).limit(limit).into());
        }
        Ok(())
    }

    fn in_order(self) -> Vec<Sequence> {
        let mut numbered: Vec<(Sequence, usize)> = self.numbers.into_iter().collect();
        numbered.sort_by_key(|(_, number)| *number);
        numbered.into_iter().map(|(sequence, _)| sequence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn work_that_nobody_waits_for_is_given_up() {
        let path = std::path::Path::new("../../tests/golden/xlm-roberta/tokenizer.json");
        let tokenizer = PairTokenizer::load(path).expect("a tokenizer");
        let defaults = Defaults {
            max_length: 64,
            truncation: Truncation::LongestFirst,
            max_tokens: 0,
        };
        let request = Request {
            sentences: true,
            ..Request::new(vec![Pair {
                query: "where?".into(),
                document: "Here. There.".into(),
            }])
        };
        let prepare = |halt: &Halt| Prepared::new(&tokenizer, defaults, &request, halt).map(drop);
        let in_time = Halt::at(Instant::now().checked_add(std::time::Duration::from_secs(600)));
        let waiting = in_time.waiting();
        assert!(prepare(&in_time).is_ok());
        drop(waiting);
        assert!(matches!(prepare(&in_time), Err(Error::Deadline)));
        let late = Halt::at(Some(Instant::now()));
        assert!(matches!(prepare(&late), Err(Error::Deadline)));
    }

    #[test]
    fn sentences_are_so_many_and_no_more() {
        let mut distinct = Distinct::new(0);
        let sequence = || Sequence {
            ids: vec![1],
            type_ids: vec![0],
        };
        for _ in 0..MAX_SENTENCES {
            assert_eq!(distinct.add_sentence(sequence()).ok(), Some(0));
        }
        let Err(Error::Invalid(refusal)) = distinct.add_sentence(sequence()) else {
            panic!("one too many");
        };
        assert_eq!(refusal.code, Code::TooManySentences);
    }

    proptest! {
        #[test]
        fn equal_sequences_have_one_number_and_numbers_follow_first_appearance(
            ids in prop::collection::vec(prop::collection::vec(0u32..3, 1..4), 0..40), most in 0usize..60,
        ) {
            let mut distinct = Distinct::new(most);
            let mut seen: Vec<&Vec<u32>> = Vec::new();
            for ids in &ids {
                let sequence = Sequence { ids: ids.clone(), type_ids: vec![0; ids.len()] };
                let known = seen.iter().position(|known| *known == ids);
                let tokens: usize = seen.iter().map(|ids| ids.len()).sum();
                match distinct.add(sequence) {
                    Ok(number) => {
                        prop_assert_eq!(number, known.unwrap_or(seen.len()));
                        if known.is_none() {
                            seen.push(ids);
                            prop_assert!(most == 0 || tokens + ids.len() <= most);
                        }
                    }
                    // Only what is new can be too much, and then the request ends.
                    Err(_) => {
                        prop_assert!(known.is_none() && most > 0 && tokens + ids.len() > most);
                        return Ok(());
                    }
                }
            }
            let in_order: Vec<Vec<u32>> = distinct.in_order().into_iter().map(|s| s.ids).collect();
            prop_assert!(in_order.iter().eq(seen));
        }

        #[test]
        fn sentences_count_each_time(
            ids in prop::collection::vec(prop::collection::vec(0u32..3, 1..4), 0..40), most in 1usize..60,
        ) {
            let mut distinct = Distinct::new(most);
            let mut tokens = 0;
            for ids in &ids {
                let sequence = Sequence { ids: ids.clone(), type_ids: vec![0; ids.len()] };
                tokens += ids.len();
                prop_assert_eq!(distinct.add_sentence(sequence).is_ok(), tokens <= most);
                if tokens > most {
                    break;
                }
            }
        }

        #[test]
        fn what_is_cut_from_either_side_is_the_rest(ids in prop::collection::vec(any::<u32>(), 0..30), kept in 0usize..40) {
            let (left, right) = (Side::Left.cut(&ids, kept), Side::Right.cut(&ids, kept));
            prop_assert_eq!(left.len(), kept.min(ids.len()));
            prop_assert_eq!(right.len(), left.len());
            prop_assert!(ids.starts_with(right) && ids.ends_with(left));
        }
    }
}
