//! What a post-processor makes of a pair: found out by giving it marked ones.

use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{Encoding, PostProcessor, Token};

use super::compiled::{Side, TemplatePiece};

/// The pieces of a pair; an error says why they are none.
pub(crate) fn template(processor: &PostProcessorWrapper) -> Result<Vec<TemplatePiece>, String> {
    let mark = |side: Side, index: u32| u32::MAX - 2 * index - side as u32;
    let marks = |side, tokens: u32| (0..tokens).map(move |index| mark(side, index));
    let encoding = |ids: &mut dyn Iterator<Item = u32>| {
        let token = |id| Token::new(id, String::new(), (0, 0));
        Encoding::from_tokens(ids.map(token).collect(), 0)
    };
    let process = |query: u32, document: Option<u32>, special: bool| {
        let query = encoding(&mut marks(Side::Query, query));
        let document = document.map(|tokens| encoding(&mut marks(Side::Document, tokens)));
        let joined = processor
            .process(query, document, special)
            .map_err(|error| error.to_string())?;
        let type_ids = joined.get_type_ids().iter().copied();
        Ok::<Vec<(u32, u32)>, String>(joined.get_ids().iter().copied().zip(type_ids).collect())
    };
    let alone: Vec<u32> = process(3, None, false)?.iter().map(|(id, _)| *id).collect();
    if !alone.iter().copied().eq(marks(Side::Query, 3)) {
        return Err("a post-processor that changes a single text".into());
    }
    let pieces: Vec<TemplatePiece> = process(1, Some(1), true)?
        .into_iter()
        .map(|(id, type_id)| {
            let side = [Side::Query, Side::Document]
                .into_iter()
                .find(|&side| id == mark(side, 0));
            match side {
                Some(side) => TemplatePiece::Text { side, type_id },
                None => TemplatePiece::Token { id, type_id },
            }
        })
        .collect();
    for [query, document] in [[0, 0], [1, 3], [4, 0], [5, 2]] {
        let expected = pieces.iter().flat_map(|piece| match *piece {
            TemplatePiece::Token { id, type_id } => vec![(id, type_id)],
            TemplatePiece::Text { side, type_id } => {
                let tokens = if side == Side::Query { query } else { document };
                marks(side, tokens).map(|id| (id, type_id)).collect()
            }
        });
        if !process(query, Some(document), true)?
            .into_iter()
            .eq(expected)
        {
            return Err("a post-processor that does not only put tokens around the texts".into());
        }
    }
    for (side, name) in [(Side::Query, "the query"), (Side::Document, "the passage")] {
        let is_wanted = |piece: &&TemplatePiece| matches!(piece, TemplatePiece::Text { side: found, .. } if *found == side);
        match pieces.iter().filter(is_wanted).count() {
            1 => {}
            0 => return Err(format!("a template without {name}")),
            times => return Err(format!("a template that has {name} {times} times")),
        }
    }
    Ok(pieces)
}
