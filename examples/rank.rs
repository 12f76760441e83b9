//! Ranks passages for a question: `cargo run --release --example rank`.

use reranker_engine::{Engine, Settings};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::open("models/demo", Settings::default())?;
    let documents = [
        "We open at nine.",
        "Returns are accepted for 60 days.",
        "Our office is in the old town.",
    ];
    for ranked in engine.rank("Can I get a refund?", &documents)? {
        println!("{:.3}  {}", ranked.score, documents[ranked.index]);
    }
    Ok(())
}
