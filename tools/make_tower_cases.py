#!/usr/bin/env python3
"""Writes the reference cases of single towers and of open_clip's layout into tests/reference: small random models of transformers and open_clip, their outputs
in float64 for the inputs of the case `clip`. Needs torch, transformers, open_clip_torch and safetensors; two runs write the same bytes.

    tools/make_tower_cases.py [tests/reference]"""
import json
import shutil
import sys
from pathlib import Path

import open_clip
import torch
import transformers
from safetensors.torch import load_file, save_file

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "tests" / "reference")
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "projection_dim": 12}
CLIP = json.loads((OUT / "clip" / "model" / "config.json").read_text())
INPUTS = load_file(OUT / "clip" / "in.safetensors")
TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]


def settings(part):
    return {**{k: v for k, v in CLIP[part].items() if k not in ("model_type", "dtype")}, **SMALL}


def draw(model, seed):
    """Weights of a size that makes every part count."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if p.dim() else 1.0) + (0.5 if p.dim() == 1 else 0.0))


def write(name, about, model, run, inputs, copies, save):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "model").mkdir(parents=True)
    save(folder / "model")
    for file in copies:
        shutil.copy(OUT / "clip" / "model" / file, folder / "model" / file)
    with torch.no_grad():
        rough, exact = run(model.float(), inputs), run(model.double(), {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()})
    noise = {k: float((rough[k] - exact[k]).abs().max() / exact[k].abs().max()) for k in exact}
    save_file(inputs, folder / "in.safetensors")
    save_file({k: v.float().contiguous() for k, v in exact.items()}, folder / "out.safetensors")
    check = {"check": "forward", "kind": "forward", "model": "model", "in": "in.safetensors", "out": "out.safetensors",
             "tol": {"rel_to_max": {k: float(f"{max(1e-5, 10 * x):.2g}") for k, x in noise.items()}},
             "float32_noise": {k: float(f"{x:.2g}") for k, x in noise.items()}}
    if "last_hidden_state" in exact and "attention_mask" in inputs:
        check["valid"] = {"last_hidden_state": "attention_mask"}
    case = {"case": name, "about": about, "made_with": {"transformers": transformers.__version__, "torch": torch.__version__, "open_clip": open_clip.__version__},
            "precision": "weights as rounded on disk, arithmetic in float64, results rounded to float32", "notes": [], "checks": [check]}
    (folder / "case.json").write_text(json.dumps(case, indent=1, ensure_ascii=False) + "\n")


def tower(name, seed, copies):
    part = "text_config" if "Text" in name else "vision_config"
    config = getattr(transformers, "CLIPTextConfig" if "Text" in name else "CLIPVisionConfig")(**settings(part))
    model = getattr(transformers, name)(config).eval()
    draw(model, seed)
    wanted = ["input_ids", "attention_mask"] if "Text" in name else ["pixel_values"]
    outputs = ["last_hidden_state", "pooler_output" if "Projection" not in name else "text_embeds" if "Text" in name else "image_embeds"]
    case = "clip_" + ("text" if "Text" in name else "vision") + ("_projection" if "Projection" in name else "")
    write(case, f"{name}: a tower alone", model, lambda m, x: {k: getattr(m(**x), k) for k in outputs}, {k: INPUTS[k] for k in wanted}, copies, model.save_pretrained)


def run_open_clip(model, inputs):
    image, text, scale = model(inputs["pixel_values"], inputs["input_ids"])
    per_image = scale * image @ text.T
    return {"image_embeds": image, "text_embeds": text, "logits_per_image": per_image, "logits_per_text": per_image.T}


def original(seed):
    config = {"embed_dim": 12,
              "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
              "text_cfg": {"context_length": 77, "vocab_size": 900, "width": 24, "heads": 3, "layers": 2}}
    pixels = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711], "interpolation": "bicubic", "resize_mode": "shortest"}
    model = open_clip.CLIP(**config).eval()
    draw(model, seed)
    # open_clip pools at the largest id, and reads no mask: its texts are filled with 0 behind their end, up to its context.
    ids = INPUTS["input_ids"] * INPUTS["attention_mask"]
    inputs = {"pixel_values": INPUTS["pixel_values"], "input_ids": torch.nn.functional.pad(ids, (0, 77 - ids.shape[1]))}

    def save(folder):
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": pixels}, indent=1) + "\n")
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")

    write("open_clip", "open_clip's own layout: open_clip_config.json, in_proj of three parts, projections turned round", model, run_open_clip, inputs, TOKENIZER, save)


def main():
    tower("CLIPTextModel", 1, [])
    tower("CLIPTextModelWithProjection", 2, TOKENIZER)
    tower("CLIPVisionModel", 3, [])
    tower("CLIPVisionModelWithProjection", 4, ["preprocessor_config.json"])
    original(5)


main()
