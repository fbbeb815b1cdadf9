"""Adapters of language models that PEFT writes run in Ocelli, Ocelli's in PEFT, and the logits agree: plain factors, DoRA, rsLoRA, patterns, whole
modules.

    adapters_both_ways.py --engine build/ocelli MODEL...

MODEL is a causal language model's folder with a tokenizer; nothing in it is changed. Needs torch, transformers, peft and safetensors. Exit status 1
when a key is missing or left over, or a logit is off by 1e-4 of the largest or more.
"""
import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from parity_kit import engine

LIMIT = 1e-4
TEXT = "the cat sat on the mat and the dog sat on the log, and both were happy there\n" * 200
TARGETS = {"gpt2": ["c_attn", "c_fc"], "phi3": ["qkv_proj", "down_proj"], "opt": ["q_proj", "fc2"]}
NORM = {"gpt2": "ln_f", "opt": "final_layer_norm"}


def kinds(model):
    """Name, PEFT's fields, finetune's switches."""
    targets = TARGETS.get(model.config.model_type, ["q_proj", "down_proj"])
    whole = NORM.get(model.config.model_type, "norm") if model.config.tie_word_embeddings else "lm_head"
    common = ["--targets", ",".join(targets), "--rank", 4]
    yield "plain", targets, {}, common
    yield "DoRA", targets, {"use_dora": True}, [*common, "--dora"]
    yield "rsLoRA", targets, {"use_rslora": True}, [*common, "--rslora"]
    yield ("patterns", targets, {"rank_pattern": {targets[0]: 2}, "alpha_pattern": {targets[1]: 3}},
           [*common, "--rank-pattern", f"{targets[0]}=2", "--alpha-pattern", f"{targets[1]}=3"])
    yield f"DoRA and {whole} as a whole", targets, {"use_dora": True, "modules_to_save": [whole]}, [*common, "--dora", "--modules-to-save", whole]


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def ours(a, folder, batch, work, adapter):
    save_file(batch, work / "in.safetensors")
    engine(a.engine, "forward", "--model", folder, "--in", work / "in.safetensors", "--out", work / "out.safetensors", "--lora", adapter)
    return load_file(work / "out.safetensors")["logits"]


def off(x, y):
    return float((x - y).abs().max() / y.abs().max())


def base_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def theirs(folder, targets, fields, out):
    """An adapter of PEFT's own in which everything that learns has moved."""
    torch.manual_seed(1)
    tuned = get_peft_model(base_of(folder), LoraConfig(r=4, lora_alpha=8, target_modules=targets, **fields))
    for p in tuned.parameters():
        if p.requires_grad:
            p.data += 0.03 * torch.randn_like(p)
    tuned.save_pretrained(out)
    return tuned.eval()


def opened(folder, adapter):
    """Our adapter in PEFT, which must warn of nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected).*")
        return PeftModel.from_pretrained(base_of(folder), adapter).eval()


def compare(a, folder, work):
    base = base_of(folder)
    torch.manual_seed(0)
    ids = torch.randint(3, base.config.vocab_size, (2, 12))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = logits(base, batch)
    (work / "text.txt").write_text(TEXT)
    for i, (name, targets, fields, switches) in enumerate(kinds(base)):
        tuned = theirs(folder, targets, fields, work / f"theirs{i}")
        yield f"PEFT's, {name}", off(ours(a, folder, batch, work, work / f"theirs{i}"), logits(tuned, batch)), off(logits(tuned, batch), plain)
        engine(a.engine, "finetune", "--model", folder, "--data", work / "text.txt", "--out", work / f"ours{i}", "--steps", 4, "--batch", 2, "--context",
               16, "--lr", "2e-2", "--quiet", "--metrics", work / f"log{i}", *switches)
        tuned = logits(opened(folder, work / f"ours{i}"), batch)
        yield f"ours, {name}", off(ours(a, folder, batch, work, work / f"ours{i}"), tuned), off(tuned, plain)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--engine", required=True)
    p.add_argument("model", nargs="+")
    a = p.parse_args()
    torch.set_num_threads(1)
    good = True
    for folder in a.model:
        with tempfile.TemporaryDirectory() as work:
            for name, difference, moved in compare(a, folder, Path(work)):
                good &= difference < LIMIT and moved > 10 * LIMIT
                print(f"{Path(folder).parent.name or folder}: {name}: logits differ by {difference:.1e} of the largest; the adapter moves them by {moved:.2f}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
