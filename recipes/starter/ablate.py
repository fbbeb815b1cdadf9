#!/usr/bin/env python3
"""ablate.py DIR [MINUTES] - the captioner's three losses, each taken away in turn, at equal compute: every run gets as many steps as it makes in MINUTES (25), by its pace over the
first 40. DIR is what ./run has left: data, caption-config and the starter's eye. Prints the table of docs/starter.md; a run that is there already is only judged."""
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OCELLI = os.environ.get("OCELLI", str(HERE.parent.parent / "build" / "ocelli"))
BATCH, PACE = 128, 40
VARIANTS = {"all three": "itc,itm,lm", "without itc": "itm,lm", "without itm": "itc,lm", "without lm": "itc,itm"}


def train(folder, name, objectives, steps, *more):
    out = folder / "ablation" / name.replace(" ", "-")
    metrics = Path(f"{out}.jsonl")
    done = subprocess.run([OCELLI, "train", "--config", folder / "caption-config", "--start-from", folder / "starter", "--freeze", "vision_model.", "--data",
                           folder / "data" / "train_captions.jsonl", "--out", out, "--metrics", metrics, "--steps", str(steps), "--batch", str(BATCH), "--objectives",
                           objectives, "--lr", "1.5e-3", "--muon-lr", "2e-3", "--text-length", "24", "--prompt", "text_zh=中文：", "--kin", "0.3", "--warmup", "0.05", "--final-lr",
                           "0.02", "--weight-decay", "0.1", "--ema", "0.99", "--augment", "0.7", "--hue", "15", "--seed", "21", "--save-dtype", "fp16", *more], check=False)
    assert done.returncode in (0, 1), f"{name}: training ended with {done.returncode}"
    return out, json.loads(metrics.read_text().splitlines()[-1])


def judged(model, *arguments):
    done = subprocess.run([OCELLI, "eval", *arguments, "--model", model, "--json", "--quiet"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def row(folder, name, objectives, minutes):
    out = folder / "ablation" / name.replace(" ", "-")
    if not (out / "model.safetensors").exists():
        _, pace = train(folder, name + " pace", objectives, PACE)
        train(folder, name, objectives, max(PACE, round(minutes * 60 * pace["pairs_per_s"] / BATCH)))
    data, cells = folder / "data", []
    for language, more in (("text", []), ("text_zh", ["--prompt", "中文："])):
        for which in ("fluent_captions", "tuxpaint"):
            if "lm" in objectives:
                got = judged(out, "caption", "--data", data / f"{which}.jsonl", "--language", language, "--num-beams", "3", *more)
                cells.append(f"{got['cider_d']:.2f}")
            else:
                cells.append("-")
    got = judged(out, "retrieval", "--data", data / "ocal_test.jsonl", "--language", "text")
    return f"| {name} | {' | '.join(cells)} | {100 * got['t2i_r1']:.1f}% |"


def main():
    folder, minutes = Path(sys.argv[1]).resolve(), float(sys.argv[2]) if len(sys.argv) > 2 else 25
    print("| losses | Fluent, English | Tux Paint, English | Fluent, 中文 | Tux Paint, 中文 | clip art, text to picture R@1 |\n|---|---|---|---|---|---|")
    for name, objectives in VARIANTS.items():
        print(row(folder, name, objectives, minutes), flush=True)


if __name__ == "__main__":
    main()
