"""Training a sentence model on texts that mean the same: the loss is the ranking loss of the model's own embeddings, LoRA learns and is applied, a stopped
run goes on with the same bits.

    sentence_training.py PROGRAM      prints TAP"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import tap
from ocelli_run import CASES, Program, load

program = Program(sys.argv[1])
tmp = Path(tempfile.mkdtemp(prefix="ocelli-sentences-"))
MODEL = CASES / "minilm" / "model"
THINGS = "dog cat house river tree stone bird fish road boat".split()
LINES = [{"anchor": f"a {x} by the door", "positive": f"there stands some {x}", "negative": f"nobody saw the {y}"}
         for x, y in zip(THINGS, THINGS[1:] + THINGS[:1])]


def write(name, lines):
    (tmp / name).write_text("".join(json.dumps(x) + "\n" if isinstance(x, dict) else x + "\n" for x in lines))
    return tmp / name


def train(out, *more, data="lines.jsonl", command="finetune", code=0, model=MODEL):
    got = program.run(command, "--model", model, "--data", tmp / data, "--out", tmp / out, "--steps", 6, "--batch", 5, "--lr", "1e-2", "--seed", 5, "--metrics",
                      tmp / (out + ".metrics"), "--quiet", *more)
    assert got.returncode == code, f"exit {got.returncode} instead of {code}: {got.err[-300:]}"
    return got


def losses(out):
    return [json.loads(x)["loss"] for x in (tmp / (out + ".metrics")).read_text().splitlines()]


def weights(out):
    return (tmp / out / "adapter_model.safetensors").read_bytes()


def embed(texts, *more):
    write("texts.txt", texts)
    program.good("embed", "--model", MODEL, "--stdin", "--npy", tmp / "rows.npy", *more, text=(tmp / "texts.txt").read_text())
    rows = np.load(tmp / "rows.npy").astype(float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ranking(lines, temperature):
    """Mean over the anchors of -log of the share that texts equal to their own positive have; where there are several, of the mean log."""
    sides = [k for k in ("anchor", "positive", "negative") if k in lines[0]]
    text = {k: [x[k] for x in lines] for k in sides}
    others = sum((text[k] for k in sides[1:]), [])
    scores = embed(text["anchor"]) @ embed(others).T / temperature
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    return -np.mean([np.mean([row[k] for k, y in enumerate(others) if y == x]) for row, x in zip(logs, text["positive"])])


def is_the_ranking_loss(name, lines, *more, temperature=0.05):
    write(f"{name}.jsonl", lines)
    train(name, "--batch", len(lines), "--steps", 1, *more, data=f"{name}.jsonl")
    want, got = ranking(lines, temperature), losses(name)[0]
    assert abs(got - want) < 2e-5 * want, f"{got} instead of {want}"


def learns():
    train("adapter", "--steps", 40)
    got = losses("adapter")
    assert np.mean(got[-5:]) < 0.5 * np.mean(got[:5]), got
    names = set(load(tmp / "adapter" / "adapter_model.safetensors"))
    stem = "base_model.model.encoder.layer.0."
    assert len(names) == 2 * 6 * 2 and f"{stem}attention.output.dense.lora_A.weight" in names and f"{stem}intermediate.dense.lora_B.weight" in names, names
    assert abs(ranking_with("adapter") - got[-1]) < abs(got[0] - got[-1]), "the adapter is what was learned"


def ranking_with(adapter):
    anchors = embed([x["anchor"] for x in LINES], "--lora", tmp / adapter)
    scores = anchors @ embed([x["positive"] for x in LINES] + [x["negative"] for x in LINES], "--lora", tmp / adapter).T / 0.05
    return float(np.mean(np.log(np.exp(scores).sum(1)) - np.diag(scores)))


def merged():
    program.good("merge", "--model", MODEL, "--lora", tmp / "adapter", "--out", tmp / "merged")
    with_it = embed(THINGS, "--lora", tmp / "adapter")
    program.good("embed", "--model", tmp / "merged", "--stdin", "--npy", tmp / "merged.npy", text="\n".join(THINGS))
    rows = np.load(tmp / "merged.npy")
    off = np.abs(rows / np.linalg.norm(rows, axis=1, keepdims=True) - with_it).max()
    assert off < 1e-5 and np.abs(with_it - embed(THINGS)).max() > 1e-2, off


def resumed():
    train("whole")
    train("halves", "--stop-after", 3, code=1)
    train("halves")
    assert weights("whole") == weights("halves")


def threads(n):
    train(f"threads{n}", "--threads", n)
    train("whole")
    assert weights("whole") == weights(f"threads{n}")


def tables():
    write("lines.tsv", ["\t".join(x.values()) for x in LINES])
    train("tsv", data="lines.tsv")
    train("whole")
    assert weights("tsv") == weights("whole")


def all_weights():
    train("full", "--full", "--steps", 20, "--lr", "1e-3")
    got = losses("full")
    assert got[-1] < 0.7 * got[0] and (tmp / "full" / "1_Pooling" / "config.json").exists(), got
    program.good("embed", "--model", tmp / "full", "--text", "a dog")


def variants(name, *more):
    train(name, *more, "--steps", 25)
    got = losses(name)
    assert np.mean(got[-5:]) < 0.8 * np.mean(got[:5]), got
    embed(["a dog"], "--lora", tmp / name)


def refused():
    cases = [([{"anchor": "a"}], [], 'no "positive"'), (["a,b"], [], "line 1"), ([LINES[0], {"anchor": "a", "positive": "b"}], [], "in every line or in none"),
             ([], [], "holds no texts"), (LINES, ["--context", 129], "--context is 129, the model takes 128"), (LINES, ["--micro", 1], "--micro")]
    for lines, more, words in cases:
        write("bad.jsonl", lines)
        said = train("refused", *more, data="bad.jsonl", code=1).err
        assert words in said and len(said.strip().splitlines()) == 1, said
    (tmp / "bad.txt").write_text("a")
    assert "expected a .jsonl" in train("refused", data="bad.txt", code=1).err
    assert not (tmp / "refused").exists()


def main():
    write("lines.jsonl", LINES)
    pairs = [{k: x[k] for k in ("anchor", "positive")} for x in LINES]
    tap.check("the loss of pairs is the ranking loss of the embeddings", is_the_ranking_loss, "pairs", pairs)
    tap.check("the same with negatives and another temperature", is_the_ranking_loss, "triples", LINES, "--temperature", 0.2, temperature=0.2)
    tap.check("lines that say the same are not driven apart", is_the_ranking_loss, "twins", [*pairs[:4], {**pairs[4], "positive": pairs[1]["positive"]}])
    tap.check("LoRA learns, on the layers that embeddings are made by", learns)
    tap.check("an adapter merged gives the same embeddings", merged)
    tap.check("stopped and resumed: the same bits", resumed)
    for n in (1, 3):
        tap.check(f"{n} threads give the same bits", threads, n)
    tap.check("a table of texts is the same as lines", tables)
    tap.check("all weights learn, and the folder still embeds", all_weights)
    tap.check("DoRA", variants, "dora", "--dora")
    tap.check("rsLoRA with patterns", variants, "patterns", "--rslora", "--rank-pattern", "query=2", "--alpha-pattern", "value=3")
    tap.check("what cannot be trained on is refused", refused)
    shutil.rmtree(tmp)
    tap.finish()


if __name__ == "__main__":
    main()
