#!/usr/bin/env python3
"""Shows the answers of questions.md with the engine's own ops: docs/show.py NAME (scale, heads, masks, beginnings, positions, distance, norms, batch, clip, lora, dora, cache).

Each writes a small model of building blocks (config.json lists them, src/model/blocks.c runs them), calls `ocelli forward` and prints the numbers.
Needs numpy. OCELLI names another program than build/ocelli."""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from ocelli_run import CASES, load, save  # noqa: E402

PROGRAM = os.environ.get("OCELLI", str(ROOT / "build" / "ocelli"))
rng = np.random.default_rng(2)


def forward(model, inputs, *more):
    with tempfile.TemporaryDirectory() as tmp:
        save(inputs, f"{tmp}/in")
        subprocess.run([PROGRAM, "forward", "--model", model, "--in", f"{tmp}/in", "--out", f"{tmp}/out", *more], check=True, stdout=subprocess.DEVNULL)
        return load(f"{tmp}/out")


def block(op, inputs, params=None, out_gradient=None, **settings):
    """One building block by itself: its output, or with out_gradient all that `forward --grad` gives."""
    with tempfile.TemporaryDirectory() as tmp:
        one = {"name": "b", "op": op, "inputs": list(inputs), "params": list(params or {}), **settings}
        Path(tmp, "config.json").write_text(json.dumps({"model_type": "ocelli_blocks", "architectures": ["OcelliBlocks"], "blocks": [one]}))
        save({f"b.{k}": v.astype(np.float32) for k, v in (params or {}).items()}, f"{tmp}/model.safetensors")
        given = {f"b.{k}": v if v.dtype == np.int64 else v.astype(np.float32) for k, v in inputs.items()}
        if out_gradient is None:
            return forward(tmp, given)["b.out"]
        return forward(tmp, {**given, "b.grad_out": out_gradient.astype(np.float32)}, "--grad")


def rows(matrix, indent="  ", digits=3):
    for row in np.atleast_2d(matrix):
        print(indent + " ".join(f"{x:7.{digits}f}" for x in row + 0.0))


def weights_of(q, k, **how):
    """Attention gives softmax(..) v: with the unit matrix for v that is the weights themselves. One head [T, d]."""
    t = len(k)
    more = {"key_mask": how.pop("mask")} if "mask" in how else {}
    return block("attention", {"q": q[None, None], "k": k[None, None], "v": np.eye(t)[None, None], **more}, **how)[0, 0]


def scale():
    d, q, k = 64, rng.normal(size=(200, 64)), rng.normal(size=(6, 64))
    right, page = weights_of(q, k), block("softmax", {"x": (q @ k.T)[None]})[0] / np.sqrt(d)
    print("scaled before the softmax, softmax(q k^T / 8) v: the weights of word 0, and their sum")
    rows(np.append(right[0], right[0].sum()))
    print("scaled after it, (softmax(q k^T) / 8) v, as the page's first listing has it")
    rows(np.append(page[0], page[0].sum()))
    slope = lambda w: (w * (1 - w)).sum(1).mean()
    print(f"what a gradient finds there, the mean of sum w (1 - w) over 200 words: {slope(right):.3f} and {slope(page * 8):.3f}")


def heads():
    x, w = rng.normal(size=(1, 5, 8)), {f"{p}.weight": rng.normal(size=(8, 8)) / 3 for p in ("q_proj", "k_proj", "v_proj", "out_proj")}
    w |= {k.replace("weight", "bias"): np.zeros(8) for k in list(w)}
    y = {h: block("multi_head_attention", {"x": x}, w, heads=h) for h in (1, 2, 4)}
    print(f"in {x.shape}, out {y[2].shape}, weights {sum(v.size for v in w.values())} whatever the number of heads")
    for h in (1, 2, 4):
        print(f"  heads {h}, width {8 // h}: word 0 -> " + " ".join(f"{v:6.3f}" for v in y[h][0, 0, :4]) + " ...")


def masks():
    q, k = rng.normal(size=(4, 8)), rng.normal(size=(4, 8))
    print("causal: word i sees words 0..i, itself too")
    rows(weights_of(q, k, causal=True))
    print("padding: words 2 and 3 are filling")
    rows(weights_of(q, k, mask=np.array([[1, 1, 0, 0]])))
    print("both, and word 0 is filling: row 0 sees nothing and is zero")
    rows(weights_of(q, k, causal=True, mask=np.array([[0, 1, 1, 1]])))


def beginnings():
    """Two texts that begin alike: how far apart their rows are, word by word."""
    ids = np.array([[5, 9, 7, 30, 2, 8], [5, 9, 7, 41, 2, 8]])
    print("two texts that differ in word 3, the largest difference between their rows of words 0 to 5")
    for case, key, what in (("clip", "text_model_output.last_hidden_state", "CLIP's text tower, which is causal"), ("bert", "last_hidden_state", "BERT, which sees both ways")):
        x = forward(CASES / case / "model", {"input_ids": ids})[key]
        print(what)
        rows(np.abs(x[0] - x[1]).max(axis=1), digits=1)


def positions():
    x, order = rng.normal(size=(1, 5, 8)), [3, 0, 4, 1, 2]
    w = {f"{p}.{kind}": rng.normal(size=(8, 8)[:n]) / 3 for p in ("q_proj", "k_proj", "v_proj", "out_proj") for kind, n in (("weight", 2), ("bias", 1))}
    attend = lambda x: block("multi_head_attention", {"x": x}, w, heads=2)
    place = lambda x: block("sinusoidal_position", {"x": x})
    print(f"words shuffled, outputs shuffled back, without positions: largest difference {np.abs(attend(x)[:, order] - attend(x[:, order])).max():.4f}")
    print(f"the same with sine and cosine positions added first:      largest difference {np.abs(attend(place(x))[:, order] - attend(place(x[:, order]))).max():.4f}")
    print("sine and cosine positions 0, 1, 2 of width 8")
    rows(place(np.zeros((1, 3, 8)))[0])
    q, k = rng.normal(size=8), rng.normal(size=8)
    turn = lambda v, at: block("rope", {"x": v[None, None, None]}, theta=10000.0, offset=at)[0, 0, 0]
    print("rotary positions: q at a, k at b, their product depends on a - b alone")
    for a, b in ((5, 2), (105, 102), (5, 4)):
        print(f"  a={a:3d} b={b:3d}: {turn(q, a) @ turn(k, b):.5f}")


def distance():
    print("one word that fits the last word's question, so many words before it: its weight, and the gradient that reaches it")
    for t in (10, 100, 1000):
        k = rng.normal(size=(t, 32)) * 0.1
        k[0] = 0
        k[0, 0] = 9
        q, out = np.zeros((1, 1, 1, 32)), np.zeros((1, 1, 1, 1))
        q[0, 0, 0, 0], out[0] = 9, 1
        got = block("attention", {"q": q, "k": k[None, None], "v": np.ones((1, 1, t, 1))}, out_gradient=out)
        print(f"  {t - 1:4d} words away: weight {got['grad.b.v'][0, 0, 0, 0]:.4f}; scores computed for all words: {t * t}")


def norms():
    x = rng.normal(3, 5, (2, 3, 6))
    one = {"weight": np.ones(6), "bias": np.zeros(6)}
    y, alone = block("layer_norm", {"x": x}, one), block("layer_norm", {"x": x[:1]}, one)
    print("layer norm, word by word: mean and variance before and after")
    for i in range(3):
        print(f"  {x[0, i].mean():6.2f} {x[0, i].var():6.2f} -> {abs(y[0, i].mean()):.4f} {y[0, i].var():.4f}")
    print(f"a sentence alone and beside another: {'the same bits' if (alone == y[:1]).all() else 'differ'}")


def batch():
    x, w = rng.normal(3, 2, (4, 2)), {"weight": np.ones(2), "bias": np.zeros(2), "running_mean": np.zeros(2), "running_var": np.ones(2)}
    with_other = np.concatenate([x[:1], x[1:] * 3])
    run = lambda x, training: block("batch_norm", {"x": x}, w, training=training, momentum=0.1, eps=1e-5)
    print("training, by the batch's own mean and variance")
    rows(run(x, True))
    print("evaluating, by the running ones (still 0 and 1)")
    rows(run(x, False))
    with_stats = block("batch_norm", {"x": x}, w, out_gradient=np.zeros((4, 2)), training=True, momentum=0.1, eps=1e-5)
    print(f"after one step of training: running mean {with_stats['b.running_mean'][0]:.4f} = 0.9 * 0 + 0.1 * {x[:, 0].mean():.4f}, "
          f"running variance {with_stats['b.running_var'][0]:.4f} = 0.9 * 1 + 0.1 * {x[:, 0].var(ddof=1):.4f}")
    for name, training in (("training", True), ("evaluating", False)):
        moved = np.abs(run(x, training)[0] - run(with_other, training)[0]).max()
        print(f"other samples in the batch move sample 0 by {moved:.4f} when {name}")


def clip():
    root = CASES / "clip"
    got, want = forward(root / "model", load(root / "in.safetensors"), "--grad"), load(root / "grad.safetensors")
    logits = got["logits_per_text"].astype(np.float64)
    log_softmax = lambda z: z - np.log(np.exp(z).sum(1, keepdims=True))
    each = [-np.diag(log_softmax(z)).mean() for z in (logits, logits.T)]
    print("logits: exp(logit_scale) times the cosine of text i and picture j")
    rows(logits, digits=2)
    print(f"texts find their pictures: {each[0]:.5f}; pictures their texts: {each[1]:.5f}; half of each: {np.mean(each):.5f}")
    print(f"the engine's loss: {got['loss']:.5f}; PyTorch's: {want['loss']:.5f}")


def lora():
    w, b, x = rng.normal(size=(6, 8)), np.zeros(6), rng.normal(size=(3, 8))
    a, up, s = rng.normal(size=(2, 8)), rng.normal(size=(6, 2)), 2.0
    run = lambda up: block("lora_linear", {"x": x}, {"weight": w, "bias": b, "lora_A": a, "lora_B": up}, scale=s)
    print(f"W has {w.size} numbers, A and B of rank 2 have {a.size + up.size}; for 768 x 768 and rank 8 that is {768 * 768} and {2 * 8 * 768}")
    print(f"B = 0, as training begins: largest difference to x W^T {np.abs(run(np.zeros((6, 2))) - x @ w.T).max():.4f}")
    print(f"applied beside W, against merged into W + s B A: {np.abs(run(up) - x @ (w + s * up @ a).T).max():.4f}")
    root = CASES / "lora_clip"
    got = forward(root / "model", load(root / "in.safetensors"), "--grad", "--lora", str(root / "adapter"))
    names = [k for k in got if k.startswith("grad.")]
    learns, whole = sum(got[k].size for k in names), sum(v.size for v in load(root / "model" / "model.safetensors").values() if v.dtype.kind == "f")
    print(f"CLIP with an adapter: {len(names)} tensors get a gradient, all of them A or B: {learns} numbers beside {whole}")


def gradients(case, adapter):
    root = CASES / case
    got = forward(root / "model", load(root / "in.safetensors"), "--grad", "--lora", str(adapter))
    return {k: v for k, v in got.items() if k.startswith("grad.")}, got["logits"]


def copied(folder, to, change=lambda name, x: x, **settings):
    """An adapter with other numbers or settings."""
    config = {**json.loads((folder / "adapter_config.json").read_text()), **settings}
    Path(to, "adapter_config.json").write_text(json.dumps(config))
    save({k: change(k, v) for k, v in load(folder / "adapter_model.safetensors").items()}, Path(to, "adapter_model.safetensors"))
    return Path(to)


def dora():
    adapter = CASES / "lora_dora" / "adapter"
    base = load(CASES / "lora_dora" / "model" / "model.safetensors")
    length = lambda name: np.linalg.norm(base[name.removeprefix("base_model.model.").replace("lora_magnitude_vector", "weight")].astype(np.float64), axis=1)
    with tempfile.TemporaryDirectory() as tmp:
        begin = copied(adapter, tmp, lambda k, v: 0 * v if "lora_B" in k else length(k).astype(np.float32) if "magnitude" in k else v)
        plain = forward(CASES / "lora_dora" / "model", load(CASES / "lora_dora" / "in.safetensors"))["logits"]
        print(f"DoRA, B = 0 and m the lengths of W's rows: largest difference to the plain model {np.abs(gradients('lora_dora', begin)[1] - plain).max():.4f}")
    kinds = {}
    for k, v in gradients("lora_dora", adapter)[0].items():
        kind = next(x for x in ("lora_A", "lora_B", "magnitude") if x in k)
        kinds[kind] = kinds.get(kind, 0) + v.size
    print("what learns: " + ", ".join(f"{v} numbers in {k}" for k, v in kinds.items()))
    adapter = CASES / "lora_rslora" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    alpha, r = config["lora_alpha"], config["r"]
    with tempfile.TemporaryDirectory() as tmp:
        same = copied(adapter, tmp, use_rslora=False, lora_alpha=alpha * r ** 0.5)
        print(f"rsLoRA scales by alpha / sqrt(r) = {alpha / r ** 0.5:.4f}, not alpha / r = {alpha / r:.4f}; plain LoRA with alpha sqrt(r): "
              f"largest difference {np.abs(gradients('lora_rslora', adapter)[1] - gradients('lora_rslora', same)[1]).max():.4f}")


def cache():
    model, words, new = CASES / "mistral" / "model", "The old clock", 12
    run = lambda *args, text=None: json.loads(subprocess.run([PROGRAM, *args], check=True, capture_output=True, text=True, input=text).stdout)
    kept = run("generate", "--model", model, "--prompt", words, "--max-new-tokens", str(new), "--json", "--quiet")["ids"]
    ids = run("tokenize", "--model", model, "--json", text=words + "\n")
    first = len(ids)
    while len(ids) < first + new:
        whole = np.array([ids], dtype=np.int64)
        ids.append(int(forward(model, {"input_ids": whole, "attention_mask": np.ones_like(whole)})["logits"][0, -1].argmax()))
    print(f"{new} words after {first}, read anew for each word or kept: {'the same' if ids[first:] == kept else 'others'}")
    print(f"rows that go through the layers: {sum(range(first, first + new))} and {first + new - 1}")
    print(f"kept for each position: {run('info', '--json', model)['cache_bytes_per_position']} bytes, all layers' keys and values")


SHOWS = {f.__name__: f for f in (scale, heads, masks, beginnings, positions, distance, norms, batch, clip, lora, dora, cache)}
if len(sys.argv) != 2 or sys.argv[1] not in SHOWS:
    sys.exit(f"usage: show.py {'|'.join(SHOWS)}")
SHOWS[sys.argv[1]]()
