//! The order in which a forward pass needs a model's tensors, by their names: for reading them
//! ahead.

/// When a forward pass needs a tensor: earlier ones are less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Before anything is computed.
    Tokenizer,
    /// What every token's vector goes through.
    Embeddings,
    /// The layer, and the part of it.
    Layer(usize, usize),
    /// The head, and whatever has a name that says nothing.
    Head,
}

impl Need {
    /// By a tensor's name; nothing for tables of which single rows are read.
    pub fn of(name: &str) -> Option<Self> {
        // As the families call their layers, `encoder.layer.3.` or `layers.3.`.
        let within = ["layer.", "layers."]
            .iter()
            .find_map(|layers| name.split_once(layers));
        if let Some((_, within)) = within {
            let (layer, part) = within.split_once('.')?;
            let part = ["attention.output", "attention", "intermediate", "output"]
                .iter()
                .position(|known| part.starts_with(known))
                .map_or(0, |place| [1, 0, 2, 3][place]);
            return Some(
                layer
                    .parse()
                    .map_or(Self::Head, |layer| Self::Layer(layer, part)),
            );
        }
        // A run of tensors takes the padding between them with it.
        if name.contains("_embeddings.") || name.starts_with("padding.") {
            None
        } else if name.starts_with("tokenizer") {
            Some(Self::Tokenizer)
        } else if name.contains("embeddings.") {
            Some(Self::Embeddings)
        } else {
            Some(Self::Head)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_familys_layers_are_known() {
        for (name, expected) in [
            ("new.encoder.layer.3.mlp.up_gate_proj.weight", Some(3)),
            ("distilbert.transformer.layer.4.sa_layer_norm.bias", Some(4)),
            ("roberta.encoder.layers.5.mixer.Wqkv.weight", Some(5)),
            ("layers.21.attn.Wo.weight", Some(21)),
            ("final_norm.weight", None),
            ("4_Dense.linear.weight", None),
        ] {
            let layer = match Need::of(name) {
                Some(Need::Layer(layer, _)) => Some(layer),
                need => {
                    assert_eq!(need, Some(Need::Head), "{name}");
                    None
                }
            };
            assert_eq!(layer, expected, "{name}");
        }
        let table = "model.embeddings.tok_embeddings.weight";
        assert_eq!(Need::of(table), None);
    }
}
