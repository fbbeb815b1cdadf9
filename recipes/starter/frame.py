#!/usr/bin/env python3
"""frame.py CONFIG - what `ocelli tokenizer --style gpt2` has learned, made the captioner's: text in lower case, between two <|endoftext|> as BERT's is between [CLS] and [SEP].
GPT-2's tokens hold the spaces, so what is written reads as a person writes it ("four o'clock", "1st place medal"); the starter's own, which are CLIP's, lose them."""
import json
import sys
from pathlib import Path

END = "<|endoftext|>"


def main():
    path = Path(sys.argv[1]) / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    end = tokenizer["model"]["vocab"][END]
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
    tokenizer["post_processor"] = {"type": "RobertaProcessing", "sep": [END, end], "cls": [END, end], "trim_offsets": False, "add_prefix_space": False}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
