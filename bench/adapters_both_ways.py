"""Adapters that PEFT writes for language models, sentence models and dual encoders run in Ocelli, Ocelli's in PEFT, and the outputs agree: plain factors, DoRA, rsLoRA,
patterns, whole modules.

    adapters_both_ways.py --engine build/ocelli [--docs docs/parity.md] MODEL...

MODEL is the folder of a causal language model, a T5, a BERT, a SigLIP or a Chinese-CLIP, with a tokenizer; nothing in it is changed. Needs torch, transformers, peft,
pillow and safetensors. Exit status 1 when a key is missing or left over, or an output is off by 1e-4 of the largest or more.
"""
import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from parity_kit import engine, put_section

LIMIT = 1e-4
TEXT = "the cat sat on the mat and the dog sat on the log, and both were happy there\n" * 200
PAIRS = [(f"where does the {x} sit", f"the {x} sits on the {y}") for x, y in zip("cat dog bird fish horse man".split(), "mat log tree stone road boat".split())]
TARGETS = {"gpt2": ["c_attn", "c_fc"], "phi3": ["qkv_proj", "down_proj"], "opt": ["q_proj", "fc2"], "t5": ["q", "wo"], "bert": ["query", "intermediate.dense"],
           "siglip": ["q_proj", "fc2"], "chinese_clip": ["query", "q_proj"]}
NORM = {"gpt2": "ln_f", "opt": "final_layer_norm", "t5": "final_layer_norm", "bert": "embeddings.LayerNorm",
        "siglip": "final_layer_norm", "chinese_clip": "post_layernorm"}
DUAL = ("siglip", "chinese_clip")  # a picture and a text
CLASSES = {"bert": AutoModel, "t5": AutoModelForSeq2SeqLM, **dict.fromkeys(DUAL, AutoModel)}


def data_for(kind, work):
    """A file that finetune learns from."""
    if kind in DUAL:
        for i, (_, text) in enumerate(PAIRS):
            Image.effect_noise((40, 40), 20 + 10 * i).save(work / f"{i}.png")
        path = work / "pairs.jsonl"
        path.write_text("".join(json.dumps({"image": f"{i}.png", "text": text}) + "\n" for i, (_, text) in enumerate(PAIRS)))
        return path
    names = {"bert": ("anchor", "positive"), "t5": ("prompt", "answer")}.get(kind)
    path = work / ("lines.jsonl" if names else "text.txt")
    path.write_text("".join(json.dumps(dict(zip(names, x))) + "\n" for x in PAIRS) if names else TEXT)
    return path


def kinds(model):
    """Name, PEFT's fields, finetune's switches."""
    targets = TARGETS.get(model.config.model_type, ["q_proj", "down_proj"])
    tied = model.config.model_type in DUAL or model.config.tie_word_embeddings
    whole = NORM.get(model.config.model_type, "norm") if tied else "lm_head"
    common = ["--targets", ",".join(targets), "--rank", 4]
    yield "plain", targets, {}, common
    yield "DoRA", targets, {"use_dora": True}, [*common, "--dora"]
    yield "rsLoRA", targets, {"use_rslora": True}, [*common, "--rslora"]
    yield ("patterns", targets, {"rank_pattern": {targets[0]: 2}, "alpha_pattern": {targets[1]: 3}},
           [*common, "--rank-pattern", f"{targets[0]}=2", "--alpha-pattern", f"{targets[1]}=3"])
    yield f"DoRA and {whole} as a whole", targets, {"use_dora": True, "modules_to_save": [whole]}, [*common, "--dora", "--modules-to-save", whole]


def outputs(model, batch):
    with torch.no_grad():
        y = model(**batch)
    if "image_embeds" in y:
        return torch.cat([y.image_embeds, y.text_embeds])
    return y.logits if "logits" in y else y.last_hidden_state


def ours(a, folder, batch, work, adapter):
    save_file(batch, work / "in.safetensors")
    engine(a.engine, "forward", "--model", folder, "--in", work / "in.safetensors", "--out", work / "out.safetensors", "--lora", adapter)
    got = load_file(work / "out.safetensors")
    if "image_embeds" in got:
        return torch.cat([got["image_embeds"], got["text_embeds"]])
    return got["logits"] if "logits" in got else got["last_hidden_state"]


def off(x, y):
    return float((x - y).abs().max() / y.abs().max())


def base_of(folder):
    kind = AutoConfig.from_pretrained(folder).model_type
    return CLASSES.get(kind, AutoModelForCausalLM).from_pretrained(folder, dtype=torch.float32).eval()


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


def inputs(model, kind):
    c = model.config
    ids = torch.randint(3, getattr(c, "text_config", c).vocab_size, (2, 16 if kind == "siglip" else 12))
    batch = {"input_ids": ids} if kind == "siglip" else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "t5":
        batch["decoder_input_ids"] = ids[:, :5].contiguous()
    if kind in DUAL:
        batch["pixel_values"] = torch.randn(2, 3, c.vision_config.image_size, c.vision_config.image_size)
    return batch


def compare(a, folder, work):
    base = base_of(folder)
    torch.manual_seed(0)
    kind = base.config.model_type
    batch = inputs(base, kind)
    plain, data = outputs(base, batch), data_for(kind, work)
    for i, (name, targets, fields, switches) in enumerate(kinds(base)):
        tuned = theirs(folder, targets, fields, work / f"theirs{i}")
        yield f"PEFT's, {name}", off(ours(a, folder, batch, work, work / f"theirs{i}"), outputs(tuned, batch)), off(outputs(tuned, batch), plain)
        engine(a.engine, "finetune", "--model", folder, "--data", data, "--out", work / f"ours{i}", "--steps", 4, "--batch", 2,
               *([] if kind in DUAL else ["--context", 16]), "--lr", "2e-2", "--quiet", "--metrics", work / f"log{i}", *switches)
        tuned = outputs(opened(folder, work / f"ours{i}"), batch)
        yield f"ours, {name}", off(ours(a, folder, batch, work, work / f"ours{i}"), tuned), off(tuned, plain)


def table(found):
    """A line for each model: the worst of its five kinds, either way."""
    lines = ["## Adapters both ways", "", "Plain factors, DoRA, rsLoRA, rank and alpha patterns, and DoRA with a whole module: each written by PEFT and run here, and trained by",
             "`finetune` and run by PEFT. The largest difference of any output, over the largest output; and how far the least of the ten adapters moves the outputs.", "",
             "| model | worst difference | least movement |", "|---|---|---|"]
    for name, pairs in found.items():
        lines.append(f"| {name} | {max(d for d, _ in pairs):.1e} | {min(m for _, m in pairs):.2f} |")
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--engine", required=True)
    p.add_argument("--docs", help="the page that keeps a table of it")
    p.add_argument("model", nargs="+")
    a = p.parse_args()
    torch.set_num_threads(1)
    good, found = True, {}
    for folder in a.model:
        label = Path(folder).parent.name or folder
        with tempfile.TemporaryDirectory() as work:
            for name, difference, moved in compare(a, folder, Path(work)):
                good &= difference < LIMIT and moved > 10 * LIMIT
                found.setdefault(label, []).append((difference, moved))
                print(f"{label}: {name}: outputs differ by {difference:.1e} of the largest; the adapter moves them by {moved:.2f}")
    if a.docs:
        put_section(a.docs, "adapters both ways", table(found))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
