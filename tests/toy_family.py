"""A family is one new file and one line: does to a copy of the tree what CONTRIBUTING.md says, and runs the result.

    toy_family.py PROGRAM      prints TAP (PROGRAM is not used: this one builds its own)"""
import json
import math
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import tap
from ocelli_run import HERE, Program, load, save

ROOT = HERE.parent
tmp = Path(tempfile.mkdtemp(prefix="ocelli-toy-"))
SIDE, HIDDEN, LABELS, BATCH = 6, 10, 4, 5


def shell(*args):
    got = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    assert got.returncode == 0, got.stdout[-1500:] + got.stderr[-500:]


def add_family():
    tree = tmp / "tree"
    for name in ["src", "include"]:
        shutil.copytree(ROOT / name, tree / name)
    shutil.copy(ROOT / "meson.build", tree)
    (tree / "tests").mkdir()
    (tree / "tests" / "meson.build").write_text("")
    shutil.copy(HERE / "toy_family.c", tree / "src" / "model" / "toy.c")  # the file
    table = tree / "src" / "model" / "families.c"
    text = table.read_text()
    assert text.count("    FAMILY(clip) \\\n") == 1
    table.write_text(text.replace("    FAMILY(clip) \\\n", "    FAMILY(clip) \\\n    FAMILY(toy) \\\n"))  # the line
    shell("meson", "setup", tmp / "build", tree, "-Dbuildtype=debug", "-Dwerror=true")
    shell("ninja", "-C", tmp / "build", "ocelli")


def write_model():
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(0, 0.3, shape).astype(np.float32)
    weights = {"fc1.weight": draw(HIDDEN, 3 * SIDE * SIDE), "fc1.bias": draw(HIDDEN), "fc2.weight": draw(LABELS, HIDDEN), "fc2.bias": draw(LABELS)}
    (tmp / "model").mkdir()
    (tmp / "model" / "config.json").write_text(json.dumps({"model_type": "toy", "architectures": ["ToyForImageClassification"], "image_size": SIDE,
                                                           "hidden_size": HIDDEN, "num_labels": LABELS}))
    save(weights, tmp / "model" / "model.safetensors")
    inputs = {"pixel_values": draw(BATCH, 3, SIDE, SIDE), "labels": rng.integers(0, LABELS, BATCH)}
    save(inputs, tmp / "in")
    return weights, inputs


def expected(w, inputs):
    """Logits, loss and gradients in double."""
    w = {k: v.astype(np.float64) for k, v in w.items()}
    x, labels = inputs["pixel_values"].reshape(BATCH, -1).astype(np.float64), inputs["labels"]
    h = x @ w["fc1.weight"].T + w["fc1.bias"]
    phi = 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    a = h * phi
    logits = a @ w["fc2.weight"].T + w["fc2.bias"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    d = (p - np.eye(LABELS)[labels]) / BATCH
    dh = d @ w["fc2.weight"] * (phi + h * np.exp(-h * h / 2) / math.sqrt(2 * math.pi))
    return {"logits": logits, "loss": -np.log(p[np.arange(BATCH), labels]).mean(), "grad.fc2.weight": d.T @ a, "grad.fc2.bias": d.sum(0),
            "grad.fc1.weight": dh.T @ x, "grad.fc1.bias": dh.sum(0)}


def answers(program, weights, inputs):
    program.good("forward", "--model", tmp / "model", "--in", tmp / "in", "--out", tmp / "out", "--grad")
    got, want = load(tmp / "out"), expected(weights, inputs)
    assert set(got) == set(want), set(got)
    for name, ref in want.items():
        assert np.abs(got[name] - ref).max() < 1e-5 * max(1, np.abs(ref).max()), name


def info(program, weights):
    got = json.loads(program.good("info", "--json", tmp / "model").out)
    assert got["family"] == "toy" and got["parameters"] == sum(v.size for v in weights.values()), got


def main():
    if tap.check("one file and one line build", add_family):
        program = Program(tmp / "build" / "ocelli")
        weights, inputs = write_model()
        tap.check("info knows the family", info, program, weights)
        tap.check("forward gives its logits, loss and gradients", answers, program, weights, inputs)
        save({"pixel_values": inputs["pixel_values"]}, tmp / "unlabelled")
        tap.check("its own errors are said", program.fails, "forward", "--model", tmp / "model", "--in", tmp / "unlabelled", "--out", tmp / "x", "--grad",
                  says="labels")
    shutil.rmtree(tmp)
    tap.finish()


main()
