"""A random CLIP of real size, written by transformers: the same embeddings, and how much memory they take.

    real_size.py --engine build/ocelli --bpe bpe_simple_vocab_16e6.txt.gz --pictures DIR [--size b32 --size l14] [--docs docs/parity.md]

The vocabulary is a file of the PyPI package open_clip_torch. Needs torch, transformers and safetensors, 2 GB of disk and, for l14, 5 GB of memory.
Exit status 1 when a difference is 1e-4 of the norm or more, when pictures' embeddings lie nearer than 100 times that, or when
the peak is over 1.1 times weights and arena.
"""
import argparse
import gzip
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from parity_kit import engine, engine_json, put_section

TEXTS = ["a photo of a cat", "ocean waves at sunset", "一只红色的猫坐在树下", "two men on a beach, playing with a dog"]
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def shapes(size):
    common = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407, "num_hidden_layers": 12}
    if size == "b32":
        vision = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32)
        text = dict(hidden_size=512, intermediate_size=2048, num_attention_heads=8, **common)
    else:
        vision = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14)
        text = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, **common)
    return CLIPConfig(vision_config={"image_size": 224, **vision}, text_config=text, projection_dim=512 if size == "b32" else 768)


def byte_letters():
    """Byte-level BPE's letter of each byte: itself where it prints, else the next free one from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]


def write_rest(folder, bpe):
    merges = gzip.open(bpe, "rt", encoding="utf-8").read().split("\n")[1:49152 - 256 - 2 + 1]
    letters = byte_letters()
    words = letters + [x + "</w>" for x in letters] + ["".join(m.split()) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    end = "<|endoftext|>"
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end, "model_max_length": 77}))
    (folder / "preprocessor_config.json").write_text(json.dumps(
        {"image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True,
         "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": MEAN,
         "image_std": STD, "do_convert_rgb": True}))


def pictures(folder, n):
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix in (".jpg", ".png"))
    random.Random(1).shuffle(paths)
    return paths[:n]


def unit(x):
    x = x.pooler_output if hasattr(x, "pooler_output") else x
    return torch.nn.functional.normalize(x, dim=-1).double().numpy()


def reference(model, pixels, ids, dtype):
    with torch.no_grad():
        image = unit(model.get_image_features(pixel_values=torch.from_numpy(pixels).to(dtype)))
        return image, np.concatenate([unit(model.get_text_features(input_ids=torch.tensor([i]))) for i in ids])


def worst(a, b):
    return float(np.abs(a - b).max())


def nearest(x):
    d = np.linalg.norm(x[:, None] - x[None], axis=-1)
    return float(d[~np.eye(len(x), dtype=bool)].min())


def memory(a, folder, paths, label):
    facts = engine_json(a.engine, "info", folder, "--batch", len(paths), "--threads", 1)
    _, peak = engine(a.engine, "embed", "--model", folder, "--npy", folder / "again.npy", "--batch", len(paths), "--threads", 1, "--quiet", *paths)
    held = facts["weights_bytes"] + facts["arena_bytes"]
    return [label, facts["weights_bytes"] / 1e6, facts["arena_bytes"] / 1e6, peak / 1e6, peak / held]


def measure(a, size, folder):
    torch.manual_seed(0)
    model = CLIPModel(shapes(size)).eval()
    model.save_pretrained(folder)
    write_rest(folder, a.bpe)
    paths = pictures(a.pictures, a.count)
    rows = [memory(a, folder, paths, f"{size}, fp32 on disk")]
    words = ["--model", folder, "--threads", 1, "--normalize", "--quiet", "--npy"]
    engine(a.engine, "embed", *words, folder / "image.npy", *paths)
    engine(a.engine, "embed", *words, folder / "text.npy", "--text", *TEXTS)
    engine(a.engine, "preprocess", "--model", folder, "--out", folder / "px.safetensors", *paths)
    pixels = load_file(folder / "px.safetensors")["pixel_values"]
    tokenizer = __import__("transformers").AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(t)["input_ids"] for t in TEXTS]
    save_file({"pixel_values": pixels}, folder / "in.safetensors")
    _, forward_peak = engine(a.engine, "forward", "--model", folder, "--in", folder / "in.safetensors", "--out", folder / "out.safetensors", "--threads", 1)
    image, text = reference(model, pixels, ids, torch.float32)
    ours, forward = np.load(folder / "image.npy"), load_file(folder / "out.safetensors")["image_embeds"]
    result = {"size": size, "pictures": len(paths), "embed": worst(ours, image), "forward": worst(forward, image),
              "text": worst(np.load(folder / "text.npy"), text), "nearest": nearest(image), "forward_peak_MB": forward_peak / 1e6}
    if not a.no_half:
        model.half().save_pretrained(folder)
        rows.append(memory(a, folder, paths, f"{size}, fp16 on disk"))
    result["memory"] = rows
    print(json.dumps(result), flush=True)
    return result


def report(results):
    lines = ["## Real size", "", "Random weights as transformers draws them, real photographs, one thread. Differences are the largest of any number of an",
             "embedding of length 1, against transformers in fp32; *nearest* is the distance of the two most similar pictures.", "",
             "| model | pictures | embed | forward | texts | nearest |", "|---|---|---|---|---|---|"]
    for r in results:
        lines.append(f"| {r['size']} | {r['pictures']} | {r['embed']:.1e} | {r['forward']:.1e} | {r['text']:.1e} | {r['nearest']:.3f} |")
    lines += ["", "| memory of `embed`, MB | weights | arena | peak | peak / (weights + arena) |", "|---|---|---|---|---|"]
    for label, weights, arena, peak, share in (row for r in results for row in r["memory"]):
        lines.append(f"| {label} | {weights:.1f} | {arena:.1f} | {peak:.1f} | {share:.3f} |")
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--engine", required=True)
    p.add_argument("--bpe", required=True)
    p.add_argument("--pictures", required=True)
    p.add_argument("--size", action="append", choices=["b32", "l14"])
    p.add_argument("--count", type=int, default=8)
    p.add_argument("--no-half", action="store_true", help="leave out the memory of fp16 on disk")
    p.add_argument("--docs")
    a = p.parse_args()
    torch.set_num_threads(1)
    results = []
    for size in a.size or ["b32", "l14"]:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(a, size, Path(folder)))
    if a.docs:
        put_section(a.docs, "real size", report(results))
    good = all(max(r["embed"], r["forward"], r["text"]) < 1e-4 and r["nearest"] >= 1e-2 and all(m[4] < 1.1 for m in r["memory"]) for r in results)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
