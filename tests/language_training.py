"""Training language models on a tiny text: resumed runs are bit-equal, parts equal the whole, documents do not see each other, prompts teach nothing.

    language_training.py PROGRAM      prints TAP"""
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import tap
from ocelli_run import CASES, Program, load, save

program = Program(sys.argv[1])
tmp = Path(tempfile.mkdtemp(prefix="ocelli-language-"))
WORDS = "the old clock in a small red house stands still and nobody winds it any more since the rain came".split()
COMMON = {"vocab_size": 300, "bos_token_id": None, "eos_token_id": 299}
CONFIGS = {
    "gpt2": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 48, **COMMON},
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
              "num_key_value_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 48, "tie_word_embeddings": True, **COMMON},
    "t5": {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 2,
           "decoder_start_token_id": 0, "pad_token_id": 0, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, **COMMON},
}


def prepare():
    rng = np.random.default_rng(1)
    lines = [" ".join(rng.choice(WORDS, rng.integers(3, 14))) for _ in range(60)]
    (tmp / "text.txt").write_text(" ".join(lines[:30]))
    (tmp / "lines.jsonl").write_text("".join(json.dumps({"text": x}) + "\n" for x in lines))
    (tmp / "asked.jsonl").write_text("".join(json.dumps({"prompt": x, "answer": x.split()[0]}) + "\n" for x in lines[:12]))
    for name, config in CONFIGS.items():
        folder = tmp / name
        folder.mkdir()
        program.good("tokenizer", "--style", "gpt2", "--size", 300, "--out", folder, tmp / "text.txt")
        (folder / "config.json").write_text(json.dumps(config))


def train(family, out, *more, data="lines.jsonl", command="train", start=None, code=0):
    got = program.run(command, *(start or ["--config", tmp / family]), "--data", tmp / data, "--out", tmp / out, "--steps", 6, "--batch", 4, "--context", 32, "--lr", "3e-3",
                      "--seed", 5, "--metrics", tmp / (out + ".jsonl"), "--quiet", *more)
    assert got.returncode == code, f"exit {got.returncode} instead of {code}: {got.err[-300:]}"
    return got


def losses(out):
    return [json.loads(x)["loss"] for x in (tmp / (out + ".jsonl")).read_text().splitlines()]


def weights(out, name="model.safetensors"):
    return (tmp / out / name).read_bytes()


def whole(family, data):
    train(family, f"{family}-whole", data=data)
    lines = [json.loads(x) for x in (tmp / f"{family}-whole.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == list(range(1, 7)) and all({"loss", "lr", "tokens_per_s"} <= set(x) for x in lines)


def it_learns(family, data):
    train(family, f"{family}-learns", "--steps", 150, data=data)
    loss = losses(f"{family}-learns")
    assert np.mean(loss[-10:]) < 0.6 * np.mean(loss[:3]), f"the loss went from {loss[0]} to {loss[-1]}"


def threads(family, data, n):
    train(family, f"{family}-t{n}", "--threads", n, data=data)
    assert weights(f"{family}-t{n}") == weights(f"{family}-whole")


def resumed(family, data, at):
    out = f"{family}-at{at}"
    train(family, out, "--stop-after", at, data=data, code=1)
    train(family, out, data=data)
    assert weights(out) == weights(f"{family}-whole") and weights(out, "checkpoint.safetensors") == weights(f"{family}-whole", "checkpoint.safetensors")


def in_parts(family, data, micro):
    """With a rate of 0 the first step's moments are its gradients."""
    for out, more in ((f"{family}-one", []), (f"{family}-m{micro}", ["--micro", micro])):
        train(family, out, "--steps", 1, "--lr", 0, "--clip", 0, *more, data=data)
    a, b = (load(tmp / x / "checkpoint.safetensors") for x in (f"{family}-one", f"{family}-m{micro}"))
    names = [k for k in a if k.startswith("first.")]
    assert names
    for k in names:
        size = np.linalg.norm(a[k])
        assert np.linalg.norm(a[k] - b[k]) <= 2e-5 * size + 1e-9, k
    assert abs(losses(f"{family}-one")[0] - losses(f"{family}-m{micro}")[0]) < 1e-5


def forward(model, ids, labels=None):
    given = {"input_ids": np.array([ids], np.int64)}
    if labels is not None:
        given["labels"] = np.array([labels], np.int64)
    save(given, tmp / "in")
    program.good("forward", "--model", model, "--in", tmp / "in", "--out", tmp / "out")
    return load(tmp / "out")


def ids_of(text):
    return json.loads(program.good("tokenize", "--model", tmp / "gpt2", text=text + "\n").out)


def documents(family):
    """The loss of a row with several documents is the mean over each document's own tokens, seen alone."""
    texts = [json.loads(x)["text"] for x in (tmp / "lines.jsonl").read_text().splitlines()]
    two = tmp / "two.jsonl"
    two.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts[:2]))
    train(family, f"{family}-two", "--steps", 1, "--batch", 1, "--context", 48, "--lr", 0, data="two.jsonl")
    total = count = 0
    room = 48
    for t in texts[:2]:
        ids = (ids_of(t) + [299])[:room]
        room -= len(ids)
        if len(ids) > 1:
            total += float(forward(tmp / f"{family}-two", ids, ids)["loss"]) * (len(ids) - 1)
            count += len(ids) - 1
    got = losses(f"{family}-two")[0]
    assert abs(got - total / count) < 2e-5 * got, f"{got} instead of {total / count}"


def prompts(family):
    """Only the answer's tokens count."""
    (tmp / "one.jsonl").write_text(json.dumps({"prompt": "the old clock", "answer": " in a house"}) + "\n")
    train(family, f"{family}-one-answer", "--steps", 1, "--batch", 1, "--lr", 0, data="one.jsonl")
    asked, said = ids_of("the old clock"), ids_of(" in a house") + [299]
    want = float(forward(tmp / f"{family}-one-answer", asked + said, [-100] * len(asked) + said)["loss"])
    got = losses(f"{family}-one-answer")[0]
    assert abs(got - want) < 2e-5 * want, f"{got} instead of {want}"


def perplexity():
    ids = ids_of((tmp / "text.txt").read_text()) + [299]
    total = count = 0
    for at in range(0, len(ids), 20):
        part = ids[at:at + 20]
        if len(part) > 1:
            total += float(forward(tmp / "gpt2-whole", part, part)["loss"]) * (len(part) - 1)
            count += len(part) - 1
    got = json.loads(program.good("eval", "perplexity", "--model", tmp / "gpt2-whole", "--data", tmp / "text.txt", "--context", 20, "--json").out)
    assert got["tokens"] == count and abs(got["loss"] - total / count) < 1e-5 and math.isclose(got["perplexity"], math.exp(got["loss"]), rel_tol=1e-6)
    program.fails("eval", "perplexity", "--model", CASES / "t5" / "model", "--data", tmp / "text.txt", says=["a decoder alone"])
    closer = json.loads(program.good("eval", "perplexity", "--model", tmp / "gpt2-whole", "--data", tmp / "text.txt", "--context", 20, "--stride", 5, "--json").out)
    assert closer["tokens"] == len(ids) - 1, "with an overlap all tokens but the first are foretold"


def adapter(family, data):
    train(family, f"{family}-lora", "--rank", 4, "--steps", 40, "--lr", "1e-2", data=data, command="finetune", start=["--model", tmp / f"{family}-whole"])
    assert (tmp / f"{family}-lora" / "adapter_model.safetensors").exists()
    assert np.mean(losses(f"{family}-lora")[-5:]) < np.mean(losses(f"{family}-lora")[:5])
    plain = program.good("generate", "--model", tmp / f"{family}-whole", "--prompt", "the old", "--max-new-tokens", 6, "--json").out
    tuned = json.loads(program.good("generate", "--model", tmp / f"{family}-whole", "--lora", tmp / f"{family}-lora", "--prompt", "the old", "--max-new-tokens", 6, "--json").out)
    program.good("merge", "--model", tmp / f"{family}-whole", "--lora", tmp / f"{family}-lora", "--out", tmp / f"{family}-merged")
    merged = json.loads(program.good("generate", "--model", tmp / f"{family}-merged", "--prompt", "the old", "--max-new-tokens", 6, "--json").out)
    assert merged["ids"] == tuned["ids"] and plain


def refused():
    cases = [("gpt2", ["--context", 49], "--context is 49, the model has 48"), ("gpt2", ["--micro", 3], "does not split into parts")]
    for family, more, words in cases:
        assert words in train(family, "refused", *more, code=1).err
    assert "every text must be a line" in train("t5", "refused", code=1).err
    (tmp / "bad.jsonl").write_text('{"prompt": "a"}\n')
    assert "'line 1': answer is missing" in train("gpt2", "refused", data="bad.jsonl", code=1).err
    (tmp / "empty.txt").write_text("")
    assert not (tmp / "refused").exists()


def main():
    prepare()
    for family, data in (("gpt2", "lines.jsonl"), ("llama", "text.txt"), ("t5", "asked.jsonl")):
        tap.check(f"{family}: a run writes weights and metrics", whole, family, data)
        tap.check(f"{family}: the loss falls", it_learns, family, data)
        for n in (1, 3):
            tap.check(f"{family}: {n} threads give the same bits", threads, family, data, n)
        tap.check(f"{family}: stopped and resumed: the same bits", resumed, family, data, 3)
        tap.check(f"{family}: parts give the gradients of the whole batch", in_parts, family, data, 2)
        tap.check(f"{family}: LoRA learns, is applied and merged", adapter, family, data)
    for family in ("gpt2", "llama"):
        tap.check(f"{family}: documents of one row do not see each other", documents, family)
        tap.check(f"{family}: a prompt teaches nothing", prompts, family)
    tap.check("perplexity is that of the forward's loss", perplexity)
    tap.check("what cannot be trained on is refused", refused)
    shutil.rmtree(tmp)
    tap.finish()


if __name__ == "__main__":
    main()
