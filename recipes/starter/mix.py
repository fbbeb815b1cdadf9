#!/usr/bin/env python3
"""mix.py DIR - from train.jsonl to train_mix.jsonl: how often a drawing is seen, and by which words.

Emoji count twice, flags and clip art once. A text is drawn evenly from a list, so the list says how likely each is: the name
six times of eight (three of five for clip art), one to three keywords, with or without the name, for the rest."""
import json
import random
import sys
from pathlib import Path


def texts(names, keywords, separator, emoji):
    out = [names[0]] * (6 if emoji else 3) + ([] if emoji else names[1:])
    for _ in range(2 if keywords else 0):
        words = random.sample(keywords, min(len(keywords), random.randint(1, 3)))
        if random.random() < 0.5:
            words = [names[0]] + words
        out.append(separator.join(words))
    return out


def mixed(pair):
    emoji = "/ocal/" not in pair["image"]
    out = {"image": pair["image"], "text": texts(pair["text"], pair.get("keywords"), ", ", emoji), "group": pair["group"]}
    if pair.get("text_zh"):
        out["text_zh"] = texts(pair["text_zh"], pair.get("keywords_zh"), "，", emoji)
    return out, 2 if emoji and not pair["text"][0].startswith("flag:") else 1


def main():
    random.seed(1)
    folder = Path(sys.argv[1])
    with open(folder / "train.jsonl", encoding="utf-8") as f, open(folder / "train_mix.jsonl", "w", encoding="utf-8") as to:
        for line in f:
            pair, times = mixed(json.loads(line))
            to.write((json.dumps(pair, ensure_ascii=False) + "\n") * times)


if __name__ == "__main__":
    main()
