"""The same training of a language model by Ocelli and by PyTorch, from the same weights and batches: loss by loss, and time by time.

    train_language.py --engine build/ocelli --model DIR --data TEXT --work DIR [--steps 50] [--batch 4] [--context 64] [--threads 2] [--compile]

DIR is a folder of transformers' (config.json, model.safetensors, tokenizer.json) whose model type is gpt2 or llama. `ocelli train --dump` leaves the weights and each batch; PyTorch repeats them with
the same AdamW (no decay on gains and biases), clipping and rates, a step at a time in turn with a second run of Ocelli, each stopped while it is not its turn. Prints the largest relative
difference of the losses and the medians of the times of a step, their ratio being the median of the turns'. Needs torch, transformers, safetensors, numpy. --llmc DIR: a folder of llm.c with train_gpt2 built and its files of weights and tokens, whose CPU trainer (GPT-2 124M, 4 x 64) takes six steps in the same run.
"""
import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median


def rate(step, steps, warmup, top):
    """As src/train/optimizer.c has it: up in a line, down by half a cosine."""
    if step < warmup:
        return top * (step + 1) / warmup
    return top * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def command(a, out, metrics):
    return [a.engine, "train", "--model", a.model, "--data", a.data, "--out", out, "--metrics", metrics, "--steps", str(a.steps), "--batch", str(a.batch), "--context",
            str(a.context), "--lr", str(a.lr), "--warmup", str(a.warmup), "--threads", str(a.threads), "--checkpoint-minutes", "1000", "--fresh", "--quiet"]


def run_engine(a):
    dump, out, metrics = a.work / "dump", a.work / "out", a.work / "metrics.jsonl"
    metrics.unlink(missing_ok=True)
    subprocess.run([*command(a, out, metrics), "--dump", dump], check=True)
    return dump, [json.loads(line) for line in metrics.read_text().splitlines()]


class Turns:
    """The engine once more, a step at a time: it runs only inside of step()."""

    def __init__(self, a):
        self.metrics = a.work / "turns.jsonl"
        self.metrics.unlink(missing_ok=True)
        self.process = subprocess.Popen(command(a, a.work / "turns", self.metrics))
        self.wait_for(1)

    def wait_for(self, steps):
        while self.process.poll() is None and (not self.metrics.exists() or self.metrics.read_bytes().count(b"\n") < steps):
            time.sleep(5e-4)
        self.done = steps
        self.process.send_signal(signal.SIGSTOP)

    def step(self):
        time.sleep(0.3)  # the other's threads spin for a while
        began = time.perf_counter()
        self.process.send_signal(signal.SIGCONT)
        self.wait_for(self.done + 1)
        return time.perf_counter() - began

    def end(self):
        self.process.kill()
        self.process.wait()


def mask_of(first):
    """Who sees whom: [B, 1, T, T], not before the document's beginning, not ahead."""
    import torch
    t = torch.arange(first.shape[1])
    return ((t[None, None, :] >= first[:, :, None]) & (t[None, None, :] <= t[None, :, None]))[:, None]


def take_steps(dump, rates, turns, model, loss_of):
    """PyTorch's losses, and how long both take for the same steps: not for the first, which prepare things, nor the last, which ends with what is written. loss_of: a batch's."""
    import torch
    from safetensors.torch import load_file
    groups = [{"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1}, {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8)
    losses, times, ours = [], [], []
    for step, lr in enumerate(rates):
        x = load_file(dump / f"step-{step + 1:06d}.safetensors")
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = loss_of(x)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        times.append(time.perf_counter() - began)
        if step < len(rates) - 2:
            ours.append(turns.step())  # its next step: it took its first before
    return losses, times[1:len(ours) + 1], ours


def repeat(a, dump, rates, turns):
    import torch
    from transformers import AutoModelForCausalLM
    torch.manual_seed(0)
    torch.set_num_threads(a.threads)
    model = AutoModelForCausalLM.from_pretrained(dump, attn_implementation="sdpa", dtype=torch.float32).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_dropout"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    forward = torch.compile(model) if a.compile else model

    def loss_of(x):
        alone = bool((x["from"] == 0).all())  # one document a row: PyTorch's own causal mask, which is its fastest way
        keep = None if alone else mask_of(x["from"])
        logits = forward(input_ids=x["input_ids"], position_ids=x["position_ids"], attention_mask=keep, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), x["target"].flatten(), ignore_index=-100)
    return take_steps(dump, rates, turns, model, loss_of)


def compare(a, repeat, **more):
    """Both run; one line of what came out, with whatever `more` says; the largest relative difference of the losses."""
    dump, ours = run_engine(a)
    rates = [rate(s, a.steps, a.warmup, a.lr) for s in range(a.steps)]
    off = max(abs(r - m["lr"]) for r, m in zip(rates, ours))
    if off > 1e-3 * a.lr:
        sys.exit(f"the rates differ by {off}: {rates[:7]} and {[m['lr'] for m in ours[:7]]}")
    turns = Turns(a)
    losses, times, own = repeat(a, dump, rates, turns)
    turns.end()
    worst = max(abs(m["loss"] - t) / t for m, t in zip(ours, losses))
    print(json.dumps({"steps": a.steps, "worst_relative": worst, "first": [ours[0]["loss"], losses[0]], "last": [ours[-1]["loss"], losses[-1]],
                      "ocelli_s": round(median(own), 4), "torch_s": round(median(times), 4), "ratio": round(median(t / o for t, o in zip(times, own)), 3),
                      **{name: get() for name, get in more.items()}}))
    return worst


def llm_c(a, steps=6):
    """Median seconds of its steps but the first."""
    process = subprocess.Popen(["stdbuf", "-oL", "./train_gpt2"], cwd=a.llmc, env={**os.environ, "OMP_NUM_THREADS": str(a.threads)}, stdout=subprocess.PIPE, text=True)
    times = []
    for line in process.stdout:
        if took := re.search(r"took ([0-9.]+) ms", line):
            times.append(float(took[1]) / 1e3)
        if len(times) == steps:
            break
    process.kill()
    process.wait()
    return median(times[1:])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("engine", "model", "data", "work"):
        p.add_argument(f"--{name}", type=Path, required=True)
    for name, value in (("steps", 50), ("batch", 4), ("context", 64), ("threads", 2), ("warmup", 5)):
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--lr", type=float, default=3e-4)
    p.add_argument("--llmc", type=Path)
    p.add_argument("--compile", action="store_true")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    more = {"llm_c_s": lambda: round(llm_c(a), 4)} if a.llmc else {}
    sys.exit(compare(a, repeat, **more) > 1e-3)


if __name__ == "__main__":
    main()
