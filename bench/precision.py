#!/usr/bin/env python3
"""precision.py OCELLI DATA - what fewer bits cost on the shipped model: zero-shot and retrieval by every --dtype, and the cosine of centred
embeddings with those of fp32. DATA is what recipes/starter/prepare writes. Prints the tables of docs/precision.md."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

DTYPES = ("fp32", "bf16", "int8", "int4")


def run(*words, text=None):
    return subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout


def scores(ocelli, data, dtype):
    common = ("--dtype", dtype, "--json", "--quiet")
    lines = run(ocelli, "eval", "zeroshot", "--data", data / "fluent.jsonl", "--language", "text", "--language", "text_zh", *common)
    english, chinese = (json.loads(line) for line in lines.splitlines())
    clip_art = json.loads(run(ocelli, "eval", "retrieval", "--data", data / "ocal_test.jsonl", *common))
    return [100 * x for x in (english["top1"], english["top5"], chinese["top1"], chinese["top5"], clip_art["t2i_r1"], clip_art["t2i_r10"])]


def embeddings(ocelli, data, dtype, folder):
    pictures = [str(data / json.loads(line)["image"]) for line in open(data / "fluent.jsonl", encoding="utf-8")]
    names = open(data / "fluent_en.txt", encoding="utf-8").read()
    out = []
    for kind, words, text in (("pictures", pictures, None), ("texts", ["--stdin"], names)):
        path = Path(folder) / f"{kind}.npy"
        run(ocelli, "embed", "--dtype", dtype, "--npy", path, "--quiet", *words, text=text)
        out.append(np.load(path).astype(np.float64))
    return out


def centred_cosine(a, b):
    """The mean of a is what all rows share: it would make any two look alike."""
    x, y = a - a.mean(0), b - a.mean(0)
    return (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)


def size(ocelli, dtype, folder):
    out = Path(folder) / dtype
    if dtype == "fp32":
        return None
    run(ocelli, "quantize", "--model", "starter", "--dtype", dtype, "--out", out)
    return (out / "model.safetensors").stat().st_size / 1e6


def main():
    ocelli, data = sys.argv[1], Path(sys.argv[2])
    print("| weights | file | zero-shot en top-1 / 5 | 中文 top-1 / 5 | clip art R@1 / 10 | cosine, pictures: mean, least | cosine, texts |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        exact = embeddings(ocelli, data, "fp32", folder)
        for dtype in DTYPES:
            s, e, mb = scores(ocelli, data, dtype), embeddings(ocelli, data, dtype, folder), size(ocelli, dtype, folder)
            c = [centred_cosine(a, b) for a, b in zip(exact, e)]
            print(f"| {dtype} | {'' if mb is None else f'{mb:.1f} MB'} | {s[0]:.1f} / {s[1]:.1f} | {s[2]:.1f} / {s[3]:.1f} | {s[4]:.1f} / {s[5]:.1f} | "
                  f"{c[0].mean():.5f}, {c[0].min():.5f} | {c[1].mean():.5f}, {c[1].min():.5f} |")


if __name__ == "__main__":
    main()
