"""Training language models on a tiny text: resumed runs are bit-equal, parts equal the whole, documents do not see each other, prompts teach nothing,
adapters of every kind are what PEFT expects and what `merge` folds in.

    language_training.py PROGRAM      prints TAP"""
import json
import math
import re
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
    "opt": {"model_type": "opt", "architectures": ["OPTForCausalLM"], "hidden_size": 32, "ffn_dim": 48, "num_attention_heads": 4, "num_hidden_layers": 2,
            "max_position_embeddings": 48, "word_embed_proj_dim": 24, "do_layer_norm_before": True, "tie_word_embeddings": True, **COMMON},
    "phi3": {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
             "num_key_value_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 48, "original_max_position_embeddings": 48, "pad_token_id": 0,
             "tie_word_embeddings": False, **COMMON},
    "mistral": {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
                "num_key_value_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 48, "sliding_window": 7, "tie_word_embeddings": False, **COMMON},
}
# Of each family: the modules that LoRA takes, the ranks and alphas of some (by a whole path's end, by the last name, by a regular expression), and what
# learns whole beside.
ADAPTED = {
    "gpt2": ("c_attn,c_proj,c_fc", {"h.0.attn.c_attn": 2, "c_fc": 6}, {r"h\.[1-9]\.attn\.c_proj": 20}, ["ln_f"]),
    "llama": ("q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj", {"layers.0.self_attn.q_proj": 2, "down_proj": 6}, {r"layers\.[1-9]\..*o_proj": 20}, ["model.norm"]),
    "t5": ("q,v", {"decoder.block.0.layer.0.SelfAttention.q": 2, "v": 6}, {r"decoder\..*\.EncDecAttention\.q": 20}, ["lm_head", "relative_attention_bias"]),
    "opt": ("q_proj,k_proj,v_proj,out_proj,fc1,fc2", {"layers.0.self_attn.q_proj": 2, "fc1": 6}, {r"layers\.[1-9]\..*out_proj": 20}, ["final_layer_norm"]),
    "phi3": ("qkv_proj,o_proj,gate_up_proj,down_proj", {"layers.0.self_attn.qkv_proj": 2, "down_proj": 6}, {r"layers\.[1-9]\..*o_proj": 20}, ["lm_head"]),
    "mistral": ("q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj", {"layers.0.self_attn.q_proj": 2, "down_proj": 6}, {r"layers\.[1-9]\..*o_proj": 20},
                ["lm_head", "input_layernorm"]),
}
KINDS = ["dora", "rslora", "patterns", "whole", "dora rslora patterns whole"]


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


def switches(family, kind):
    """What `finetune` is told, and what adapter_config.json says of it."""
    targets, ranks, alphas, saved = ADAPTED[family]
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "bias": "none", "lora_bias": False, "fan_in_fan_out": family == "gpt2", "target_modules": targets.split(","),
            "use_dora": "dora" in kind.split(), "use_rslora": "rslora" in kind, "rank_pattern": ranks if "patterns" in kind else {},
            "alpha_pattern": alphas if "patterns" in kind else {}, "modules_to_save": saved if "whole" in kind else None}
    more = ["--rank", 4, "--alpha", 6]
    more += ["--dora"] if said["use_dora"] else []
    more += ["--rslora"] if said["use_rslora"] else []
    for name in ("rank_pattern", "alpha_pattern"):
        more += ["--" + name.replace("_", "-"), ",".join(f"{k}={v}" for k, v in said[name].items())] if said[name] else []
    return more + (["--modules-to-save", ",".join(saved)] if "whole" in kind else []), said


def of_pattern(patterns, module, otherwise):
    """As PEFT looks a module up."""
    return next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module)), otherwise)


def folded(base, factors, said, learned=True):
    """By NumPy, as PEFT merges: the weights that the adapter makes of the base model's, and the keys that its file must hold, no more and no fewer."""
    out, keys = {}, set()
    for name, w in base.items():
        module = name.rsplit(".", 1)[0]
        key = "base_model.model." + name
        if any(module.endswith(x) for x in said["modules_to_save"] or []):
            keys.add(key)
            assert factors[key].shape == w.shape and np.array_equal(factors[key], w) != learned, f"{name} did not learn, or should not have"
            out[name] = factors[key]
        elif name.endswith(".weight") and any(module.endswith("." + x) for x in said["target_modules"]):
            key, w = "base_model.model." + module, (w.T if said["fan_in_fan_out"] else w).astype(np.float64)
            r, alpha = of_pattern(said["rank_pattern"], module, said["r"]), of_pattern(said["alpha_pattern"], module, said["lora_alpha"])
            a, b = factors[key + ".lora_A.weight"].astype(np.float64), factors[key + ".lora_B.weight"].astype(np.float64)
            assert a.shape == (r, w.shape[1]) and b.shape == (w.shape[0], r), f"{module} has factors {a.shape} and {b.shape}, the rank is {r}"
            assert (np.abs(b).max() > 0) == learned, f"{module} did not learn, or should not have"
            keys |= {key + ".lora_A.weight", key + ".lora_B.weight"}
            v = w + alpha / (r ** 0.5 if said["use_rslora"] else r) * b @ a
            if said["use_dora"]:
                keys.add(key + ".lora_magnitude_vector")
                m, length = factors[key + ".lora_magnitude_vector"].astype(np.float64), np.linalg.norm(w, axis=1)
                assert m.shape == (w.shape[0],) and np.allclose(m, length, rtol=1e-5) != learned, f"{module}: its lengths are {length}, the file has {m}"
                v *= (m / np.linalg.norm(v, axis=1))[:, None]
            out[name] = v.T if said["fan_in_fan_out"] else v
        else:
            out[name] = w
    assert set(factors) == keys, f"keys that differ: {sorted(set(factors) ^ keys)[:6]}"
    return out


def logits_and_loss(family, *args):
    """Of the one example that `kind_of_adapter` learns; T5 reads the prompt and writes the answer."""
    asked, said = ids_of("the old clock"), ids_of(" in a house") + [299]
    given = {"input_ids": asked, "labels": said} if family == "t5" else {"input_ids": asked + said, "labels": [-100] * len(asked) + said}
    save({k: np.array([v], np.int64) for k, v in given.items()}, tmp / "in")
    program.good("forward", "--in", tmp / "in", "--out", tmp / "out", *args)
    out = load(tmp / "out")
    return out["logits"], float(out["loss"])


def kind_of_adapter(family, kind, data):
    base, out = tmp / f"{family}-whole", "-".join([family, "by", *kind.split()])
    more, said = switches(family, kind)
    how = dict(command="finetune", start=["--model", base])
    train(family, out, *more, "--steps", 40, "--lr", "1e-2", data=data, **how)
    assert np.mean(losses(out)[-5:]) < np.mean(losses(out)[:5]), losses(out)
    config = json.loads((tmp / out / "adapter_config.json").read_text())
    assert {k: config[k] for k in said} == said, config
    want = folded(load(base / "model.safetensors"), load(tmp / out / "adapter_model.safetensors"), said)
    lora = ["--model", base, "--lora", tmp / out]
    program.good("merge", *lora, "--out", tmp / f"{out}-merged")
    got = load(tmp / f"{out}-merged" / "model.safetensors")
    assert set(got) == set(want), sorted(set(got) ^ set(want))
    for name in want:
        assert np.abs(got[name] - want[name]).max() <= 1e-6 * np.abs(want[name]).max(), f"{name} is not what PEFT would merge"
    plain, beside, merged = (logits_and_loss(family, *x)[0] for x in (["--model", base], lora, ["--model", tmp / f"{out}-merged"]))
    size = np.abs(plain).max()
    assert np.abs(beside - merged).max() < 1e-4 * size < 1e-2 * size < np.abs(beside - plain).max(), "the adapter does nothing, or not the same beside and folded in"
    ids = [json.loads(program.good("generate", *x, "--prompt", "the old clock", "--max-new-tokens", 8, "--json").out)["ids"]
           for x in (lora, ["--model", tmp / f"{out}-merged"])]
    assert ids[0] == ids[1], ids
    train(family, f"{out}-0", *more, "--steps", 1, "--lr", 0, data=data, **how)  # an adapter begins as nothing: B is 0, the lengths are those of the weights
    folded(load(base / "model.safetensors"), load(tmp / f"{out}-0" / "adapter_model.safetensors"), said, learned=False)
    # The loss of a step is that of what the steps before it wrote: training multiplies by the very scale that loading reads from the file.
    (tmp / "one.jsonl").write_text(json.dumps({"prompt": "the old clock", "answer": " in a house"}) + "\n")
    for steps in (5, 6):
        train(family, f"{out}-{steps}", *more, "--steps", steps, "--batch", 1, "--lr", "3e-2", "--final-lr", 1, "--warmup", 0, data="one.jsonl", **how)
    loss, first = losses(f"{out}-6")[5], losses(f"{out}-6")[0]
    applied = logits_and_loss(family, "--model", base, "--lora", tmp / f"{out}-5")[1]
    assert abs(applied - loss) < 2e-5 * first and abs(loss - first) > 4e-4 * first, f"the file gives {applied}, training had {loss}, and {first} at first"


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
    for family, data in (("gpt2", "lines.jsonl"), ("llama", "text.txt"), ("t5", "asked.jsonl"), ("opt", "text.txt"), ("phi3", "lines.jsonl"), ("mistral", "text.txt")):
        tap.check(f"{family}: a run writes weights and metrics", whole, family, data)
        tap.check(f"{family}: the loss falls", it_learns, family, data)
        for n in (1, 3):
            tap.check(f"{family}: {n} threads give the same bits", threads, family, data, n)
        tap.check(f"{family}: stopped and resumed: the same bits", resumed, family, data, 3)
        tap.check(f"{family}: parts give the gradients of the whole batch", in_parts, family, data, 2)
        tap.check(f"{family}: LoRA learns, is applied and merged", adapter, family, data)
        for kind in KINDS:
            tap.check(f"{family}: an adapter with {kind.replace(' ', ', ')} learns, is PEFT's, is applied and merged", kind_of_adapter, family, kind, data)
    for family in ("gpt2", "llama", "opt", "phi3", "mistral"):
        tap.check(f"{family}: documents of one row do not see each other", documents, family)
        tap.check(f"{family}: a prompt teaches nothing", prompts, family)
    tap.check("perplexity is that of the forward's loss", perplexity)
    tap.check("what cannot be trained on is refused", refused)
    shutil.rmtree(tmp)
    tap.finish()


if __name__ == "__main__":
    main()
