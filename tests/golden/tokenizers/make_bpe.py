"""Makes the byte-level BPE tokenizers of this folder: small ones in the layouts of RoBERTa and of ModernBERT.

    pip install tokenizers==0.23.3
    python make_bpe.py

They are trained on this project's own text and on the sentences below, which were written for this purpose. As the project's text
changes, running the script anew gives other merges.
"""

import json
import pathlib

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent.parent

SENTENCES = """
Die Brücke über den Fluss wurde gebaut, damit die Züge schneller fahren können; größere Schiffe müssen draußen warten.
Wo ist der Schlüssel? Er liegt auf dem Tisch in der Küche, neben dem geöffneten Brief und der kalten Tasse Tee.
La bibliothèque est fermée aujourd'hui, mais l'élève a déjà trouvé la réponse à sa question dans un vieux journal.
Où est-ce que l'été commence ? Cela dépend de l'hémisphère, bien sûr, et de l'année où l'on pose la question.
El niño pequeño preguntó por qué el cielo es azul; mañana la señora le explicará cómo la luz llega a la montaña.
A canção não é longa, mas as palavras são difíceis: coração, ilusão, avó e avô, tudo na mesma manhã de verão.
Perché la città è così silenziosa? È già notte, e quasi tutti i negozi sono chiusi più presto del solito.
W Krakowie żyje wiele gołębi, które każdego dnia jedzą chleb na rynku, choć źródła pożywienia są gdzie indziej.
Příliš mnoho otázek zůstalo bez odpovědi, řekl učitel, když se žáci vrátili ze školního výletu do hor.
Bu sabah İstanbul'da hava çok soğuktu, ama öğleden sonra güneş açtı ve çocuklar dışarıda oynamaya başladı.
Привет, мир! Сегодня хорошая погода, и мы идём в библиотеку, чтобы найти ответ на трудный вопрос.
Чому річка тече до моря? Тому що вода завжди шукає найнижче місце, відповіла вчителька своїм учням.
Η γάτα κοιμάται στον ήλιο, ενώ ο σκύλος περιμένει δίπλα στην πόρτα για να επιστρέψει ο φίλος του.
הספרייה סגורה היום, אבל אפשר למצוא את התשובה בספר הישן שעל השולחן.
المكتبة مغلقة اليوم، ولكن يمكن العثور على الجواب في الكتاب القديم فوق الطاولة.
पुस्तकालय आज बंद है, लेकिन उत्तर मेज़ पर रखी पुरानी किताब में मिल सकता है।
আজ আকাশ পরিষ্কার, তাই আমরা নদীর ধারে হাঁটতে যাব এবং নৌকা দেখব।
วันนี้อากาศดี เราจะไปห้องสมุดเพื่อหาคำตอบของคำถามที่ยาก
Hôm nay trời đẹp, chúng tôi đến thư viện để tìm câu trả lời cho một câu hỏi khó về dòng sông.
今日は天気がいいので、図書館へ行って難しい質問の答えを探します。東京の川は海へ流れています。
今天天气很好，我们去图书馆寻找一个难题的答案。河流总是流向大海，船在桥下等待。
오늘은 날씨가 좋아서 우리는 도서관에 가서 어려운 질문의 답을 찾을 것입니다. 강은 바다로 흐릅니다.
I'm sure they've said it's what we'll do; he'd rather you're there, and I don't know whose it was in 1984.
""".strip().splitlines()


def corpus() -> list[str]:
    files = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/**/*.rs")])
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines(keepends=True)]
    return lines + SENTENCES * 12


def special(token: str, lstrip: bool = False) -> AddedToken:
    return AddedToken(token, lstrip=lstrip, normalized=False, special=True)


def trained(size: int, first: list[str], normalizer=None) -> Tokenizer:
    tok = Tokenizer(models.BPE())
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=first, initial_alphabet=alphabet, show_progress=False
    )
    tok.train_from_iterator(corpus(), trainer)
    return tok


def written(tok: Tokenizer, name: str, declared: list[AddedToken]) -> None:
    made = json.loads(tok.to_str())
    made["added_tokens"] = [
        {
            "id": tok.token_to_id(token.content), "content": token.content, "single_word": token.single_word,
            "lstrip": token.lstrip, "rstrip": token.rstrip, "normalized": token.normalized, "special": token.special,
        }
        for token in declared
    ]  # fmt: skip
    text = json.dumps(made, ensure_ascii=False, separators=(",", ":"))
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def roberta() -> None:
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    tok = trained(3299, first)
    declared = [special(token) for token in first] + [special("<mask>", lstrip=True)]
    tok.add_special_tokens(declared)
    tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    written(tok, "roberta.json", declared)


def modernbert() -> None:
    first = ["|||IP_ADDRESS|||", "<|padding|>"]
    tok = trained(3000, first, normalizers.NFC())
    declared = [AddedToken(first[0], normalized=True, special=False), special(first[1])]
    declared += [AddedToken(" " * length, normalized=True, special=False) for length in range(24, 1, -1)]
    declared += [AddedToken(f"|||{name}|||", normalized=True, special=False) for name in ["EMAIL_ADDRESS", "PHONE_NUMBER"]]
    declared += [special(token) for token in ["<|endoftext|>", "[UNK]", "[CLS]", "[SEP]", "[PAD]"]]
    declared += [special("[MASK]", lstrip=True)]
    declared += [AddedToken(f"[unused{n}]", normalized=True, special=False) for n in range(10)]
    tok.add_tokens(declared)
    ids = {token: tok.token_to_id(token) for token in ["[CLS]", "[SEP]"]}
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=list(ids.items())
    )
    written(tok, "modernbert.json", declared)


if __name__ == "__main__":
    roberta()
    modernbert()
