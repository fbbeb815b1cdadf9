"""Files that Ocelli writes open in transformers and PEFT, PEFT's in Ocelli, and the numbers agree.

    files_both_ways.py --engine build/ocelli --config CFG --data pairs.jsonl [--docs docs/parity.md]

CFG is a small model's folder for `ocelli train --config`. Needs torch, transformers, peft and safetensors. Exit status 1 when a folder opens with
missing or unexpected keys, or an embedding is off by 1e-5 or more.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from parity_kit import engine, put_section

LIMIT = 1e-5


def first_pairs(path, n):
    rows = [json.loads(line) for line in open(path, encoding="utf-8").read().splitlines()[:n]]
    text = [r["text"][0] if isinstance(r["text"], list) else r["text"] for r in rows]
    return [Path(path).parent / r["image"] for r in rows], text


def opened(folder):
    """The model, and how many keys were missing, unexpected or of another shape."""
    model, info = CLIPModel.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    return model.eval(), sum(len(info.get(k, ())) for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def embeds(model, batch):
    with torch.no_grad():
        out = model(**batch)
    return {"image_embeds": out.image_embeds, "text_embeds": out.text_embeds}


def ours(a, folder, batch, work, *more):
    save_file(batch, work / "in.safetensors")
    engine(a.engine, "forward", "--model", folder, "--in", work / "in.safetensors", "--out", work / "out.safetensors", "--threads", 1, *more)
    return load_file(work / "out.safetensors")


def off(x, y):
    return max(float((x[k] - y[k]).abs().max()) for k in ("image_embeds", "text_embeds"))


def peft_adapter(model, folder):
    """An adapter of PEFT's own with a B that is not zero; the adapted model."""
    torch.manual_seed(1)
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj", "out_proj", "fc1", "fc2"]))
    for name, p in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.05)
    tuned.save_pretrained(folder)
    return tuned.eval()


def compare(a, work):
    images, texts = first_pairs(a.data, 8)
    base, adapter, theirs, merged = (work / n for n in ("base", "adapter", "theirs", "merged"))
    settings = ["--data", a.data, "--batch", 8, "--threads", 1, "--quiet", "--metrics", work / "log"]
    engine(a.engine, "train", "--config", a.config, "--out", base, "--steps", 4, *settings)
    model, wrong = opened(base)
    raw = [Image.open(p).convert("RGB") for p in images]
    pixels = CLIPImageProcessor.from_pretrained(base)(raw, return_tensors="pt")["pixel_values"]
    tokens = AutoTokenizer.from_pretrained(base)(texts, padding=True, return_tensors="pt")
    batch = {"pixel_values": pixels.contiguous(), "input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
    engine(a.engine, "preprocess", "--model", base, "--out", work / "px.safetensors", *images)
    plain = embeds(model, batch)
    rows = [("keys missing, unexpected or of another shape, trained folder", wrong),
            ("pixels of CLIPImageProcessor", float((load_file(work / "px.safetensors")["pixel_values"] - pixels).abs().max())),
            ("trained folder", off(ours(a, base, batch, work), plain))]
    engine(a.engine, "finetune", "--model", base, "--out", adapter, "--steps", 6, "--lr", "5e-2", *settings)
    tuned = embeds(PeftModel.from_pretrained(model, adapter).eval(), batch)
    moved = [("our adapter", off(tuned, plain))]
    rows.append(("our adapter in PEFT", off(ours(a, base, batch, work, "--lora", adapter), tuned)))
    engine(a.engine, "merge", "--model", base, "--lora", adapter, "--out", merged)
    model, wrong = opened(merged)
    rows += [("keys, merged folder", wrong), ("merged folder in transformers, with PEFT unmerged", off(embeds(model, batch), tuned))]
    model, _ = opened(base)
    tuned = embeds(peft_adapter(model, theirs), batch)
    moved.append(("PEFT's adapter", off(tuned, plain)))
    rows.append(("PEFT's adapter in ocelli", off(ours(a, base, batch, work, "--lora", theirs), tuned)))
    return rows, moved


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--engine", required=True)
    p.add_argument("--config", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--docs")
    a = p.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows, moved = compare(a, Path(folder))
    lines = ["## Files both ways", "", "| what | largest difference, or count |", "|---|---|"]
    lines += [f"| {name} | {value:.1e} |" if isinstance(value, float) else f"| {name} | {value} |" for name, value in rows]
    lines += ["", "How far the adapters move the embeddings, so that agreement means something: " + "; ".join(f"{n} {v:.2f}" for n, v in moved) + "."]
    print("\n".join(lines))
    if a.docs:
        put_section(a.docs, "files both ways", "\n".join(lines))
    return 0 if all(value < LIMIT for _, value in rows) and all(v > 1000 * LIMIT for _, v in moved) else 1


if __name__ == "__main__":
    sys.exit(main())
