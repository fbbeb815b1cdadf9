#!/usr/bin/env python3
"""captions.py DIR - from train.jsonl and train_styles.jsonl to train_captions.jsonl, what the captioner learns from: a drawing's name in both languages, without
its keywords. And from fluent.jsonl to fluent_captions.jsonl, the same of the unseen style, to judge by.

As in train_styles.jsonl an emoji is there as it is drawn and as it is redrawn. What stands in brackets behind a name ("moose (male)") stays: it is part of what is seen."""
import json
import re
import sys
from pathlib import Path


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def names(pair):
    return {key: pair[key][:1] for key in ("text", "text_zh") if pair.get(key)}


def original(image):
    """pictures/restyled/PACK/ICON-K.png is pictures/PACK/ICON.png, redrawn."""
    return re.sub(r"/restyled/(.*)-\d+\.png$", r"/\1.png", image)


def main():
    folder = Path(sys.argv[1])
    named = {pair["image"]: names(pair) for pair in lines(folder / "train.jsonl")}
    styles = [{**pair, **named[original(pair["image"])]} for pair in lines(folder / "train_styles.jsonl")]
    for name, pairs in [("train", styles), ("fluent", [{**pair, **names(pair)} for pair in lines(folder / "fluent.jsonl")])]:
        with open(folder / f"{name}_captions.jsonl", "w", encoding="utf-8") as to:
            for pair in pairs:
                kept = {key: pair[key] for key in ("image", "group", "kin", "text", "text_zh") if pair.get(key)}
                to.write(json.dumps(kept, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
