//! Endless odd texts, the same for the same seed: what a tokenizer may meet and what it is likely to get wrong.

/// Ranges of code points, each with its own trap: letters of many scripts, marks that combine, reorder or stand alone, jamo,
/// half and full width, ligatures, private and unassigned code points.
const RANGES: &[(u32, u32)] = &[
    (0x20, 0x7e),
    (0x00, 0x1f),
    (0x7f, 0xff),
    (0x100, 0x24f),
    (0x250, 0x2ff),
    (0x300, 0x36f),
    (0x370, 0x3ff),
    (0x400, 0x52f),
    (0x590, 0x5ff),
    (0x600, 0x6ff),
    (0x700, 0x8ff),
    (0x900, 0x97f),
    (0x980, 0xdff),
    (0xe00, 0xeff),
    (0xf00, 0xfff),
    (0x1000, 0x109f),
    (0x10a0, 0x10ff),
    (0x1100, 0x11ff),
    (0x1780, 0x18af),
    (0x1ab0, 0x1bff),
    (0x1cd0, 0x1cff),
    (0x1d00, 0x1dff),
    (0x1e00, 0x1fff),
    (0x2000, 0x206f),
    (0x2070, 0x20ff),
    (0x2100, 0x24ff),
    (0x2500, 0x27ff),
    (0x2e80, 0x303f),
    (0x302a, 0x3030),
    (0x3040, 0x30ff),
    (0x3100, 0x33ff),
    (0x3400, 0x34ff),
    (0x4e00, 0x9fff),
    (0xa000, 0xabff),
    (0xac00, 0xd7ff),
    (0xe000, 0xe0ff),
    (0xf900, 0xfaff),
    (0xfb00, 0xfdff),
    (0xfe00, 0xfeff),
    (0xff00, 0xffff),
    (0x10000, 0x1056f),
    (0x10a00, 0x10a5f),
    (0x11000, 0x118ff),
    (0x16ff0, 0x16fff),
    (0x1d100, 0x1d24f),
    (0x1d400, 0x1d7ff),
    (0x1e000, 0x1e02f),
    (0x1f1e6, 0x1f1ff),
    (0x1f300, 0x1faff),
    (0x20000, 0x2fa1f),
    (0xe0000, 0xe01ef),
    (0x10ff00, 0x10ffff),
];

const SPACES: &[char] = &[
    ' ', ' ', ' ', '\t', '\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{a0}', '\u{1680}', '\u{2000}',
    '\u{2003}', '\u{200b}', '\u{2028}', '\u{2029}', '\u{202f}', '\u{205f}', '\u{2060}', '\u{3000}',
    '\u{feff}', '\u{2581}', '\u{1c}', '\u{180e}',
];

/// Joiners, selectors, signs that shape the clusters around them, and characters whose decomposition surprises.
const GLUE: &[char] = &[
    '\u{200c}',
    '\u{200d}',
    '\u{fe0e}',
    '\u{fe0f}',
    '\u{1f3fb}',
    '\u{1f3ff}',
    '\u{20e3}',
    '\u{e007f}',
    '\u{34f}',
    '\u{301}',
    '\u{308}',
    '\u{323}',
    '\u{344}',
    '\u{345}',
    '\u{94d}',
    '\u{9cd}',
    '\u{93c}',
    '\u{e31}',
    '\u{e33}',
    '\u{eb3}',
    '\u{600}',
    '\u{6dd}',
    '\u{110bd}',
    '\u{302e}',
    '\u{302f}',
    '\u{1d165}',
    '\u{1d16d}',
    '\u{16ff0}',
    '\u{1b44}',
    '\u{f73}',
    '\u{f81}',
    '\u{fdfa}',
    '\u{130}',
    '\u{131}',
    '\u{17f}',
    '\u{1e9e}',
    '\u{212a}',
    '\u{37e}',
    '\u{387}',
    '\u{1fef}',
    '\u{ad}',
    '\u{fb01}',
    '\u{fffd}',
    '\u{0}',
    '\u{ff9e}',
    '\u{ff9f}',
    '\u{3099}',
    '\r',
    '\n',
];

const WORDS: &[&str] = &[
    "the",
    "Retrieval",
    "cross-encoder",
    "don't",
    "we'll've",
    "I'm",
    "'they're'",
    "''s",
    "naïve",
    "café",
    "e\u{301}tude",
    "GRÜSSE",
    "straße",
    "Ελλάδα",
    "ΟΔΟΣ",
    "привет",
    "Ёлка",
    "İstanbul",
    "ısı",
    "Tiếng",
    "Việt",
    "שלום",
    "مرحبا",
    "العَرَبِيَّة",
    "नमस्ते",
    "क्षत्रिय",
    "বাংলা",
    "ไทย",
    "น้ำ",
    "한국어",
    "안녕",
    "東京都",
    "日本語",
    "カタカナ",
    "ｶﾞｷﾞ",
    "ＦＵＬＬ",
    "中文检索",
    "ﬁnance",
    "½",
    "№",
    "℃",
    "™",
    "①",
    "x²",
    "3.14159",
    "1,000,000",
    "$9.99",
    "user@example.org",
    "https://a.b/c?d=e#f",
    "C++",
    "::",
    "...",
    "…",
    "--",
    "「」",
    "«»",
    "👩‍👩‍👧‍👦",
    "🇩🇪🇫🇷",
    "👍🏽",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "☃️",
    "##ing",
    "##",
    "#",
    "unk",
    "\u{1100}\u{1161}\u{11a8}",
];

/// Special tokens of the families, whole and nearly so.
const LITERALS: &[&str] = &[
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "<mask>",
    "[CLS]",
    "[SEP]",
    "[PAD]",
    "[UNK]",
    "[MASK]",
    " <mask>",
    "\u{3000}<mask> ",
    "<mask><mask>",
    "<s><s>",
    "<unk><unk>",
    "＜s＞",
    "＜unk＞",
    "＜unk＞＜unk＞",
    "＜／s＞",
    "<ｍask>",
    "< s>",
    "<s",
    "s>",
    "|||IP_ADDRESS|||",
    "|||IP",
    "<|endoftext|>",
    "[unused1]",
    "<<s>>",
    "<S>",
    "[cls]",
    "[ CLS ]",
    "［CLS］",
    "[[MASK]]",
    "▁<s>",
    "<s>▁",
    "▁",
    "▁▁",
    "Day",
    "day",
    "[day]",
];

pub struct Texts {
    state: u64,
}

impl Texts {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.random() % limit as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn in_range(&mut self, low: u32, high: u32) -> char {
        let code = low + self.below((high - low + 1) as usize) as u32;
        // Surrogates are no characters.
        char::from_u32(code).unwrap_or('\u{fffd}')
    }

    fn part(&mut self, out: &mut String) {
        match self.below(12) {
            0 => {
                for _ in 0..=self.below(8) {
                    out.push(self.in_range(0, 0x10_ffff));
                }
            }
            1 | 2 => {
                let (low, high) = self.pick(RANGES);
                for _ in 0..=self.below(12) {
                    out.push(self.in_range(low, high));
                }
            }
            3 => {
                for _ in 0..=self.below(10) {
                    let (low, high) = self.pick(RANGES);
                    out.push(self.in_range(low, high));
                }
            }
            4 => {
                for _ in 0..=self.below(4) {
                    out.push(self.pick(SPACES));
                }
            }
            5 => out.push_str(self.pick(LITERALS)),
            6 => {
                let (low, high) = self.pick(RANGES);
                out.push(self.in_range(low, high));
                for _ in 0..=self.below(4) {
                    out.push(self.pick(GLUE));
                }
            }
            7 => {
                let unit = match self.below(4) {
                    0 => self.pick(SPACES).to_string(),
                    1 => self.pick(GLUE).to_string(),
                    2 => self.pick(WORDS).to_owned(),
                    _ => self.pick(LITERALS).to_owned(),
                };
                let times = if self.below(40) == 0 { 400 } else { 8 };
                out.push_str(&unit.repeat(1 + self.below(times)));
            }
            _ => {
                for _ in 0..=self.below(6) {
                    out.push_str(self.pick(WORDS));
                    if self.below(4) > 0 {
                        out.push(' ');
                    }
                }
            }
        }
    }
}

impl Iterator for Texts {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut text = String::new();
        for _ in 0..self.below(10) {
            self.part(&mut text);
        }
        Some(text)
    }
}
