//! The families beside BERT's that have a tiny model under `tests/golden`, made by `make_families.py` there.

pub const FAMILIES: [&str; 8] = [
    "gte",
    "modernbert",
    "modernbert-cls",
    "modernbert-modules",
    "electra",
    "distilbert",
    "mpnet",
    "jina",
];
