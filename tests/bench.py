"""`ocelli bench` answers: every line is JSON with the fields that it promises, and figures are finite and positive. How large they are is no test's business.

    bench.py PROGRAM      prints TAP"""
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import tap
from ocelli_run import CASES, Program, load, save

MODEL = CASES / "clip" / "model"
program = Program(sys.argv[1])
tmp = Path(tempfile.mkdtemp(prefix="ocelli-bench-"))
PARTS = {"tile", "attention", "rows", "convert"}


def lines(*args, **more):
    return [json.loads(x) for x in program.good("bench", *args, "--json", "--seconds", 0.001, "--threads", 1, **more).out.splitlines()]


def positive(line, *names):
    for name in names:
        assert math.isfinite(line[name]) and line[name] > 0, f"{name} of {line}"


def kernels():
    machine, *rows = lines("kernels", "tile", "attention", "rows", "convert")
    positive(machine, "fma_gflop_s", "read_gb_s", "threads")
    assert {r["kernel"] for r in rows} == PARTS, rows
    for r in rows:
        positive(r, "ms", "best_ms", "share", "rounds", "gb_s" if "gb_s" in r else "gflop_s")
        assert r["best_ms"] <= r["ms"] and r["tier"] == machine["tier"]
    assert len({(r["kernel"], r["what"]) for r in rows}) == len(rows), "a line appears twice"


def models():
    for words in ([], ["--texts"], ["--whole"]):
        rows = lines("model", "--model", MODEL, "--batch", "1,3", *words)
        assert [r["batch"] for r in rows] == [1, 3] and {r["what"] for r in rows} == {"text" if "--texts" in words else "image"}
        for r in rows:
            positive(r, "ms", "best_ms", "per_s", "gflop", "share", "load_ms", "first_ms", "weights_bytes", "arena_bytes")
    skipped, whole = lines("model", "--model", MODEL, "--batch", 2)[0], lines("model", "--model", MODEL, "--batch", 2, "--whole")[0]
    assert skipped["gflop"] < whole["gflop"], "nothing is left out"


def drawn():
    """A folder of config.json alone."""
    folder = tmp / "empty"
    folder.mkdir()
    shutil.copy(MODEL / "config.json", folder)
    positive(lines("model", "--model", folder, "--batch", 1)[0], "ms", "share")


def given_inputs():
    """What is measured are the embeddings: with and without the rows that nobody reads, and as `forward` gives them."""
    config = json.loads((MODEL / "config.json").read_text())
    side = config["vision_config"]["image_size"]
    pixels = np.random.default_rng(0).standard_normal((3, 3, side, side)).astype(np.float32)
    save({"pixel_values": pixels}, tmp / "in")
    for words in ([], ["--whole"]):
        lines("model", "--model", MODEL, "--batch", 3, "--in", tmp / "in", "--out", tmp / "".join(["out", *words]), *words)
    program.good("forward", "--model", MODEL, "--in", tmp / "in", "--out", tmp / "forward")
    got, whole, forward = (load(tmp / n) for n in ("out", "out--whole", "forward"))
    assert np.array_equal(got["image_embeds"], whole["image_embeds"]), "leaving rows out changes the answer"
    truth = forward["vision_model_output.pooler_output"]
    assert np.abs(got["image_embeds"] - truth).max() <= 1e-4 * np.abs(truth).max(), "the embeddings are not those of forward"


def by_lines():
    out = program.good("bench", "model", "--model", MODEL, "--batch", 4, "--stdin", "--threads", 1, text="image 4 3\ntext 1\n").out.splitlines()
    image, text = map(json.loads, out)
    assert len(image["ms"]) == 3 and len(text["ms"]) == 1 and min(image["ms"] + text["ms"]) > 0


def a_step_of_training():
    row = lines("train", "--model", MODEL, "--batch", 4)[0]
    positive(row, "ms", "best_ms", "per_s", "loss", "arena_bytes")
    assert row["what"] == "train" and row["batch"] == 4
    inputs = MODEL.parent / "in.safetensors"
    out = program.good("bench", "train", "--model", MODEL, "--in", inputs, "--stdin", "--threads", 1, text="train 1\ntrain 4\n").out.splitlines()
    first, rest = map(json.loads, out)
    losses = first["loss"] + rest["loss"]
    assert len(rest["ms"]) == 4 and losses == sorted(losses, reverse=True) and losses[0] > losses[-1], f"nothing is learnt: {losses}"
    truth = load(MODEL.parent / "grad.safetensors")["loss"]
    assert abs(losses[0] - truth) <= 1e-5, f"the first loss is {losses[0]}, the reference's {truth}"


def speaking():
    for model in ("gpt2", "llama"):
        rows = lines("speak", "--model", CASES / model / "model", "--batch", "1,3")
        assert [(r["what"], r["texts"]) for r in rows] == [("prompt", 1), ("decode", 1), ("decode", 3)], rows
        for r in rows:
            positive(r, "ms", "per_s", "tokens", "weights_read_bytes", "machine_gb_s", "arena_bytes")
    asked = "prompt 5\ndecode 2 3\n"
    out = program.good("bench", "speak", "--model", CASES / "opt" / "model", "--stdin", "--json", "--threads", 1, text=asked).out.splitlines()
    assert [(x["what"], x["texts"], x["tokens"]) for x in map(json.loads, out)] == [("prompt", 1, 5), ("decode", 2, 6)], out


def refused():
    program.fails("bench", "speak", "--model", MODEL, says="does not generate")
    program.fails("bench", "speak", says="--model")
    program.fails("bench", "speak", "--model", CASES / "gpt2" / "model", "--stdin", "--quiet", says="prompt TOKENS", text="prompt 100000\n")
    program.fails("bench", "speak", "--model", CASES / "gpt2" / "model", "--batch", "0", says="--batch")
    program.fails("bench", code=2, says="kernels")
    program.fails("bench", "nonsense", says="nonsense")
    program.fails("bench", "kernels", "nonsense", says="nonsense")
    program.fails("bench", "model", "--model", MODEL, "--batch", "1,x", says="--batch")
    program.fails("bench", "train", "--model", MODEL, "--batch", "1,2", says="--batch")
    program.fails("bench", "train", "--model", MODEL, "--stdin", "--quiet", says="train STEPS", text="train 0\n")
    program.fails("bench", "kernels", "machine", "--cpu", "nonsense", says="nonsense")
    program.fails("bench", "model", "--model", MODEL, "--batch", 2, "--stdin", says="image", text="picture 2\n")
    program.fails("bench", "model", "--model", MODEL, "--batch", 2, "--stdin", "--quiet", says="room for 2", text="image 3\n")


def main():
    tap.check("kernels", kernels)
    tap.check("pictures and texts", models)
    tap.check("random weights where there is only config.json", drawn)
    tap.check("inputs from a file, outputs into one", given_inputs)
    tap.check("measured line by line", by_lines)
    tap.check("a step of training", a_step_of_training)
    tap.check("a language model's prompt and tokens", speaking)
    tap.check("what makes no sense is refused", refused)
    shutil.rmtree(tmp)
    tap.finish()


main()
