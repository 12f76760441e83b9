//! Hugging Face's own tokenizer, read from a `tokenizer.json`.
//!
//! Takes every kind of fast tokenizer; slow and large to load. It is what the compiled form is compared with.

use tokenizers::{Encoding, PostProcessor, Token, Tokenizer};

pub struct HuggingFace(Tokenizer);

impl HuggingFace {
    /// Truncation and padding that the file asks for are switched off: lengths are decided by the caller.
    pub fn from_json(json: &[u8]) -> Result<Self, tokenizers::Error> {
        let mut inner = Tokenizer::from_bytes(json)?;
        inner.with_truncation(None)?;
        inner.with_padding(None);
        Ok(Self(inner))
    }

    pub fn vocab_size(&self) -> usize {
        self.0.get_vocab_size(true)
    }

    /// Tokens that the template adds to a pair.
    pub fn special_tokens(&self) -> usize {
        self.0
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(true))
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>, tokenizers::Error> {
        let encoding = self.0.encode_fast(text, false)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids and segments of a pair.
    pub fn join(
        &self,
        query: &[u32],
        document: &[u32],
    ) -> Result<(Vec<u32>, Vec<u32>), tokenizers::Error> {
        let encoding = |ids: &[u32]| {
            let token = |&id| Token::new(id, String::new(), (0, 0));
            Encoding::from_tokens(ids.iter().map(token).collect(), 0)
        };
        let joined = self
            .0
            .post_process(encoding(query), Some(encoding(document)), true)?;
        Ok((joined.get_ids().to_vec(), joined.get_type_ids().to_vec()))
    }
}
