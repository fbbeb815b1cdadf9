#!/usr/bin/env python3
"""captions.py DIR - from train.jsonl to train_captions.jsonl, what the captioner learns from: a drawing's name in both languages, without its keywords.

Emoji count twice, flags and clip art once, as in mix.py. What stands in brackets behind a name ("moose (male)") stays: it is part of what is seen."""
import json
import sys
from pathlib import Path


def main():
    folder = Path(sys.argv[1])
    with open(folder / "train.jsonl", encoding="utf-8") as f, open(folder / "train_captions.jsonl", "w", encoding="utf-8") as to:
        for line in f:
            pair = json.loads(line)
            out = {"image": pair["image"], "group": pair["group"], "text": pair["text"][:1]}
            if pair.get("text_zh"):
                out["text_zh"] = pair["text_zh"][:1]
            emoji = "/ocal/" not in pair["image"] and not pair["text"][0].startswith("flag:")
            to.write((json.dumps(out, ensure_ascii=False) + "\n") * (2 if emoji else 1))


if __name__ == "__main__":
    main()
