//! `token_ids TOKENIZER.json [MAX_LENGTH] [RULE]`: token ids of the pairs on stdin, a JSON line
//! each, as `bench/pytorch/tokenizer_ids.py` prints Hugging Face's: for comparing the two on a lot
//! of text.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use reranker_domain::Truncation;
use reranker_engine::tokenizer::PairTokenizer;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Pair {
    query: String,
    passage: String,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().context("which tokenizer.json?")?;
    let max_length = arguments.next().map_or(Ok(512), |text| text.parse())?;
    let rule = arguments
        .next()
        .map_or(Ok(Truncation::default()), |text| text.parse())
        .map_err(anyhow::Error::msg)?;
    let tokenizer = PairTokenizer::load(&PathBuf::from(file))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (index, line) in std::io::stdin().lines().enumerate() {
        let pair: Pair =
            serde_json::from_str(&line?).with_context(|| format!("line {}", index + 1))?;
        let query = tokenizer.encode(&pair.query)?;
        let passage = tokenizer.encode(&pair.passage)?;
        let joined = tokenizer.join(&query, &passage, max_length, rule)?;
        writeln!(out, "{}", json!({"ids": joined.ids}))?;
    }
    Ok(())
}
