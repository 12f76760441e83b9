"""Queries and documents of all lengths, the same for the same seed."""

WORDS = """
the a of and to in is was for with by on at from as that which between under over during without
river water tank pressure valve bread oven dough yeast flour salt garden slug rose spring soil seed pruning tomato stake frost
bicycle chain wheel brake cable screw thread panda bamboo forest mountain capital city bridge train station ticket window
battery lamp switch fuse current voltage kernel thread page cache score query passage document ranking language token
sleeps grows turns melts opens closes leaks breaks repairs explains measures compares holds carries remembers forgets
Straße naïve façade Ελλάδα Москва вода 水 東京 熊猫 학교 مدرسة שלום नमस्ते 🚲 🌱 co₂ 3.14 1789 no. 7
""".split()


def sentence(random, words):
    drawn = [random.choice(WORDS) for _ in range(words)]
    return " ".join(drawn).capitalize() + random.choice(".?!")


def text(random, words):
    """Sentences of about that many words together."""
    sentences = []
    while words > 0:
        length = min(words, random.randint(4, 16))
        sentences.append(sentence(random, length))
        words -= length
    return " ".join(sentences)


def queries(random):
    return [text(random, words) for words in (1, 3, 5, 8, 12, 40)]


def short(random):
    """Documents that fit; an empty one too."""
    return [""] + [text(random, random.randint(1, 60)) for _ in range(35)] + [text(random, 110) for _ in range(4)]


def long(random):
    """Documents of several times the model's length, which are cut or taken apart."""
    return [text(random, words) for words in (400, 700, 1100)]
