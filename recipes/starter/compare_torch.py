"""Repeats a run of `ocelli train --dump DIR` in PyTorch, from the same weights and batches, and compares the losses.

    ocelli train --config CFG --data pairs.jsonl --out OUT --steps 500 --batch 64 --lr 5e-4 --weight-decay 0.1 --warmup 25 \\
           --dump DIR --metrics ours.jsonl
    compare_torch.py --dump DIR --metrics ours.jsonl --steps 500 --lr 5e-4 --weight-decay 0.1 --warmup 25 [--svg F]

Needs torch, transformers and safetensors. The settings here must be those of the run; --total is the length of the schedule when only its
first --steps are compared. Exit status 1 when the loss of one of the first 50 steps is off by more than 1e-3 of it, or a mean of 25 steps by
more than 2%. Where --muon-lr is given, the matrices of the transformers' layers learn by torch.optim.Muon.
"""
import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import CLIPModel


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dump", type=Path, required=True)
    p.add_argument("--metrics", type=Path, required=True)
    p.add_argument("--steps", type=int, required=True)
    p.add_argument("--total", type=int, help="steps of the whole schedule (--steps)")
    p.add_argument("--lr", type=float, required=True)
    p.add_argument("--final-lr", type=float, default=0)
    p.add_argument("--warmup", type=int, required=True)
    p.add_argument("--weight-decay", type=float, default=0.1)
    p.add_argument("--muon-lr", type=float, default=0)
    p.add_argument("--embedding-lr", type=float, default=1)
    p.add_argument("--partners", type=float, default=0)
    p.add_argument("--clip", type=float, default=1)
    p.add_argument("--svg", type=Path)
    p.add_argument("--out", type=Path, help="PyTorch's losses, one JSON line a step, as they come")
    p.add_argument("--wait", type=float, default=0, help="seconds to wait for a batch that is not there yet")
    return p.parse_args()


def optimizers(model, a):
    """(optimizer, rate at the top) of each set of weights; gains, biases and the temperature do not decay."""
    sets = {}
    for name, p in model.named_parameters():
        gain = name.endswith(".bias") or "norm" in name or name == "logit_scale"
        quick = "token_embedding" in name or name == "logit_scale"
        linear = p.ndim == 2 and "embedding" not in name
        if a.muon_lr and linear:
            key = ("muon", a.muon_lr, a.weight_decay)
        else:
            key = ("adamw", a.lr * (a.embedding_lr if quick else 1), 0 if gain else a.weight_decay)
        sets.setdefault(key, []).append(p)
    out = []
    for (kind, lr, decay), params in sets.items():
        if kind == "muon":
            o = torch.optim.Muon(params, lr=lr, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
        else:
            o = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.98), eps=1e-8, weight_decay=decay)
        out.append((o, lr))
    return out


def share_of_rate(step, a):
    total = a.total or a.steps
    if step < a.warmup:
        return (step + 1) / a.warmup
    left = (total - step) / (total - a.warmup)
    return a.final_lr + (1 - a.final_lr) * 0.5 * (1 - math.cos(math.pi * left))


def soft_cross_entropy(logits, target):
    """The mean over rows; a row of zeros counts for nothing."""
    rows = target.sum(-1) > 0
    return -(target * logits.log_softmax(-1)).sum(-1)[rows].mean()


def contrastive(model, batch, partners):
    out = model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"])
    image, per_text = out.image_embeds, out.logits_per_text
    if "text_target" in batch:
        loss = (soft_cross_entropy(per_text, batch["text_target"]) + soft_cross_entropy(per_text.t(), batch["image_target"])) / 2
    else:
        target = torch.arange(len(per_text))
        loss = (torch.nn.functional.cross_entropy(per_text, target) + torch.nn.functional.cross_entropy(per_text.t(), target)) / 2
    if partners:
        similar = 10 * image @ image.t()
        similar = similar.masked_fill(torch.eye(len(image), dtype=torch.bool), -1e9)
        loss = loss + partners * soft_cross_entropy(similar, batch["partner_target"])
    return loss


def load_batch(path, wait):
    end = time.time() + wait
    while not path.exists() and time.time() < end:
        time.sleep(0.5)
    return load_file(path)


def replay(a):
    model = CLIPModel.from_pretrained(a.dump, dtype=torch.float32).train()
    every = optimizers(model, a)
    losses = []
    log = open(a.out, "w") if a.out else None
    for step in range(a.steps):
        batch = load_batch(a.dump / f"step-{step + 1:06d}.safetensors", a.wait)
        loss = contrastive(model, batch, a.partners)
        model.zero_grad()
        loss.backward()
        if a.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), a.clip)
        for o, lr in every:
            for g in o.param_groups:
                g["lr"] = lr * share_of_rate(step, a)
            o.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(loss.item())
        if log:
            print(json.dumps({"step": step + 1, "loss": losses[-1]}), file=log, flush=True)
        if (step + 1) % 25 == 0:
            print(f"step {step + 1}: {losses[-1]:.5f}", file=sys.stderr, flush=True)
    return losses


def our_losses(path, n):
    by_step = {}
    for line in path.read_text().splitlines():
        try:
            r = json.loads(line)
        except ValueError:
            continue  # a line that is still being written
        by_step[r["step"]] = r["loss"]
    return [by_step[i + 1] for i in range(n)]


def means(x):
    return [sum(x[i:i + 25]) / 25 for i in range(0, len(x) - 24, 25)]


def path_of(x, low, high, width, height):
    points = (f"{60 + width * i / max(1, len(x) - 1):.1f},{20 + height * (high - v) / (high - low):.1f}" for i, v in enumerate(x))
    return " ".join(points)


def write_svg(path, ours, torch_losses):
    low, high, width, height = min(ours + torch_losses), max(ours + torch_losses), 560, 260
    lines = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 330" font-family="sans-serif" font-size="12">',
             '<rect width="660" height="330" fill="white"/>']
    for k in range(5):
        v = low + (high - low) * k / 4
        y = 20 + height * (high - v) / (high - low)
        lines.append(f'<path d="M60 {y:.1f}h{width}" stroke="#ddd"/><text x="52" y="{y + 4:.1f}" text-anchor="end">{v:.2f}</text>')
    lines += [f'<polyline fill="none" stroke="#e6550d" stroke-width="3" opacity="0.5" points="{path_of(torch_losses, low, high, width, height)}"/>',
              f'<polyline fill="none" stroke="#1f3a93" stroke-width="1" points="{path_of(ours, low, high, width, height)}"/>',
              f'<text x="60" y="300">step 1</text><text x="620" y="300" text-anchor="end">{len(ours)}</text>',
              '<text x="340" y="318" text-anchor="middle">loss: <tspan fill="#1f3a93">ocelli (thin)</tspan> and '
              '<tspan fill="#e6550d">PyTorch (broad)</tspan>, same weights and batches</text>', "</svg>", ""]
    path.write_text("\n".join(lines))


def main():
    a = arguments()
    torch.set_num_threads(1)
    theirs = replay(a)
    ours = our_losses(a.metrics, a.steps)
    off = [abs(x - y) / abs(y) for x, y in zip(ours, theirs)]
    blocks = [abs(x - y) / abs(y) for x, y in zip(means(ours), means(theirs))]
    result = {"steps": a.steps, "first_50_worst": max(off[:50]), "mean_25_worst": max(blocks) if blocks else None,
              "all_worst": max(off), "first": ours[0], "last_ours": ours[-1], "last_torch": theirs[-1]}
    print(json.dumps(result))
    if a.svg:
        write_svg(a.svg, ours, theirs)
    return 0 if result["first_50_worst"] <= 1e-3 and (not blocks or max(blocks) <= 0.02) else 1


if __name__ == "__main__":
    sys.exit(main())
