"""How far --fast-decode moves the numbers and the embeddings of pictures, beside how far apart pictures are.

    fast_pixels.py --engine build/ocelli [--model starter] FILE...      (JPEGs; needs numpy)
"""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np


def pixels(engine, model, files, out, *more):
    subprocess.run([engine, "preprocess", "--model", model, "--out", out, *more, *files], check=True, stdout=subprocess.DEVNULL)
    raw = Path(out).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    info = json.loads(raw[8:8 + size])["pixel_values"]
    return np.frombuffer(raw, "<f4", offset=8 + size).reshape(info["shape"])


def vectors(engine, model, files, out, *more):
    subprocess.run([engine, "embed", "--model", model, "--npy", out, *more, *files], check=True)
    return np.load(out)


def centred_cosines(a, b):
    """Row by row, after the mean picture is taken away: embeddings of one model share a large common part."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    a, b = a - a.mean(0), b - a.mean(0)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--only-pixels", action="store_true")
    parser.add_argument("files", nargs="+")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        exact, fast = (pixels(a.engine, a.model, a.files, f"{work}/p", *m) for m in ((), ("--fast-decode",)))
        off = np.abs(exact - fast).reshape(len(a.files), -1)
        same = int((off.max(1) == 0).sum())
        print(f"pictures {len(a.files)}, of which {same} are the same; side {exact.shape[2]}")
        print(f"pixels: mean difference {off.mean():.4f}, worst picture {off.mean(1).max():.4f}, greatest {off.max():.3f}; their deviation {exact.std():.3f}")
        if not a.only_pixels:
            exact, fast = (vectors(a.engine, a.model, a.files, f"{work}/v.npy", *m) for m in ((), ("--fast-decode",)))
            cosine = centred_cosines(exact, fast)
            near = centred_cosines(exact, fast)[off.max(1) > 0]
            print(f"embeddings: centred cosine mean {cosine.mean():.5f}, of those that differ {near.mean():.5f}, least {near.min():.5f}")


main()
