#!/usr/bin/env python3
"""ablate.py DIR [MINUTES [START]] - the captioner's three losses, each taken away in turn, at equal compute: every run goes on from what has learned words by LM alone
(DIR/START: caption-words, or caption-first for the recipe's first stage), as the recipe's last stage does, for as many steps as one core makes in MINUTES (20). A step's price
is the processor's time, not the clock's, of PACE steps; the minutes that a run then took stand in the table of docs/starter.md, which is printed. Two runs at a time.
DIR is what ./run has left; a run that is there already is only judged."""
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
OCELLI = os.environ.get("OCELLI", str(HERE.parent.parent / "build" / "ocelli"))
BATCH, PACE = 128, 48
VARIANTS = {"all three": "itc=1,itm=1,lm=5", "without ITC": "itm=1,lm=5", "without ITM": "itc=1,lm=5", "without LM": "itc=1,itm=1"}


def place(folder, name):
    return folder / "ablation" / name.lower().replace(" ", "-")


def train(folder, start, name, objectives, steps):
    """Seconds of processor time that `steps` steps took; kept beside the model."""
    out = place(folder, name)
    command = [OCELLI, "train", "--model", folder / start, "--freeze", "vision_model.", "--data", folder / "data" / "train_captions.jsonl", "--out", out,
               "--metrics", f"{out}.jsonl", "--steps", str(steps), "--batch", str(BATCH), "--threads", "1", "--objectives", objectives, "--lr", "8e-4", "--muon-lr", "1.1e-3",
               "--text-length", "24", "--prompt", "text_zh=中文：", "--kin", "0.15", "--warmup", "0.03", "--final-lr", "0.01", "--weight-decay", "0.1", "--ema", "0.99",
               "--augment", "0.5", "--hue", "15", "--row-noise", "0.2", "--row-drop", "0.1", "--seed", "32", "--dtype", "bf16", "--save-dtype", "fp16", "--quiet"]
    child = subprocess.Popen(command)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"ablate.py: {name}: train ended with status {status}")
    seconds = used.ru_utime + used.ru_stime
    Path(f"{out}.took.json").write_text(json.dumps({"steps": steps, "cpu_s": round(seconds, 1)}))
    return seconds


def trained(folder, minutes, start):
    """Prices first, two at a time as the runs themselves."""
    place(folder, "").mkdir(exist_ok=True)
    missing = [n for n in VARIANTS if not (place(folder, n) / "model.safetensors").exists()]
    with ThreadPoolExecutor(2) as pool:
        prices = dict(zip(missing, pool.map(lambda n: train(folder, start, n + " pace", VARIANTS[n], PACE) / PACE, missing)))
        for name, price in prices.items():
            print(f"{name}: {price:.2f} s a step", file=sys.stderr, flush=True)
        list(pool.map(lambda n: train(folder, start, n, VARIANTS[n], round(minutes * 60 / prices[n])), missing))


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


def run_of(folder, name):
    """The name of a run with what it took."""
    took = json.loads(Path(f"{place(folder, name)}.took.json").read_text())
    return f"{name} ({took['steps']:,} steps, {took['cpu_s'] / 60:.1f} minutes)"


def main():
    folder, minutes = Path(sys.argv[1]).resolve(), float(sys.argv[2]) if len(sys.argv) > 2 else 20
    start = sys.argv[3] if len(sys.argv) > 3 else "caption-words"
    trained(folder, minutes, start)
    print("| losses | Fluent, English | Fluent, 中文 | Tux Paint, English | Tux Paint, 中文 | clip art R@1 by ITC, text to picture / back | by ITM |\n|---|---|---|---|---|---|---|")
    print(row(folder, "none of them yet: words by LM", folder / start), flush=True)
    for name in VARIANTS:
        print(row(folder, run_of(folder, name), place(folder, name)), flush=True)


if __name__ == "__main__":
    main()
