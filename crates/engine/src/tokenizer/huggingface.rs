//! Hugging Face's own tokenizer, read from a `tokenizer.json`.
//!
//! Takes every kind of fast tokenizer; slow and large to load. It is what the compiled form is
//! compared with.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::Tokenizer;

use super::compiled::TemplatePiece;
use super::template::template;

pub(crate) struct HuggingFace {
    inner: Tokenizer,
    /// Empty where the file has no post-processor.
    template: Vec<TemplatePiece>,
}

impl HuggingFace {
    /// Truncation and padding that the file asks for are switched off: lengths are decided by the
    /// caller. A panic inside the crate is the file's fault.
    pub(crate) fn from_json(json: &[u8]) -> Result<Self, String> {
        let read = || {
            let mut inner = Tokenizer::from_bytes(json).map_err(|error| error.to_string())?;
            inner
                .with_truncation(None)
                .map_err(|error| error.to_string())?;
            inner.with_padding(None);
            let template = match inner.get_post_processor() {
                Some(processor) => template(processor)?,
                None => Vec::new(),
            };
            Ok(Self { inner, template })
        };
        catch_unwind(AssertUnwindSafe(read))
            .unwrap_or_else(|_| Err("what its library panics over".into()))
    }

    pub(crate) fn template(&self) -> &[TemplatePiece] {
        &self.template
    }

    /// One more than the largest id that a text can give.
    pub(crate) fn id_bound(&self) -> usize {
        let ids = self.inner.get_vocab(true).into_values();
        ids.max().map_or(0, |id| id as usize + 1)
    }

    pub(crate) fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, tokenizers::Error> {
        let encoding = self.inner.encode_fast(text, false)?;
        Ok(encoding.get_ids().to_vec())
    }
}
