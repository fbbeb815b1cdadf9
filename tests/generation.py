"""Generation through the command line: beams and penalties give transformers' ids, a batch gives each prompt's own answer, and what cannot be done is said in
one line.

    generation.py PROGRAM      prints TAP"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import tap
from ocelli_run import CASES, Program, load, save

MODEL = CASES / "mistral" / "model"
PROMPTS = ["The old clock", "a", "a photo of a small red cat", "In 2019, a tree", "two dogs", "x" * 40, "The old clock stood", "ç", "In 2019, a tre"]
program = Program(sys.argv[1])
tmp = Path(tempfile.mkdtemp(prefix="ocelli-generation-"))


def answers(*args, model=MODEL, **more):
    return [json.loads(x) for x in program.good("generate", "--model", model, "--json", "--threads", 2, *args, **more).out.splitlines()]


def lines(prompts):
    return "".join(p + "\n" for p in prompts)


def switches(how):
    out = []
    for name, value in how.items():
        if name != "ids" and value is not False:
            out += ["--" + name.replace("_", "-")] + ([] if value is True else [value])
    return out


def as_transformers(case, how):
    got = answers(*switches(how), model=CASES / case / "model")[0]["ids"]
    assert got == how["ids"], f"{got} instead of {how['ids']}"


def all_ids():
    for case in ["mistral", "phi3_long", "t5_small"]:
        for how in json.loads((CASES / case / "generation.json").read_text()):
            name = ", ".join(f"{k} {v}" for k, v in how.items() if k not in ("ids", "max_new_tokens"))
            tap.check(f"{case}: {name}", as_transformers, case, how)


# ---- batches -----------------------------------------------------------------------------------------------------------


def alone_and_together(*how, model=MODEL):
    alone = [answers("--prompt", p, "--max-new-tokens", 9, *how, model=model)[0] for p in PROMPTS]
    for batch in (1, 2, 4, 16):
        got = answers("--stdin", "--batch", batch, "--max-new-tokens", 9, *how, text=lines(PROMPTS), model=model)
        assert [x["prompt"] for x in got] == PROMPTS, "the order is another"
        for one, x in zip(alone, got):
            assert one == {k: v for k, v in x.items() if k != "prompt"}, f"--batch {batch}: {x} instead of {one}"


def draws_do_not_depend_on_the_batch():
    how = ["--stdin", "--max-new-tokens", 8, "--temperature", 1.5, "--seed", 3]
    first = answers(*how, "--batch", 1, text=lines(PROMPTS))
    for batch in (2, 3, 16):
        assert answers(*how, "--batch", batch, text=lines(PROMPTS)) == first, f"--batch {batch} draws others"
    same = [x["ids"] for x in answers(*how, "--batch", 2, text=lines(["a"] * 6))]
    assert len({tuple(x) for x in same}) > 1, "a prompt that is asked again gets the same draws"
    assert answers(*how, text=lines(PROMPTS)) == first and answers(*how[:-1], 4, text=lines(PROMPTS)) != first, "the seed decides"


def one_long_prompt_among_others():
    got = program.run("generate", "--model", MODEL, "--json", "--stdin", "--batch", 2, "--max-new-tokens", 3, text=lines(["a", "b", "x" * 100, "c"]))
    assert got.returncode == 1, got.returncode
    assert [json.loads(x)["prompt"] for x in got.out.splitlines()] == ["a", "b", "c"], got.out
    assert "prompt 3" in got.err and "100" in got.err and "64" in got.err, got.err


def cut_from_the_front():
    how = ["--max-new-tokens", 3]
    assert answers("--prompt", "In 2019, a tree", "--context", 8, "--cut", *how) == answers("--prompt", " a tree", *how), "another end of the prompt is kept"
    assert answers("--prompt", "a cat", "--cut", *how) == answers("--prompt", "a cat", *how), "what is short enough is cut"


def no_lines_no_answers():
    assert program.good("generate", "--model", MODEL, "--stdin", text="").out == ""


def shown_as_they_come():
    for more in ([], ["--temperature", 2, "--seed", 5]):
        how = ["--prompt", "a photo", "--max-new-tokens", 30, *more]
        text = answers(*how)[0]["text"]
        assert program.good("generate", "--model", MODEL, *how).out == text + "\n"


def stops_cut():
    whole = answers("--prompt", "The old clock", "--max-new-tokens", 14)[0]
    for at in range(1, len(whole["text"])):
        stop = whole["text"][at:at + 3]
        got = answers("--prompt", "The old clock", "--max-new-tokens", 14, "--stop", stop)[0]
        assert got["text"] == whole["text"][:whole["text"].index(stop)] and got["ended"], f"stop {stop!r}: {got}"


# ---- answers that are given ----------------------------------------------------------------------------------------------


def scores_are_sums():
    greedy = answers("--prompt", "In 2019, a tree", "--max-new-tokens", 6)[0]
    assert len(greedy["text"]) == 6 or "\ufffd" in greedy["text"]
    words = [" river", " cat", "s"]
    got = answers("--prompt", "a photo of a small red", *[y for x in words for y in ("--answer", x)])
    assert [x["tokens"] for x in got] == [len(x) for x in words]
    for x, word in zip(got, words):
        alone = answers("--prompt", "a photo of a small red", "--answer", word)[0]
        assert abs(x["logprob"] - alone["logprob"]) < 1e-9, "an answer beside others has another score"
        steps = sum(answers("--prompt", "a photo of a small red" + word[:i], "--answer", word[i])[0]["logprob"] for i in range(len(word)))
        assert abs(x["logprob"] - steps) < 1e-4, f"{x['logprob']} is not the sum of its letters' {steps}"


# ---- faults --------------------------------------------------------------------------------------------------------------


def small(*args):
    return ["generate", "--model", MODEL, "--prompt", "a cat", "--max-new-tokens", 2, *args]


def without_tokenizer():
    folder = Path(shutil.copytree(MODEL, tmp / "plain"))
    (folder / "tokenizer.json").unlink()
    program.fails("generate", "--model", folder, "--prompt", "a", says="tokenizer")


def with_bytes(model):
    """A copy with a tokenizer."""
    folder = Path(shutil.copytree(CASES / "languages" / model, tmp / model))
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(MODEL / name, folder / name)
    return folder


def headless_model():
    program.fails("generate", "--model", with_bytes("gpt2_headless"), "--prompt", "!", says="does not generate")


def narrow_model():
    """A tokenizer with more ids than the model."""
    folder = with_bytes("linear")
    program.fails("generate", "--model", folder, "--prompt", "ÿ", says="id")
    program.fails("generate", "--model", folder, "--prompt", "!", "--answer", "ÿ", says="id")


def faults():
    tap.check("a prompt that is too long", program.fails, *small("--prompt", "x" * 80), says=["80", "64", "prompt 2"])
    tap.check("a context of one's own is kept to", program.fails, *small("--context", 5), says=["5"])
    tap.check("a context beyond the model's", program.fails, *small("--context", 1000), says=["1000", "64"])
    tap.check("--cut keeps the end of a prompt", cut_from_the_front)
    tap.check("prompt and answer together too long", program.fails, "generate", "--model", MODEL, "--prompt", "x" * 40, "--answer", "y" * 40,
              says=["80", "64"])
    tap.check("--kv-dtype", program.fails, *small("--kv-dtype", "fp64"), says="fp64", code=2)
    tap.check("beams by chance", program.fails, *small("--num-beams", 2, "--temperature", 1), code=2, says="beam")
    tap.check("too many beams", program.fails, *small("--num-beams", 65), code=2)
    tap.check("a word that is no switch", program.fails, *small("word"), code=2, says="word")
    tap.check("temperature below 0", program.fails, *small("--temperature", -1), code=2)
    tap.check("top-p of 0", program.fails, *small("--top-p", 0), code=2)
    tap.check("a model that does not generate", program.fails, "generate", "--model", CASES / "clip" / "model", "--prompt", "a", says="does not generate")
    tap.check("a model without a head", headless_model)
    tap.check("no tokenizer", without_tokenizer)
    tap.check("more ids than the model knows", narrow_model)
    tap.check("a tiny temperature is greedy", tiny_temperature)


def tiny_temperature():
    assert answers(*small("--temperature", 1e-38)[3:])[0]["ids"] == answers(*small()[3:])[0]["ids"]


def names_of_a_shared_head():
    """BLIP's file may keep its table of words and the head's bias by the head's names for them, alone or beside the usual ones."""
    model, picture = CASES / "blip_caption" / "model", CASES / "images" / "wide.png"
    want = answers("--image", picture, "--max-new-tokens", 8, model=model)
    usual = load(model / "model.safetensors")
    pairs = {"text_decoder.cls.predictions.bias": "text_decoder.cls.predictions.decoder.bias",
             "text_decoder.bert.embeddings.word_embeddings.weight": "text_decoder.cls.predictions.decoder.weight"}
    for both in [False, True]:
        folder = tmp / f"shared-{both}"
        shutil.copytree(model, folder)
        (folder / "model.safetensors").unlink()
        save({**{k: v for k, v in usual.items() if both or k not in pairs}, **{new: usual[old] for old, new in pairs.items()}}, folder / "model.safetensors")
        assert answers("--image", picture, "--max-new-tokens", 8, model=folder) == want, f"both: {both}"


def ending_with(case, sep):
    """The case's model with another end token, one that it says often: so texts end early, and lengths and their penalties matter."""
    folder = tmp / f"{case}-{sep}"
    if not folder.exists():
        shutil.copytree(CASES / case / "model", folder)
        (folder / "config.json").chmod(0o644)
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["sep_token_id"] = sep
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def beams_about_pictures(case):
    """transformers' beams (tools/make_beam_cases.py), token by token: every one of them, those that differ in nothing but the prompt by one process."""
    together = {}
    for how in json.loads((CASES / "blip_beams.json").read_text()):
        if how["case"] == case:
            asked = {k: v for k, v in how.items() if k not in ("case", "image", "sep", "prompt", "ids")}
            together.setdefault((how["image"], how["sep"], *asked.items()), []).append(how)
    wrong = []
    for (image, sep, *asked), hows in together.items():
        prompts = [x for how in hows for x in ("--prompt", how.get("prompt", ""))]
        got = answers("--image", CASES / "images" / image, *switches(dict(asked)), *prompts, model=ending_with(case, sep))
        assert len(got) == len(hows), f"{len(got)} answers to {len(hows)} prompts: {hows}"
        wrong += [f"{x['ids']} instead of {how}" for x, how in zip(got, hows) if x["ids"] != how["ids"]]
    count = sum(map(len, together.values()))
    assert count == 288 and not wrong, f"{len(wrong)} of {count} are others: {wrong[:3]}"


def info_tells():
    got = json.loads(program.good("info", "--json", MODEL).out)
    assert got["capabilities"] == ["generate"] and got["context"] == 64, got
    assert got["cache_bytes_per_position"] == 2 * 2 * (4 + 4) * 4, got  # layers, heads of keys, widths of key and value, floats


def main():
    all_ids()
    tap.check("prompts together get what each gets alone", alone_and_together)
    tap.check("by beams too", alone_and_together, "--num-beams", 2)
    tap.check("of an encoder and a decoder too", alone_and_together, model=CASES / "t5_small" / "model")
    tap.check("draws do not depend on the batch", draws_do_not_depend_on_the_batch)
    tap.check("one prompt that is too long does not take the others along", one_long_prompt_among_others)
    tap.check("no lines, no answers", no_lines_no_answers)
    tap.check("text is shown as it comes", shown_as_they_come)
    tap.check("stops cut", stops_cut)
    tap.check("scores are sums", scores_are_sums)
    tap.check("info tells context and cache", info_tells)
    tap.check("a shared head's own names are read", names_of_a_shared_head)
    for case in ["blip_caption", "blip_vqa"]:
        tap.check(f"{case}: beams are transformers'", beams_about_pictures, case)
    faults()
    shutil.rmtree(tmp)
    tap.finish()


main()
