"""Training on a tiny data set: resumed runs are bit-equal, accumulation equals the whole batch, LoRA leaves the model alone.

    training.py PROGRAM      prints TAP"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import tap
import tiny_data
from ocelli_run import CASES, Program, load, tiers

MODEL = CASES / "clip" / "model"
STEPS = 8
program = Program(sys.argv[1])
tmp = Path(tempfile.mkdtemp(prefix="ocelli-training-"))
data = tiny_data.write(tmp / "data")


def arguments(out, *more, command="train", start=None):
    return [command, *(start or ["--config", MODEL]), "--data", data, "--out", tmp / out, "--steps", STEPS, "--batch", 6, "--lr", "2e-3", "--seed", 3,
            "--metrics", tmp / (out + ".jsonl"), "--quiet", *more]


def train(out, *more, code=0, **how):
    env = how.pop("env", None)
    got = program.run(*arguments(out, *more, **how), env=env)
    assert got.returncode == code, f"exit {got.returncode} instead of {code}: {got.err[-300:]}"
    return got


def result(out, name="model.safetensors"):
    return (tmp / out / name).read_bytes()


def metrics(out):
    lines = [json.loads(x) for x in (tmp / (out + ".jsonl")).read_text().splitlines()]
    return [{k: v for k, v in x.items() if k != "pairs_per_s"} for x in lines]


def same(a, b):
    assert result(a) == result(b), f"the weights of '{a}' and '{b}' differ"
    assert result(a, "checkpoint.safetensors") == result(b, "checkpoint.safetensors"), "the checkpoints differ"
    assert {x["step"]: x for x in metrics(a)} == {x["step"]: x for x in metrics(b)}, "the metrics differ"


def no_litter(out):
    litter = [p.name for p in (tmp / out).iterdir() if ".tmp" in p.name]
    assert not litter, f"left behind: {litter}"


# ---- a whole run ---------------------------------------------------------------------------------------------------


def whole():
    train("whole")
    assert [x["step"] for x in metrics("whole")] == list(range(1, STEPS + 1))
    for x in (json.loads(x) for x in (tmp / "whole.jsonl").read_text().splitlines()):
        assert {"step", "loss", "lr", "pairs_per_s"} <= set(x)
    no_litter("whole")


def it_learns():
    train("learns", "--steps", 120, "--augment", 0)
    loss = [x["loss"] for x in metrics("learns")]
    assert np.mean(loss[-10:]) < 0.5 * np.mean(loss[:5]), f"the loss went from {loss[0]} to {loss[-1]}"


def it_is_a_model():
    got = json.loads(program.good("info", "--json", tmp / "whole").out)
    assert got["family"] == "clip" and got["parameters"] > 0
    row = json.loads(program.good("embed", "--model", tmp / "whole", "--json", "--text", "红色的圆").out)
    assert len(row["embedding"]) == got["embedding"]
    mine, theirs = load(tmp / "whole" / "model.safetensors"), load(MODEL / "model.safetensors")
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items() if "position_ids" not in k}


def threads(n):
    train(f"threads{n}", "--threads", n)
    same("whole", f"threads{n}")


def other_seeds_differ():
    train("seed", "--seed", 4)
    assert result("seed") != result("whole")


# ---- stopping and going on --------------------------------------------------------------------------------------------


def stopped(at, *more):
    out = f"stopped{at}{len(more)}"
    train(out, "--stop-after", at, *more, code=1)
    assert not (tmp / out / "model.safetensors").exists()
    train(out, *more)
    return out


def resumed(at):
    same("whole", stopped(at))


def resumed_with_average():
    more = ["--ema", "0.9", "--texts", 2, "--micro", 3]
    train("average", *more)
    same("average", stopped(3, *more))


def resumed_with_muon():
    more = ["--muon-lr", "0.01"]
    train("muon", *more)
    same("muon", stopped(5, *more))


def start(out, *more):
    return subprocess.Popen([program.path, *map(str, arguments(out, *more))], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(path, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.002)
    assert path.exists(), f"no {path.name} after {seconds} s"


LONG = ["--steps", 60, "--checkpoint-minutes", "0.00001"]


def interrupted():
    run = start("interrupted", *LONG)
    wait_for(tmp / "interrupted" / "checkpoint.safetensors")
    run.send_signal(signal.SIGINT)
    err = run.communicate(timeout=120)[1].decode()
    assert run.returncode == 1, f"exit {run.returncode}: {err}"
    train("interrupted", *LONG)
    same("long", "interrupted")
    no_litter("interrupted")


def killed():
    """kill -9 at moments that sweep over a step and the checkpoint after it: the file is always whole, and the run goes on."""
    kills = 0
    for i in range(12):
        before = (tmp / "killed" / "checkpoint.safetensors")
        stamp = before.stat().st_mtime_ns if before.exists() else 0
        run = start("killed", *LONG)
        end = time.monotonic() + 60
        while run.poll() is None and time.monotonic() < end and (not before.exists() or before.stat().st_mtime_ns == stamp):
            time.sleep(0.001)
        time.sleep(0.0013 * i)
        if run.poll() is None:
            run.kill()
            kills += 1
        run.communicate()
        tensors = load(before)
        assert tensors and all(np.isfinite(t).all() for t in tensors.values()), "a broken checkpoint"
    assert kills >= 3, f"only {kills} runs lived long enough to be killed"
    train("killed", *LONG)
    same("long", "killed")
    assert [x["step"] for x in metrics("killed")] == list(range(1, 61)), "a step's line is missing or there twice"


def two_at_once():
    """The second run on one folder is refused, and the first one's lock goes with it, even by kill -9."""
    run = start("shared", *LONG, "--steps", 100000)
    wait_for(tmp / "shared" / "checkpoint.safetensors")
    program.fails(*arguments("shared", *LONG, "--steps", 100000), says="another run writes there")
    run.kill()
    run.communicate()
    train("shared", *LONG, "--steps", 100000, "--stop-after", 1, code=1)


def cut_metrics():
    """Lines that a killed run wrote after its checkpoint go, with half a line; an earlier run's lines stay."""
    file = tmp / "cut.jsonl"
    earlier = '{"step":7,"loss":1}\nnot ours\n{"step":9,"loss":1}\n{"step":1,"loss":2}\n'
    train("cut", "--stop-after", 4, code=1)
    file.write_text(earlier + file.read_text() + '{"step":5,"loss":1}\n{"step":6,"loss":1}\n{"step":7,"lo')
    train("cut")
    assert file.read_text().startswith(earlier)
    assert [json.loads(x)["step"] for x in file.read_text()[len(earlier):].splitlines()] == list(range(1, STEPS + 1))


def other_settings():
    train("other", "--stop-after", 2, code=1)
    program.fails(*arguments("other", "--lr", "1e-3"), says=["checkpoint.safetensors", "settings", "--fresh"])
    train("other", "--lr", "1e-3", "--fresh")


def other_tier():
    can, _ = tiers(program)
    train("tier", "--stop-after", 2, code=1, env={"OCELLI_CPU": can[0]})
    got = program.good(*[x for x in arguments("tier") if x != "--quiet"], env={"OCELLI_CPU": can[-1]})
    assert len(can) == 1 or "other kernels" in got.err, got.err


def damaged(cut):
    out = f"damaged{cut}"
    shutil.copytree(tmp / "other", tmp / out)
    path = tmp / out / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    program.fails(*arguments(out, "--lr", "1e-3"), says="checkpoint.safetensors")


def missing_picture():
    bad = tmp / "data" / "bad.jsonl"
    bad.write_text(data.read_text() + '{"image": "absent.png", "text": "nothing"}\n')
    args = [bad if x == data else x for x in arguments("missing", "--steps", 12)]
    got = program.run(*args)
    assert got.returncode == 0 or "absent.png" in got.err, got.err
    if got.returncode == 0:
        assert "absent.png" in program.run(*[x for x in args if x != "--quiet"], "--fresh").err, "a dropped picture is not named"


# ---- accumulation -----------------------------------------------------------------------------------------------------------


def accumulated(micro):
    out = f"micro{micro}"
    train(out, "--micro", micro)
    whole, parts = metrics("whole"), metrics(out)
    for a, b in zip(whole, parts):
        assert abs(a["loss"] - b["loss"]) < 2e-4 * abs(a["loss"]), f"step {a['step']}: loss {a['loss']} and {b['loss']}"
    assert abs(whole[0]["grad_norm"] - parts[0]["grad_norm"]) < 1e-4 * whole[0]["grad_norm"]
    a, b = load(tmp / "whole" / "model.safetensors"), load(tmp / out / "model.safetensors")
    moved = np.sqrt(sum(((a[k] - v.astype(np.float64)) ** 2).sum() for k, v in load(tmp / "first" / "model.safetensors").items()))
    apart = np.sqrt(sum(((a[k] - b[k].astype(np.float64)) ** 2).sum() for k in a))
    assert apart < 0.02 * moved, f"the weights moved by {moved}, and lie {apart} apart"


def wrong_micro():
    program.fails(*arguments("wrong", "--micro", 4), says=["6", "4"])


# ---- LoRA ----------------------------------------------------------------------------------------------------------------------


def folder_bytes(folder):
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir()) if p.is_file()}


LORA = {"command": "finetune", "start": ["--model", MODEL]}


def lora():
    before = folder_bytes(MODEL)
    train("lora", "--rank", 4, **LORA)
    assert folder_bytes(MODEL) == before, "the model itself changed"
    names = set(folder_bytes(tmp / "lora"))
    assert names == {"adapter_config.json", "adapter_model.safetensors", "checkpoint.safetensors"}, names
    factors = load(tmp / "lora" / "adapter_model.safetensors")
    assert factors and all("lora_A" in k or "lora_B" in k for k in factors)
    assert all(np.abs(v).max() > 0 for k, v in factors.items() if "lora_B" in k and ".k_proj." not in k), "a factor did not learn"
    config = json.loads((tmp / "lora" / "adapter_config.json").read_text())
    assert config["r"] == 4 and config["peft_type"] == "LORA"


def embedding(*args):
    return np.array(json.loads(program.good("embed", "--json", *args, "--text", "a red disc").out)["embedding"])


def lora_is_applied():
    plain, adapted = embedding("--model", MODEL), embedding("--model", MODEL, "--lora", tmp / "lora")
    none = embedding("--model", MODEL, "--lora", f"{tmp / 'lora'}:0.000001")
    assert np.abs(plain - adapted).max() > 1e-3 * np.abs(plain).max(), "the adapter changes nothing"
    assert np.abs(plain - none).max() < 1e-4 * np.abs(plain).max(), "an adapter at scale 0 changes something"
    program.good("merge", "--model", MODEL, "--lora", tmp / "lora", "--out", tmp / "merged")
    merged = embedding("--model", tmp / "merged")
    assert np.abs(merged - adapted).max() < 1e-5 * np.abs(adapted).max(), "merged and applied differ"


def lora_resumed():
    train("lora2", "--rank", 4, "--stop-after", 3, code=1, **LORA)
    train("lora2", "--rank", 4, **LORA)
    assert result("lora", "adapter_model.safetensors") == result("lora2", "adapter_model.safetensors")


def lora_threads():
    train("lora7", "--rank", 4, "--threads", 7, **LORA)
    assert result("lora", "adapter_model.safetensors") == result("lora7", "adapter_model.safetensors")


def kin_batches():
    """With --kin 1 every batch is of one colour, without it hardly any; the partners of what was drawn are of that kin too."""
    kin = tmp / "data" / "kin.jsonl"
    kin.write_text("".join(json.dumps({**x, "kin": x["group"].split()[0]}) + "\n" for x in map(json.loads, data.read_text().splitlines())))

    def colors(out, *more):
        args = [kin if x == data else x for x in arguments(out, "--augment", 0, "--partners", 1, "--dump", tmp / (out + "-dump"), *more)]
        assert program.run(*args).returncode == 0
        batches = [load(p)["pixel_values"] for p in sorted((tmp / (out + "-dump")).glob("step-*"))]
        assert len(batches) == STEPS
        side = batches[0].shape[-1] // 2
        rounded = [{tuple(np.round(picture[:, side, side], 1)) for picture in b} for b in batches]
        return [len(x) for x in rounded]

    assert max(colors("kin", "--kin", 1)) <= 2, "a batch of one kin has more than its colour and the ground"
    assert max(colors("no-kin")) > 2, "batches of the whole data set have one colour only"
    program.fails(*arguments("no-kin-at-all", "--kin", "0.5"), says='no pair has a "kin"')


def lora_on_a_wrong_module():
    program.fails(*arguments("nowhere", "--targets", "no_such_module", **LORA), says="'no_such_module'; it has q_proj, ")
    assert not (tmp / "nowhere").exists(), "an empty folder is left behind"


def nothing_to_start_with():
    for command in [dict(start=["--config", MODEL]), LORA]:
        program.fails(*arguments("unborn", "--data", tmp / "absent.jsonl", **command), says="absent.jsonl")
        assert not (tmp / "unborn").exists(), "a folder is left behind"
    (tmp / "mine").mkdir()
    program.fails(*arguments("mine", "--targets", "x", **LORA))
    assert (tmp / "mine").is_dir(), "the user's own folder is gone"


def full_finetune():
    train("full", "--full", **LORA)
    assert result("full") != (MODEL / "model.safetensors").read_bytes()
    program.good("info", tmp / "full")


def start_from():
    """A fresh model with another's weights: the same ones where nothing differs, positions resampled where pictures are larger, and a word where it cannot be."""
    train("again", "--start-from", MODEL, "--lr", 0, "--weight-decay", 0)
    mine, theirs = load(tmp / "again" / "model.safetensors"), load(MODEL / "model.safetensors")
    assert all(np.array_equal(mine[k], theirs[k].astype(mine[k].dtype)) for k in mine), "weights that were taken are not the same"
    larger = tmp / "larger"
    shutil.copytree(MODEL, larger)
    (larger / "model.safetensors").unlink()
    for name in ["config.json", "preprocessor_config.json"]:
        (larger / name).chmod(0o644)
    config = json.loads((larger / "config.json").read_text())
    vision = config["vision_config"]
    side, patch = vision["image_size"], vision["patch_size"]
    vision["image_size"] = 2 * side
    (larger / "config.json").write_text(json.dumps(config))
    processor = json.loads((larger / "preprocessor_config.json").read_text())
    processor["size"], processor["crop_size"] = {"shortest_edge": 2 * side}, {"height": 2 * side, "width": 2 * side}
    (larger / "preprocessor_config.json").write_text(json.dumps(processor))
    train("grown", "--start-from", MODEL, "--lr", 0, "--weight-decay", 0, start=["--config", larger])
    name = "vision_model.embeddings.position_embedding.weight"
    got, had, n = load(tmp / "grown" / "model.safetensors")[name], theirs[name].astype(float), side // patch
    assert np.array_equal(got[0], theirs[name][0]), "the class token's place moved"
    assert np.abs(got[1:] - twice(had[1:].reshape(n, n, -1)).reshape(4 * n * n, -1)).max() < 1e-5, "positions are not bicubic"
    program.fails(*arguments("odd", "--start-from", CASES / "blip_caption" / "model"), says="start from")
    program.fails(*arguments("odd2", "--start-from", MODEL, start=["--model", MODEL]), says="--start-from", code=2)


def twice(x):
    """x [n, n, d] at twice the size, as torch's bicubic interpolation has it (a = -0.75): new points lie a quarter to both sides of the old ones."""
    def shares(t, a=-0.75):
        near, far = (lambda d: ((a + 2) * d - (a + 3)) * d * d + 1), (lambda d: ((a * d - 5 * a) * d + 8 * a) * d - 4 * a)
        return [far(1 + t), near(t), near(1 - t), far(2 - t)]

    def axis(x):
        n = len(x)
        rows = []
        for i in range(2 * n):
            at = (i + 0.5) / 2 - 0.5
            low = int(np.floor(at))
            rows.append(sum(s * x[min(max(low - 1 + k, 0), n - 1)] for k, s in enumerate(shares(at - low))))
        return np.array(rows)
    return axis(axis(x).swapaxes(0, 1)).swapaxes(0, 1)


def other_family(case):
    """Learns from nothing, in parts as in one, by LoRA too, and the adapter folded in gives what it gives beside."""
    model = CASES / case / "model"
    start = ["--config", model]
    train(f"{case}-learns", "--steps", 80, "--augment", 0, start=start)
    loss = [x["loss"] for x in metrics(f"{case}-learns")]
    assert np.mean(loss[-10:]) < 0.6 * np.mean(loss[:5]), f"the loss went from {loss[0]} to {loss[-1]}"
    for out, more in [("whole", []), ("parts", ["--micro", 2])]:
        train(f"{case}-{out}", *more, start=start)
    whole, parts = (np.array([x["loss"] for x in metrics(f"{case}-{out}")]) for out in ("whole", "parts"))
    assert np.allclose(whole, parts, rtol=1e-4), f"{whole} and in parts {parts}"
    train(f"{case}-lora", "--rank", 4, command="finetune", start=["--model", model])
    program.good("merge", "--model", model, "--lora", tmp / f"{case}-lora", "--out", tmp / f"{case}-merged")
    plain, beside, folded = (embedding(*a) for a in (["--model", model], ["--model", model, "--lora", tmp / f"{case}-lora"], ["--model", tmp / f"{case}-merged"]))
    assert np.abs(beside - folded).max() < 1e-4 * np.abs(folded).max() and not np.allclose(beside, plain), "the adapter does nothing, or not the same"


def main():
    for case in ["siglip", "chinese_clip"]:
        tap.check(f"{case} learns, in parts and by LoRA", other_family, case)
    tap.check("a run writes weights, checkpoint and metrics", whole)
    tap.check("its result is a model", it_is_a_model)
    tap.check("the loss falls", it_learns)
    for n in [1, 2, 3, 7]:
        tap.check(f"{n} threads give the same run", threads, n)
    tap.check("another seed gives another run", other_seeds_differ)
    for at in [1, 4, 7]:
        tap.check(f"stopped after {at} steps and resumed: the same bits", resumed, at)
    tap.check("resumed with a moving average, two texts and parts: the same bits", resumed_with_average)
    tap.check("resumed with Muon: the same bits", resumed_with_muon)
    train("long", *LONG)
    tap.check("Ctrl-C and resumed: the same bits", interrupted)
    tap.check("kill -9 at any moment and resumed: the same bits", killed)
    tap.check("two runs on one folder: the second is refused", two_at_once)
    tap.check("metrics are cut back to the checkpoint", cut_metrics)
    tap.check("a run that cannot start leaves no folder", nothing_to_start_with)
    tap.check("other settings are refused", other_settings)
    tap.check("another tier goes on, with a word", other_tier)
    for cut in [0, 7, 100, 5000]:
        tap.check(f"a checkpoint cut to {cut} bytes is refused", damaged, cut)
    tap.check("a missing picture is named", missing_picture)
    train("first", "--steps", 1, "--lr", 0)
    for micro in [1, 2, 3]:
        tap.check(f"parts of {micro} give the loss and gradients of the whole batch", accumulated, micro)
    tap.check("parts that do not divide the batch are refused", wrong_micro)
    tap.check("batches of one kin", kin_batches)
    tap.check("a run starts from another model's weights", start_from)
    tap.check("LoRA learns, and leaves the model alone", lora)
    tap.check("an adapter is applied, scaled and merged", lora_is_applied)
    tap.check("LoRA stopped and resumed: the same bits", lora_resumed)
    tap.check("LoRA with 7 threads: the same bits", lora_threads)
    tap.check("LoRA on a module that is not there is refused", lora_on_a_wrong_module)
    tap.check("a whole model is tuned", full_finetune)
    shutil.rmtree(tmp)
    tap.finish()


main()
