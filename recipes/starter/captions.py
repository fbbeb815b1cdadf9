#!/usr/bin/env python3
"""captions.py DIR - from train.jsonl to train_captions.jsonl, what the captioner learns from: a drawing's name in both languages, without its keywords. And from
fluent.jsonl to fluent_captions.jsonl, the same of the unseen style, to judge by.

Emoji count twice, flags and clip art once, as in mix.py. What stands in brackets behind a name ("moose (male)") stays: it is part of what is seen."""
import json
import sys
from pathlib import Path


def names(pair):
    out = {"image": pair["image"], "group": pair["group"], "text": pair["text"][:1]}
    if pair.get("text_zh"):
        out["text_zh"] = pair["text_zh"][:1]
    return json.dumps(out, ensure_ascii=False) + "\n"


def times(pair):
    return 1 if "/ocal/" in pair["image"] or pair["text"][0].startswith("flag:") else 2


def main():
    folder = Path(sys.argv[1])
    for name, often in [("train", times), ("fluent", lambda pair: 1)]:
        with open(folder / f"{name}.jsonl", encoding="utf-8") as f, open(folder / f"{name}_captions.jsonl", "w", encoding="utf-8") as to:
            for line in f:
                to.write(names(json.loads(line)) * often(json.loads(line)))


if __name__ == "__main__":
    main()
