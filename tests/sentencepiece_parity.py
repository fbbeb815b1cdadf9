"""Holds Ocelli's reading of tokenizer.model files against the sentencepiece library, id by id.

    sentencepiece_parity.py --driver build/tests/tokenize_main [--lines 2000]

Trains models of every kind on the texts of this tree (BPE and unigram, with and without byte fallback, table of replacements, tidied spaces, symbols
of the user), and compares the ids of thousands of lines. Needs the wheels of `sentencepiece` and of `tokenizers` (for tokenizer_parity.py's lines).
Exit status 1 on a difference."""
import argparse
import json
import random
import re
import shutil
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import sentencepiece

from tokenizer_parity import compare, fixed_lines, random_line, run

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "llama": dict(model_type="bpe", vocab_size=1200, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False),
    "bpe": dict(model_type="bpe", vocab_size=900),
    "bpe_symbols": dict(model_type="bpe", vocab_size=900, byte_fallback=True, user_defined_symbols=["<sep>", "the dog", "中文", "\t"],
                        control_symbols=["<ctl>"], normalization_rule_name="identity", remove_extra_whitespaces=False),
    "bpe_bare": dict(model_type="bpe", vocab_size=700, add_dummy_prefix=False, split_by_whitespace=False),
    "t5": dict(model_type="unigram", vocab_size=900, pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
    "unigram_bytes": dict(model_type="unigram", vocab_size=1100, byte_fallback=True, normalization_rule_name="nfkc_cf"),
    "unigram_symbols": dict(model_type="unigram", vocab_size=900, user_defined_symbols=["<sep>", "the dog", "xyz"], control_symbols=["<ctl>"]),
    "unigram_bare": dict(model_type="unigram", vocab_size=900, add_dummy_prefix=False, normalization_rule_name="nfkc", remove_extra_whitespaces=False),
}


def corpus(path, lines):
    texts = [p.read_text(errors="replace") for p in sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md"), *ROOT.glob("src/text/*.c")])]
    path.write_text("\n".join(texts + lines))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--driver", required=True)
    p.add_argument("--lines", type=int, default=2000)
    p.add_argument("--model", action="append", default=[], type=Path, help="also this tokenizer.model")
    args = p.parse_args()
    rng = random.Random(5)
    special = ["<s>", "</s>", "<unk>", "<pad>", "<ctl>", "<extra_id_"]  # tokens, which the library spells as if they were text
    lines, more = [], fixed_lines()
    while len(lines) < args.lines:  # so many are compared, whatever is left out
        lines += [s for s in more if not any(x in s for x in special)]
        more = [random_line(rng, False)]
    bad = 0
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        corpus(tmp / "corpus.txt", lines[:300])
        for name, options in KINDS.items():
            folder = tmp / name
            folder.mkdir()
            sentencepiece.SentencePieceTrainer.train(input=str(tmp / "corpus.txt"), model_prefix=str(folder / "tokenizer"), minloglevel=2,
                                                     hard_vocab_limit=False, character_coverage=0.98, **options)
            args.model.append(folder / "tokenizer.model")
        for model in args.model:
            bad += check(args.driver, model, lines)
        bad += check_siglip(args.driver, tmp / "t5", tmp / "siglip", lines)
    print(f"{len(args.model) + 1} models, {len(lines)} lines each, {bad} differences")
    sys.exit(1 if bad else 0)


def canonical(text, lower):
    """As SiglipTokenizer has it, letter by letter: small, without punctuation and needless spaces."""
    text = "".join(c for s in text for c in (s.lower() if lower else s) if c not in string.punctuation)
    return re.sub(r"[^\S\x1c-\x1f]+", " ", text).strip(" ")


def check_siglip(driver, source, folder, lines):
    shutil.copytree(source, folder)
    (folder / "tokenizer.model").rename(folder / "spiece.model")
    ours, bad = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")), 0
    for lower in (True, False):
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SiglipTokenizer", "do_lower_case": lower}))
        want = [ours.encode(canonical(s, lower)) + [1] for s in lines]
        out = run([driver, folder, "-0"], "".join(s + "\0" for s in lines).encode())
        bad += compare(f"siglip, do_lower_case {lower}: ids", lines, [json.loads(s) for s in out.decode().splitlines()], want)
    return bad


def check(driver, model, lines):
    ours = sentencepiece.SentencePieceProcessor(model_file=str(model))
    want = ours.encode(lines)
    out = run([driver, model.parent, "-0", "-p"], "".join(s + "\0" for s in lines).encode())
    bad = compare(f"{model.parent.name}: ids", lines, [json.loads(s) for s in out.decode().splitlines()], want)
    kept = [(s, ids) for s, ids in zip(lines, want) if ours.unk_id() not in ids]  # what is unknown is spelt otherwise
    out = run([driver, model.parent, "-d"], "".join(f"{ids}\n" for _, ids in kept).encode())
    texts = [ours.decode(ids) for _, ids in kept]
    return bad + compare(f"{model.parent.name}: text", [s for s, _ in kept], out.decode().split("\0")[:-1], texts)


if __name__ == "__main__":
    main()
