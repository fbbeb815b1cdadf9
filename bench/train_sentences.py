"""The same training of a sentence model by Ocelli and by PyTorch, from the same weights and batches of texts of unlike length: loss by loss, and time by time.

    train_sentences.py --engine build/ocelli --model DIR --work DIR [--data LINES.jsonl] [--steps 12] [--batch 16] [--threads 2]

DIR is a folder of transformers' of model type bert that sentence-transformers would pool by the mean (tests/reference/minilm/model, or all-MiniLM-L6-v2). Without --data the
descriptions of this Debian's packages are learned from, each short one beside the first sentence of its long one. PyTorch takes Ocelli's batches, filled up to the longest text with a mask, as
sentence-transformers does, a step at a time in turn with Ocelli. --wide draws weights of MiniLM-L6's size (384 wide, 6 layers) in place of the model's own. Prints what train_language.py
prints, and the share of the batches that is filling. Needs torch, transformers, safetensors, numpy."""
import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from train_language import compare, take_steps

TEMPERATURE = 0.05


def descriptions(path):
    got = subprocess.run(["dpkg-query", "-W", "-f=${Description}\\n@@\\n"], capture_output=True, text=True, check=True).stdout
    pairs = []
    for short, *long in (x.splitlines() for x in got.split("\n@@\n") if x.strip()):
        first = " ".join(" ".join(long).split()).split(". ")[0][:300]
        if len(first) > 10:
            pairs.append({"anchor": short.strip(), "positive": first})
    path.write_text("".join(json.dumps(x) + "\n" for x in pairs))
    return path


def widened(folder, work):
    """The model's folder again, as large as MiniLM-L6 and without having learned."""
    import torch
    from transformers import BertConfig, BertModel
    wide = work / "wide"
    shutil.copytree(folder, wide, dirs_exist_ok=True)
    config = BertConfig.from_pretrained(folder, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(wide)
    return wide


def ranking_loss(model, x):
    """Each anchor (the first half of the texts) finds its own among the others; equal texts share."""
    import torch
    keep = x["attention_mask"]
    rows = model(input_ids=x["input_ids"], attention_mask=keep).last_hidden_state
    mean = (rows * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
    anchors, others = torch.nn.functional.normalize(mean, dim=-1).chunk(2)
    ids = x["input_ids"][len(anchors):]
    same = (ids[:, None] == ids[None, :]).all(-1).float()
    return torch.nn.functional.cross_entropy(anchors @ others.T / TEMPERATURE, same / same.sum(1, keepdim=True))


def repeat(a, dump, rates, turns):
    import torch
    from transformers import BertModel
    torch.set_num_threads(a.threads)
    model = BertModel.from_pretrained(dump, attn_implementation="sdpa", dtype=torch.float32, add_pooling_layer=False).eval()  # no dropout
    return take_steps(dump, rates, turns, model, lambda x: ranking_loss(model, x))


def filling(dump, steps):
    """The share of the batches' ids that only fills them up."""
    from safetensors.numpy import load_file
    shares = [1 - load_file(x)["attention_mask"].mean() for x in sorted(dump.glob("step-*.safetensors"))[:steps]]
    return round(float(sum(shares) / len(shares)), 3)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("engine", "model", "work"):
        p.add_argument(f"--{name}", type=Path, required=True)
    p.add_argument("--data", type=Path)
    for name, value in (("steps", 12), ("batch", 16), ("context", 128), ("threads", 2), ("warmup", 5)):
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--wide", action="store_true")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    a.data = a.data or descriptions(a.work / "descriptions.jsonl")
    a.model = widened(a.model, a.work) if a.wide else a.model
    sys.exit(compare(a, repeat, filling=lambda: filling(a.work / "dump", a.steps)) > 1e-3)


if __name__ == "__main__":
    main()
