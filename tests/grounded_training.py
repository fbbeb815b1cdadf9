"""BLIP's objectives in the trainer: their losses are those of `forward` and of NumPy, resumed runs are bit-equal, any of them may be left out.

    grounded_training.py PROGRAM      prints TAP"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import tap
import tiny_blip
import tiny_data
from ocelli_run import CASES, Program, load, save

STEPS, BATCH = 6, 4
TIED = CASES / "blip_pretrain_tied" / "model"
program = Program(sys.argv[1])
tmp = Path(tempfile.mkdtemp(prefix="ocelli-grounded-"))
data = tiny_data.write(tmp / "data")


def arguments(out, *more, model=TIED, command="train"):
    start = ["--model", model] if command == "finetune" else ["--model", model]
    return [command, *start, "--data", data, "--out", tmp / out, "--steps", STEPS, "--batch", BATCH, "--lr", "1e-3", "--seed", 3, "--metrics",
            tmp / (out + ".jsonl"), "--quiet", *more]


def train(out, *more, code=0, **how):
    got = program.run(*arguments(out, *more, **how))
    assert got.returncode == code, f"exit {got.returncode} instead of {code}: {got.err[-300:]}"


def metrics(out):
    return [json.loads(x) for x in (tmp / (out + ".jsonl")).read_text().splitlines()]


def result(out, name="model.safetensors"):
    return (tmp / out / name).read_bytes()


# ---- the losses are right ----------------------------------------------------------------------------------------------


def forward(model, batch):
    """What `forward` says of a dumped batch; which others it takes as strangers does not matter here."""
    config = json.loads((Path(model) / "config.json").read_text())["text_config"]
    ids, n = batch["input_ids"], len(batch["input_ids"])
    matched, written = ids.copy(), ids.copy()
    matched[:, 0], written[:, 0] = config["bos_token_id"] + 1, config["bos_token_id"]
    others = np.roll(np.arange(n), 1)
    inputs = {"pixel_values": batch["pixel_values"], "input_ids": ids, "attention_mask": batch["attention_mask"], "itm_input_ids": matched,
              "lm_input_ids": written, "labels": np.where(batch["attention_mask"] > 0, written, -100), "image_neg_index": others, "text_neg_index": others}
    save(inputs, tmp / "in.safetensors")
    program.good("forward", "--model", model, "--in", tmp / "in.safetensors", "--out", tmp / "out.safetensors")
    return load(tmp / "out.safetensors")


def batches(folder):
    return [load(p) for p in sorted(folder.glob("step-*.safetensors"))]


def in_batch():
    """Without a teacher itc is the contrast within the batch, and all three are forward's."""
    train("plain", "--momentum", 0, "--augment", 0, "--lr", 0, "--dump", tmp / "plain-dump")
    for line, batch in zip(metrics("plain"), batches(tmp / "plain-dump")):
        want = forward(TIED, batch)
        for name in ["itc", "lm"]:
            assert abs(line[f"loss_{name}"] - float(want[f"loss_{name}"])) < 2e-5 * abs(line[f"loss_{name}"]), f"{name}: {line} {want[f'loss_{name}']}"
        parts = sum(line[f"loss_{x}"] for x in ["itc", "itm", "lm"])
        assert abs(parts - line["loss"]) < 1e-5 * parts, f"the parts of {line} add up to {parts}"


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def contrast(mine, keys, group, groups, temperature, alpha):
    scores = mine @ keys.T / temperature
    equal = (np.array(group)[:, None] == np.array(groups)[None, :]).astype(float)
    target = alpha * softmax(scores) + (1 - alpha) * equal / equal.sum(-1, keepdims=True)
    return -(target * np.log(softmax(scores))).sum(-1).mean()


def with_teacher():
    """Weights that do not move are their own teacher, so features of earlier steps are the queue: NumPy says what itc must be, softened targets and all."""
    steps, queue, alpha = 9, 8, 0.7
    train("taught", "--queue", queue, "--itc-alpha", alpha, "--augment", 0, "--lr", 0, "--steps", steps, "--dump", tmp / "taught-dump", "--objectives", "itc")
    temperature = float(load(TIED / "model.safetensors")["temp"])
    pixels = {}
    images, texts, groups = [], [], []
    ramp = 2 * -(-12 // BATCH)
    for step, (line, batch) in enumerate(zip(metrics("taught"), batches(tmp / "taught-dump"))):
        got = forward(TIED, batch)
        image, text = got["image_features"].astype(float), got["text_features"].astype(float)
        group = [pixels.setdefault(p.tobytes(), len(pixels)) for p in batch["pixel_values"]]
        old = slice(-queue, None)
        if step >= queue // BATCH:  # before, part of the queue is random
            share = alpha * min(1, step / ramp)
            want = (contrast(image, np.concatenate([text, *texts[-2:]]), group, group + sum(groups[-2:], []), temperature, share) +
                    contrast(text, np.concatenate([image, *images[-2:]]), group, group + sum(groups[-2:], []), temperature, share)) / 2
            assert abs(line["loss_itc"] - want) < 2e-5 * want, f"step {step + 1}: {line['loss_itc']}, NumPy has {want}"
        images.append(image), texts.append(text), groups.append(group)
    assert old and step == steps - 1


def hard_negatives():
    """Pairs of one meaning are never called strangers: where all mean the same, every pair belongs together."""
    lines = [json.loads(x) for x in data.read_text().splitlines()]
    one = tmp / "data" / "one.jsonl"
    one.write_text("".join(json.dumps({**x, "group": "all"}) + "\n" for x in lines))
    train("one", "--objectives", "itm", "--data", one, "--steps", 150, "--augment", 0)
    assert np.mean([x["loss_itm"] for x in metrics("one")[-20:]]) < 0.01, "something is left to be told apart"
    train("many", "--objectives", "itm,itc=0.1", "--steps", 3, "--augment", 0)
    assert all(x["loss_itm"] > 0.2 for x in metrics("many")), metrics("many")


# ---- runs ---------------------------------------------------------------------------------------------------------------


def resumed(at):
    train("whole", "--queue", 8)
    train(f"stopped{at}", "--queue", 8, "--stop-after", at, code=1)
    train(f"stopped{at}", "--queue", 8)
    for name in ["model.safetensors", "checkpoint.safetensors"]:
        assert result("whole", name) == result(f"stopped{at}", name), f"{name} differs"
    train("other", "--queue", 8, "--momentum", 0.5)
    assert result("whole") != result("other"), "the teacher's momentum changes nothing"


def threads(n):
    train(f"threads{n}", "--queue", 8, "--threads", n)
    assert result("whole") == result(f"threads{n}")


def subset(objectives):
    out = objectives.replace(",", "-").replace("=", "")
    train(out, "--objectives", objectives)
    names = {x.split("=")[0] for x in objectives.split(",")}
    assert {k[5:] for k in metrics(out)[0] if k.startswith("loss_")} == names, metrics(out)[0]


def it_learns():
    train("learns", "--steps", 150, "--augment", 0)
    first, last = metrics("learns")[0], metrics("learns")[-1]
    for name in ["loss_itc", "loss_lm"]:
        assert last[name] < 0.5 * first[name], f"{name} went from {first[name]} to {last[name]}"


def with_masked_words():
    for case in ["blip_pretrain_tied", "blip_vqa", "blip_caption"]:
        train("mlm-" + case, "--objectives", "mlm", "--steps", 60, "--augment", 0, model=CASES / case / "model")
        lines = metrics("mlm-" + case)
        assert np.mean([x["loss_mlm"] for x in lines[-10:]]) < 0.7 * lines[0]["loss_mlm"], [case, lines[0], lines[-1]]


def answers():
    """Who learned them gives them, of the answering class as of the one that does all."""
    asked = questions()
    for name, model, more in [("vqa", tiny_blip.ANSWERER, []), ("vqa-all", tiny_blip.does_all(tmp / "does-all"), ["--objectives", "vqa"])]:
        train(name, "--data", asked, "--steps", 120, "--augment", 0, *more, model=model)
        loss = [x["loss_vqa"] for x in metrics(name)]
        assert np.mean(loss[-10:]) < 0.3 * loss[0], f"from {loss[0]} to {loss[-1]}"
        lines = [json.loads(x) for x in asked.read_text().splitlines()]
        told = program.good("ask", "--model", tmp / name, "--enc-token", "--stdin", "--json",
                            text="".join(json.dumps({**x, "image": str(asked.parent / x["image"])}) + "\n" for x in lines)).out.splitlines()
        right = sum(json.loads(a)["text"] == x["answers"][0] for a, x in zip(told, lines))
        assert right > 0.6 * len(lines), f"{name}: {right} of {len(lines)} questions"
    program.fails(*arguments("vqa2", model=tiny_blip.ANSWERER), says="question")
    program.fails(*arguments("vqa3", "--data", asked, "--objectives", "vqa"), says=["no part for the objective 'vqa'", "as wide as the eye"])


def prompts():
    """A caption's beginning is said, not learned: the loss is of what follows alone."""
    train("prompted", "--objectives", "lm", "--prompt", "text=a photo of", "--steps", 60, "--augment", 0)
    loss = [x["loss_lm"] for x in metrics("prompted")]
    assert np.mean(loss[-5:]) < 0.7 * loss[0]
    program.fails(*arguments("badprompt", "--prompt", "french=une"), says="KEY=TEXT")


def frozen():
    train("frozen", "--freeze", "vision_model.,text_encoder.embeddings", "--objectives", "itm,lm")
    train("thawed", "--freeze", "vision_model.encoder.layers.0.,vision_model.embeddings", "--objectives", "itc", "--steps", 1, "--queue", 0)
    train("still", "--freeze", "vision_model.", "--objectives", "itc", "--steps", 1, "--queue", 0)
    a, b = metrics("thawed")[0]["loss_itc"], metrics("still")[0]["loss_itc"]
    assert abs(a - b) < 1e-5 * a, f"an eye that learns nothing sees otherwise: {a}, {b}"
    mine, theirs = load(tmp / "frozen" / "model.safetensors"), load(TIED / "model.safetensors")
    for name, value in mine.items():
        still = np.array_equal(value, theirs[name])
        assert still == (name.startswith(("vision_model.", "text_encoder.embeddings", "vision_proj", "text_proj", "temp"))), name
    program.fails(*arguments("nofreeze", "--freeze", "nowhere"), says="nowhere")


def shaken_rows():
    """What a still eye sees is shaken, by as much as asked for, and as the step says, not the threads; what an eye that learns sees is not."""
    def loss(out, *more):
        train(out, "--freeze", "vision_model.", "--objectives", "lm", "--augment", 0, *more)
        return [x["loss_lm"] for x in metrics(out)]
    plain, barely, much = loss("calm"), loss("barely", "--row-noise", "1e-6"), loss("shaken", "--row-noise", 1, "--row-drop", 0.5, "--threads", 1)
    assert np.allclose(plain, barely, rtol=1e-4), [plain, barely]
    assert min(abs(a - b) / a for a, b in zip(plain, much)) > 1e-4, [plain, much]
    assert much != loss("dropped", "--row-drop", 0.5) and much == loss("shaken3", "--row-noise", 1, "--row-drop", 0.5, "--threads", 3)
    program.fails(*arguments("restless", "--row-noise", 1, "--objectives", "lm"), says="learns nothing")


def lora():
    caption = CASES / "blip_caption" / "model"
    train("lora", "--steps", 40, "--augment", 0, model=caption, command="finetune")
    assert set(x.name for x in (tmp / "lora").iterdir()) == {"adapter_config.json", "adapter_model.safetensors", "checkpoint.safetensors"}
    loss = [x["loss"] for x in metrics("lora")]
    assert np.mean(loss[-5:]) < 0.95 * loss[0], f"from {loss[0]} to {loss[-1]}"


def adapted_modules(model, config):
    """What peft would adapt by this adapter's target_modules, a list of names that modules end with."""
    targets = tuple(config["target_modules"])
    names = [x[:-len(".weight")] for x in load(model / "model.safetensors") if x.endswith(".weight")]
    return {x for x in names if x.split(".")[-1] in targets}


def outputs(model, *more, batch):
    """All that forward tells, of the reference case's own inputs."""
    program.good("forward", "--model", model, "--in", batch, "--out", tmp / "lora-out.safetensors", *more)
    return {k: v.astype(float) for k, v in load(tmp / "lora-out.safetensors").items()}


def questions():
    lines = [json.loads(x) for x in data.read_text().splitlines()]
    path = tmp / "data" / "lora-asked.jsonl"
    path.write_text("".join(json.dumps({"image": x["image"], "question": "which colour is it?", "answers": [x["text"][0].split()[1]]}) + "\n" for x in lines))
    return path


def lora_of(case, objectives):
    """Only factors of the modules that were to be adapted are written, what they do falls the loss, merged weights say the same, and a stopped run goes on."""
    model, name = CASES / case / "model", f"lora-{case}-{objectives}".replace(",", "-")
    how = {"model": model, "command": "finetune"}
    more = ["--objectives", objectives, "--steps", 60, "--augment", 0, "--lr", "5e-3", *(["--data", questions()] if "vqa" in objectives else [])]
    train(name, *more, **how)
    lines = metrics(name)
    for part in objectives.split(","):
        loss = [x[f"loss_{part}"] for x in lines]
        first, last = np.mean(loss[:3]), np.mean(loss[-10:])
        assert last < (0.99 if part == "itm" else 0.9) * first, f"{part} went from {first} to {last}"
    got, config = load(tmp / name / "adapter_model.safetensors"), json.loads((tmp / name / "adapter_config.json").read_text())
    want = adapted_modules(model, config)
    assert want and set(config["target_modules"]) == {"query", "value"}, config["target_modules"]
    factors = {f"base_model.model.{m}.lora_{x}.weight" for m in want for x in "AB"}
    assert set(got) == factors, set(got) ^ factors
    moved = {k for k, v in got.items() if "lora_B" in k and np.any(v)}
    used = [m for m in want if reached(m, case, objectives)]
    assert moved == {f"base_model.model.{m}.lora_B.weight" for m in used}, f"learned: {moved}"
    merged, batch = tmp / (name + "-merged"), CASES / case / "in.safetensors"
    program.good("merge", "--model", model, "--lora", tmp / name, "--out", merged)
    plain, beside, inside = outputs(model, batch=batch), outputs(model, "--lora", tmp / name, batch=batch), outputs(merged, batch=batch)
    assert set(beside) == set(inside) == set(plain), "other outputs"
    for k, v in beside.items():
        assert abs(v - inside[k]).max() < 1e-4 * max(1, abs(v).max()), f"{k}: merged weights say otherwise, by {abs(v - inside[k]).max()}"
    assert max(abs(v - plain[k]).max() for k, v in beside.items()) > 0.05, "the adapter does nothing"
    train(name + "-stopped", *more, "--stop-after", 23, code=1, **how)
    train(name + "-stopped", *more, **how)
    for file in ["adapter_model.safetensors", "checkpoint.safetensors"]:
        assert result(name, file) == result(name + "-stopped", file), f"{file} differs"


def reached(module, case, objectives):
    """Does any of the objectives run through this module?"""
    parts, tied = set(objectives.split(",")), case == "blip_pretrain_tied"
    if module.startswith("text_decoder."):
        return bool(parts & {"lm", "vqa"})
    if ".crossattention." in module:
        return bool(parts & {"itm", "mlm", "vqa"}) or (tied and "lm" in parts)
    return bool(parts & {"itc", "itm", "mlm", "vqa"})


def wrong():
    program.fails(*arguments("w1", "--objectives", "itc,dance"), says="dance", code=2)
    for switch in [("--objectives", "itc"), ("--queue", 8), ("--row-noise", 0.5), ("--prompt", "text=a")]:
        program.fails(*arguments("w0", *switch, model=CASES / "clip" / "model"), says=[switch[0], "BLIP"])
    program.fails(*arguments("w2", "--objectives", "mlm", model=CASES / "blip_retrieval" / "model"), says="mlm")
    nameless = tiny_blip.copy_with(tmp / "nameless", TIED)
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        (nameless / name).write_text((nameless / name).read_text().replace("[MASK]", "[HIDE]").replace("mask_token", "hide_token"))
    program.fails(*arguments("w8", "--objectives", "mlm", model=nameless), says=["nameless", "[MASK]"])
    program.fails(*arguments("w3", "--queue", 5), says="multiple")
    program.fails(*arguments("w9", "--objectives", "lm,itm", "--batch", 1), says="told apart")
    program.fails(*arguments("w4", "--texts", 2), says="--texts")
    program.fails(*arguments("w5", "--text-length", 4000), says="positions")
    program.fails(*arguments("w7", "--queue", BATCH, command="finetune"), says="without a teacher")
    program.fails(*arguments("w6", "--objectives", "itm", model=CASES / "blip_caption" / "model"), says="itm")


def main():
    tap.check("without a teacher the losses are forward's", in_batch)
    tap.check("with a teacher itc is what NumPy makes of the features", with_teacher)
    tap.check("pairs that mean the same are not told apart", hard_negatives)
    for at in [1, 4]:
        tap.check(f"stopped after {at} steps and resumed: the same bits", resumed, at)
    for n in [1, 3]:
        tap.check(f"{n} threads give the same run", threads, n)
    for objectives in ["itc", "itm", "lm", "itc=2,lm", "itm,lm=0.5"]:
        tap.check(f"only {objectives}", subset, objectives)
    tap.check("the losses fall", it_learns)
    tap.check("hidden words are found", with_masked_words)
    tap.check("questions are answered", answers)
    tap.check("a caption's beginning", prompts)
    tap.check("frozen weights stay", frozen)
    tap.check("what a frozen eye sees is shaken", shaken_rows)
    tap.check("LoRA on a captioner", lora)
    for case, objectives in [("blip_retrieval", "itc"), ("blip_retrieval", "itm"), ("blip_vqa", "vqa"), ("blip_pretrain_tied", "itc"), ("blip_pretrain_tied", "lm"),
                             ("blip_pretrain_tied", "mlm"), ("blip_vqa", "mlm"),
                             ("blip_pretrain_tied", "itc,itm,lm")]:
        tap.check(f"LoRA of {objectives} on {case}", lora_of, case, objectives)
    tap.check("what cannot be learned is refused", wrong)
    shutil.rmtree(tmp)
    tap.finish()


main()
