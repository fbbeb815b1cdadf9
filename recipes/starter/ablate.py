#!/usr/bin/env python3
"""ablate.py DIR [MINUTES] - the captioner's three losses, each taken away in turn, at equal compute: every run goes on from what has learned words (DIR/caption-words, by LM
alone), as the recipe's last stage does, for as many steps as one core makes in MINUTES (20) by its pace over the first few. Two runs at a time. Prints the table of docs/starter.md.
DIR is what ./run has left; a run that is there already is only judged."""
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
OCELLI = os.environ.get("OCELLI", str(HERE.parent.parent / "build" / "ocelli"))
BATCH, PACE = 128, 12
VARIANTS = {"all three": "itc=1,itm=1,lm=5", "without ITC": "itm=1,lm=5", "without ITM": "itc=1,lm=5", "without LM": "itc=1,itm=1"}


def train(folder, name, steps):
    """Pairs a second of the last step."""
    out = folder / "ablation" / name.lower().replace(" ", "-")
    objectives = VARIANTS[name.removesuffix(" pace")]
    out.parent.mkdir(exist_ok=True)
    metrics = Path(f"{out}.jsonl")
    subprocess.run([OCELLI, "train", "--model", folder / "caption-words", "--freeze", "vision_model.", "--data", folder / "data" / "train_captions.jsonl", "--out", out,
                    "--metrics", metrics, "--steps", str(steps), "--batch", str(BATCH), "--threads", "1", "--objectives", objectives, "--lr", "8e-4", "--muon-lr", "1.1e-3",
                    "--text-length", "24", "--prompt", "text_zh=中文：", "--kin", "0.15", "--warmup", "0.03", "--final-lr", "0.01", "--weight-decay", "0.1", "--ema", "0.99",
                    "--augment", "0.5", "--hue", "15", "--row-noise", "0.2", "--row-drop", "0.1", "--seed", "32", "--dtype", "bf16", "--save-dtype", "fp16", "--quiet"], check=True)
    return json.loads(metrics.read_text().splitlines()[-1])["pairs_per_s"]


def trained(folder, minutes):
    """Paces first, two at a time as the runs themselves, so that all are held back alike by what else runs."""
    missing = [n for n in VARIANTS if not (folder / "ablation" / n.lower().replace(" ", "-") / "model.safetensors").exists()]
    with ThreadPoolExecutor(2) as pool:
        paces = dict(zip(missing, pool.map(lambda n: train(folder, n + " pace", PACE), missing)))
        for name, pace in paces.items():
            print(f"{name}: {pace:.0f} pairs a second", file=sys.stderr, flush=True)
        list(pool.map(lambda n: train(folder, n, round(minutes * 60 * paces[n] / BATCH)), missing))


def judged(model, *arguments):
    done = subprocess.run([OCELLI, "eval", *arguments, "--model", model, "--json", "--quiet"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def row(folder, name, model):
    data, cells = folder / "data", []
    for which in ("fluent_captions", "tuxpaint"):
        for language, more in (("text", []), ("text_zh", ["--prompt", "中文："])):
            got = judged(model, "caption", "--data", data / f"{which}.jsonl", "--language", language, "--num-beams", "3", *more)
            cells.append(f"{got['cider_d']:.2f}")
    for more in ([], ["--rerank"]):
        got = judged(model, "retrieval", "--data", data / "ocal_test.jsonl", "--language", "text", *more)
        cells.append(f"{100 * got['t2i_r1']:.1f}% / {100 * got['i2t_r1']:.1f}%")
    return f"| {name} | {' | '.join(cells)} |"


def main():
    folder, minutes = Path(sys.argv[1]).resolve(), float(sys.argv[2]) if len(sys.argv) > 2 else 20
    trained(folder, minutes)
    print("| losses | Fluent, English | Fluent, 中文 | Tux Paint, English | Tux Paint, 中文 | clip art R@1 by ITC, text to picture / back | by ITM |\n|---|---|---|---|---|---|---|")
    print(row(folder, "none of them yet: words by LM", folder / "caption-words"), flush=True)
    for name in VARIANTS:
        print(row(folder, name, folder / "ablation" / name.lower().replace(" ", "-")), flush=True)


if __name__ == "__main__":
    main()
