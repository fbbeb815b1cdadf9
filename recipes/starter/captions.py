#!/usr/bin/env python3
"""captions.py DIR - what the captioner learns from, from train.jsonl, train_styles.jsonl and train_strange.jsonl, what it is judged by and what its settings
are chosen by: train_captions.jsonl, fluent_captions.jsonl and openmoji_captions.jsonl, a drawing's name in both languages, without its keywords; and captions.txt, every name once, for the tokenizer.

An emoji is there as it is drawn and as it is redrawn, half of that as its eye never saw it. What stands in brackets behind its name ("moose (male)") stays: it is part of what is seen.
Of clip art the title is taken, as far as it is English; where nothing of it is, the rarest of its keywords that is; and nothing of desktop themes, whose titles name what a
program does ("goto", "exec") and not what is drawn. What one would not want to read is not learned."""
import collections
import json
import re
import sys
from pathlib import Path

WORDS = "/usr/share/dict/words"  # Debian's wamerican


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def original(image):
    """pictures/restyled/PACK/ICON-K.png is pictures/PACK/ICON.png, redrawn."""
    return re.sub(r"/restyled/(.*)-\d+\.png$", r"/\1.png", image)


class Cleaner:
    """What a piece of clip art is called, in English, or None."""

    def __init__(self, pairs):
        with open(WORDS, encoding="utf-8") as f:
            self.english = {word.strip().lower() for word in f}
        emoji = [pair["text"][0] for pair in pairs if not self.is_clip_art(pair)]
        self.english |= {word for name in emoji for word in re.findall(r"[a-z]+", name.lower())}
        self.often = collections.Counter(word.lower() for pair in pairs for word in pair["keywords"])

    @staticmethod
    def is_clip_art(pair):
        return pair["image"].startswith("pictures/ocal/")

    def in_english(self, text):
        """text without what stands in brackets, without numbers and without words of other languages."""
        words = re.findall(r"[a-z]+(?:['-][a-z]+)*", re.sub(r"\(.*?\)", " ", text.lower()))
        kept = [w for w in words if (len(w) > 1 or w == "a") and all(part in self.english for part in w.split("-"))]
        return " ".join(kept) if 2 * len(kept) >= len(words) else ""

    def name(self, pair):
        if not self.is_clip_art(pair):
            return pair["text"][0]
        if "theme" in pair["keywords"] and pair["group"].startswith("ocal:"):
            return None
        words = [w for w in pair["keywords"] if self.often[w.lower()] > 1 and self.in_english(w) == w.lower()]
        return self.in_english(pair["text"][0]) or min(words, key=lambda w: self.often[w.lower()], default=None)


def captioned(pair, name, name_zh):
    named = {"text": [name] if name else [], "text_zh": name_zh[:1]}
    return {key: value for key, value in {**pair, **named}.items() if key in ("image", "group", "kin", "text", "text_zh") and value}


def write(path, rows):
    with open(path, "w", encoding="utf-8") as to:
        to.writelines((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


def main():
    folder = Path(sys.argv[1])
    pairs = lines(folder / "train.jsonl")
    cleaner = Cleaner(pairs)
    named = {pair["image"]: (cleaner.name(pair), pair["text_zh"]) for pair in pairs}
    drawings = lines(folder / "train_styles.jsonl") + lines(folder / "train_strange.jsonl")
    train = [captioned(pair, *named[original(pair["image"])]) for pair in drawings]
    train = [pair for pair in train if pair.get("text")]
    write(folder / "train_captions.jsonl", train)
    for name in ("fluent", "openmoji"):
        write(folder / f"{name}_captions.jsonl", [captioned(pair, pair["text"][0], pair["text_zh"]) for pair in lines(folder / f"{name}.jsonl")])
    write(folder / "captions.txt", dict.fromkeys(text.lower() for pair in train for key in ("text", "text_zh") for text in pair.get(key, ())))


if __name__ == "__main__":
    main()
