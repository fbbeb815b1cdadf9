"""The commands agree with each other: what `forward` gives is what `embed` gives, what `embed` gives is what `search` and `classify` rank by.

    commands.py PROGRAM      prints TAP"""
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import tap
import tiny_blip
import tiny_data
from ocelli_run import CASES, Program, load, save, tiers

MODEL, IMAGES = CASES / "clip" / "model", CASES / "images"
program = Program(sys.argv[1])
tmp = Path(tempfile.mkdtemp(prefix="ocelli-commands-"))
photos = tiny_data.write(tmp / "photos").parent
pictures = sorted(photos.glob("*.png"))
TEXTS = ["a red disc", "一只红色的猫", "x", "ein langer Satz über viele Dinge " * 3]


def lines(*args, **more):
    return [json.loads(x) for x in program.good(*args, "--json", **more).out.splitlines()]


def embed(*args, model=MODEL, **more):
    return np.array([x["embedding"] for x in lines("embed", "--model", model, *args, **more)])


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# ---- embed ---------------------------------------------------------------------------------------------------------


def forward_is_embed(tier):
    """Bit for bit: pixels from `preprocess` and ids from `tokenize` through `forward`, against `embed --normalize`."""
    env = {"OCELLI_CPU": tier}
    program.good("preprocess", "--model", MODEL, "--out", tmp / "px", *pictures, env=env)
    ids = [json.loads(x) for x in program.good("tokenize", "--model", MODEL, text="".join(t + "\n" for t in TEXTS), env=env).out.splitlines()]
    width = min(77, max(map(len, ids)))
    assert all(len(i) <= 77 for i in ids), "the test's texts are too long"
    padded = np.array([i + [0] * (width - len(i)) for i in ids], np.int64)
    mask = np.array([[1] * len(i) + [0] * (width - len(i)) for i in ids], np.int64)
    save({"pixel_values": load(tmp / "px")["pixel_values"], "input_ids": padded, "attention_mask": mask}, tmp / "in")
    program.good("forward", "--model", MODEL, "--in", tmp / "in", "--out", tmp / "out", env=env)
    got = load(tmp / "out")
    assert np.array_equal(got["image_embeds"], embed("--normalize", *pictures, env=env).astype(np.float32)), "pictures differ"
    assert np.array_equal(got["text_embeds"], embed("--normalize", "--text", *TEXTS, env=env).astype(np.float32)), "texts differ"


def batches_do_not_matter():
    whole = embed(*pictures)
    for n in (1, 5, 100):
        assert np.array_equal(whole, embed(*pictures, "--batch", n)), f"--batch {n} changes the numbers"
    assert np.array_equal(whole, embed(photos)), "a folder is not its pictures in order"
    assert np.array_equal(embed("--text", *TEXTS)[1], embed("--text", TEXTS[1])[0]), "a text beside others differs"


def texts_of_many_lengths():
    """Many texts share a pass, and beginnings where a family can: the rows, and their order, are those of each by itself (in tests/test_model.c of every family)."""
    words = "a the dog cat red blue house on in with night 猫 狗".split()
    texts = [" ".join(words[(3 * i + k) % len(words)] for k in range(1 + i * 7 % 19)) for i in range(64)]
    for case in ["clip", "siglip", "chinese_clip", "bert"]:
        model = CASES / case / "model"
        few, together = [embed("--batch", n, "--stdin", model=model, text="".join(t + "\n" for t in texts)) for n in (1, 64)]
        alone = np.concatenate([few[:48]] + [embed("--text", t, model=model) for t in texts[48:]])
        assert len(few) == 64 and np.array_equal(few, together), f"{case}: fewer texts at once differ"
        assert np.array_equal(alone, together), f"{case}: texts beside others of other lengths differ"


def one_array():
    program.good("embed", "--model", MODEL, "--npy", tmp / "rows.npy", *pictures, "--text", *TEXTS)
    rows = np.load(tmp / "rows.npy")
    assert rows.dtype == np.float32 and np.array_equal(rows, np.concatenate([embed(*pictures), embed("--text", *TEXTS)]).astype(np.float32))


def from_stdin():
    got = embed("--stdin", text="".join(t + "\n" for t in TEXTS))
    assert np.array_equal(got, embed("--text", *TEXTS))


def long_texts():
    long = "red disc " * 200
    got = program.good("embed", "--model", MODEL, "--json", "--text", long, "x")
    assert "1 of 2" in got.err and "77" in got.err, got.err
    ids = json.loads(program.good("tokenize", "--model", MODEL, text=long + "\n").out)
    assert len(ids) > 77, "tokenize must not cut"
    save({"input_ids": np.array([ids[:76] + ids[-1:]], np.int64)}, tmp / "in")
    program.good("forward", "--model", MODEL, "--in", tmp / "in", "--out", tmp / "out")
    row = np.array([json.loads(got.out.splitlines()[0])["embedding"]])
    assert np.abs(unit(row) - load(tmp / "out")["text_embeds"]).max() < 1e-6, "not cut with the end token kept"


def turned():
    """A picture with an orientation, and the upright one that it is."""
    a = lines("preprocess", "--model", MODEL, "--out", tmp / "px", IMAGES / "oriented.jpg")
    assert a[0]["shape"][-1] == 32, a


# ---- classify ---------------------------------------------------------------------------------------------------------


def classified():
    labels, template = ["red disc", "blue square", "stripe"], ["a picture of a {}.", "the {}"]
    got = lines("classify", "--model", MODEL, "--labels", ",".join(labels), "--template", *template, *pictures[:3])
    mean = np.array([unit(unit(embed("--text", *[t.replace("{}", x) for t in template])).mean(0, keepdims=True))[0] for x in labels])
    scale = float(np.exp(load(MODEL / "model.safetensors")["logit_scale"].astype(np.float64)))
    logits = scale * unit(embed(*pictures[:3])) @ mean.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    for row, want in zip(got, p):
        scores = {x["label"]: x["score"] for x in row["labels"]}
        assert [x["score"] for x in row["labels"]] == sorted(scores.values(), reverse=True)
        assert max(abs(scores[x] - want[i]) for i, x in enumerate(labels)) < 1e-5, f"{scores} instead of {want}"


def labels_from_a_file():
    (tmp / "labels.txt").write_text("red disc\n红色的圆\nblue square\n")
    got = lines("classify", "--model", MODEL, "--labels", tmp / "labels.txt", "--top", 2, pictures[0])
    assert len(got) == 1 and len(got[0]["labels"]) == 2


# ---- index and search ----------------------------------------------------------------------------------------------------


DB = tmp / "library.db"


def indexed(*more, folder=photos, db=DB, model=MODEL):
    return lines("index", "--model", model, "--db", db, *more, folder)[-1]


def search(*query, top=50, db=DB, model=MODEL):
    return [(Path(x["path"]).name, x["score"]) for x in lines("search", "--model", model, "--db", db, "--top", top, *query)]


def whole_index():
    got = indexed()
    assert (got["added"], got["changed"], got["removed"], got["failed"]) == (len(pictures), 0, 0, 0), got


def ranks_by_cosine(case):
    how = {"model": CASES / case / "model", "db": DB if case == "clip" else tmp / f"{case}.db"}
    assert indexed(**how)["failed"] == 0
    cosine = unit(embed(*pictures, model=how["model"])) @ unit(embed("--text", TEXTS[1], model=how["model"]))[0]
    want = {p.name: c for p, c in zip(pictures, cosine)}
    got = search(TEXTS[1], **how)
    assert len(got) == len(pictures) and [s for _, s in got] == sorted((s for _, s in got), reverse=True)
    assert max(abs(want[n] - s) for n, s in got) < 2e-3, "scores are not cosines"  # vectors may be kept at half precision
    best = [n for n, _ in got][:3]
    assert want[best[0]] > sorted(cosine)[-1] - 2e-3
    assert search("--image", pictures[4], **how)[0][0] == pictures[4].name, "a picture does not find itself"
    assert len(search(TEXTS[0], top=2, **how)) == 2


def only_what_changed():
    assert all(indexed()[k] == 0 for k in ("added", "changed", "removed", "failed"))
    extra, gone, other = photos / "extra.png", pictures[0], pictures[1]
    keep = gone.read_bytes(), other.read_bytes()
    shutil.copy(IMAGES / "photo.jpg", photos / "extra.jpg")
    gone.unlink()
    time.sleep(0.01)
    tiny_data.png(other, tiny_data.draw((1, 2, 3), "disc", 50))
    got = indexed()
    assert (got["added"], got["changed"], got["removed"], got["failed"]) == (1, 1, 1, 0), got
    names = [n for n, _ in search("x")]
    assert "extra.jpg" in names and gone.name not in names
    (photos / "extra.jpg").unlink()
    extra.unlink(missing_ok=True)
    gone.write_bytes(keep[0])
    other.write_bytes(keep[1])
    indexed()


def broken_ones_are_named():
    (photos / "broken.png").write_bytes(b"no picture")
    got = program.run("index", "--json", "--model", MODEL, "--db", DB, photos)
    assert got.returncode == 1 and "broken.png" in got.err and json.loads(got.out.splitlines()[-1])["failed"] == 1, got.err
    (photos / "broken.png").unlink()
    indexed()


def not_a_database():
    bad = tmp / "bad.db"
    bad.write_bytes(b"this is no database" * 100)
    program.fails("search", "--model", MODEL, "--db", bad, "x", says="bad.db")
    program.fails("index", "--model", MODEL, "--db", bad, photos, says="bad.db")
    assert bad.read_bytes() == b"this is no database" * 100
    program.fails("search", "--model", MODEL, "--db", tmp / "absent.db", "x", says="absent.db")
    assert not (tmp / "absent.db").exists()
    program.fails("index", "--model", MODEL, "--db", tmp / "no.db", tmp / "nowhere", says="nowhere")


def killed_while_indexing():
    """kill -9 at moments that sweep over a run: the database is whole each time, the last run completes it, and equals one never killed."""
    many = tmp / "many"
    many.mkdir()
    for i in range(250):
        tiny_data.png(many / f"{i:03}.png", tiny_data.draw((i, 255 - i, 7 * i % 256), ["disc", "square", "stripe"][i % 3], 30 + i % 20))
    kills, moments, started = 0, 8, time.monotonic()
    program.good("index", "--quiet", "--batch", "8", "--model", MODEL, "--db", tmp / "timed.db", many)
    whole = time.monotonic() - started
    for i in range(moments):
        run = subprocess.Popen([program.path, "index", "--quiet", "--batch", "8", "--model", str(MODEL), "--db", str(tmp / "killed.db"), str(many)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * (i + 1) / (moments + 1))
        if run.poll() is None:
            run.kill()
            kills += 1
        run.wait()
        if (tmp / "killed.db").exists():
            assert sqlite3.connect(tmp / "killed.db").execute("pragma integrity_check").fetchone() == ("ok",)
    assert kills, "no run lived long enough to be killed"
    indexed(folder=many, db=tmp / "killed.db")
    indexed(folder=many, db=tmp / "whole.db")
    ask = [lines("search", "--model", MODEL, "--db", tmp / db, "--top", 250, "a red disc") for db in ("killed.db", "whole.db")]
    assert ask[0] == ask[1] and len(ask[0]) == 250, "the databases differ"


def found_from_below():
    program.good("index", "--model", MODEL, photos)
    assert (photos / ".ocelli.db").exists()
    below = photos / "below" / "deeper"
    below.mkdir(parents=True)
    got = [json.loads(x) for x in program.good("search", "--model", MODEL, "--json", "--top", 1, "x", cwd=below).out.splitlines()]
    assert len(got) == 1
    shutil.rmtree(photos / "below")
    (photos / ".ocelli.db").unlink()


# ---- eval, tokenizer, info ----------------------------------------------------------------------------------------------------


def evaluated():
    got = lines("eval", "retrieval", "--model", MODEL, "--data", photos / "pairs.jsonl")[0]
    assert any(isinstance(v, (int, float)) for v in got.values()), got
    assert all(0 <= v <= 100 or "n" in k for k, v in got.items() if isinstance(v, float)), got
    lines("eval", "zeroshot", "--model", MODEL, "--data", photos / "pairs.jsonl", "--language", "text_zh")


def captions_judged():
    """Both baselines copy what NumPy says they should; predictions score the same as the baseline that wrote them."""
    data, known, copied = photos / "pairs.jsonl", tmp / "known.jsonl", tmp / "copied.jsonl"
    pairs = [json.loads(x) for x in data.read_text().splitlines()]
    known.write_text("".join(json.dumps({**p, "image": str(photos / p["image"])}) + "\n" for p in pairs[:5]))
    rows = unit(embed(*[photos / p["image"] for p in pairs]))
    nearest = (rows @ rows[:5].T).argmax(1)
    ask = ("eval", "caption", "--data", data)
    got = lines(*ask, "--baseline", "embedding", "--model", MODEL, "--train", known, "--out", copied)[0]
    said = [json.loads(x) for x in copied.read_text().splitlines()]
    assert [x["image"] for x in said] == [str(photos / p["image"]) for p in pairs], said
    assert [x["text"] for x in said] == [pairs[i]["text"][0] for i in nearest], "not the nearest picture's first text"
    assert got["pictures"] == 12 and got["references"] == 24 and got["failed"] == 0 and 0 < got["bleu1"] < 1 and 0 < got["cider_d"] < 10, got
    again = lines(*ask, "--predictions", copied)[0]
    assert got == again == lines(*ask, "--predictions", "-", text=copied.read_text())[0], f"{got} and {again}"
    own = lines(*ask, "--baseline", "neighbour", "--train", data)[0]
    assert abs(own["bleu3"] - 1) < 1e-6, f"a picture that is known is not its own neighbour: {own}"
    chinese = lines(*ask, "--baseline", "neighbour", "--train", data, "--language", "text_zh")[0]
    assert abs(chinese["bleu4"] - 1) < 1e-6 and chinese["references"] == 12, chinese
    assert "CIDEr-D " in program.good(*ask, "--predictions", copied).out


def captions_refused():
    data, said = photos / "pairs.jsonl", tmp / "said.jsonl"
    said.write_text(json.dumps({"image": "red-disc.png", "text": "a red disc"}) + "\n")
    ask = ("eval", "caption", "--data", data)
    program.fails(*ask, "--predictions", said, says=["said.jsonl", "11 of 12 are missing"])
    program.fails(*ask, "--predictions", tmp / "absent.jsonl", says="absent.jsonl")
    program.fails(*ask, "--predictions", said, "--language", "text_fr", says="no texts in 'text_fr'")
    program.fails(*ask, "--baseline", "neighbour", "--train", data, "--language", "text", "text_zh", code=2, says="one --language")
    for words, says in [((), "--predictions FILE.jsonl or --baseline"), (("--baseline", "best", "--train", data), "neighbour or embedding"),
                        (("--baseline", "neighbour"), "--train"), (("--predictions", said, "--baseline", "neighbour", "--train", data), "or --baseline"),
                        (("--predictions", said, "--out", tmp / "o.jsonl"), "--out"), (("--predictions", said, "--model", MODEL), "--model")]:
        program.fails(*ask, *words, code=2, says=says)
    broken = tmp / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no picture")
    shutil.copy(pictures[0], broken / "b.png")
    (broken / "pairs.tsv").write_text("a.png\ta broken one\nb.png\ta disc\n")
    got = program.run("eval", "caption", "--json", "--data", broken / "pairs.tsv", "--baseline", "neighbour", "--train", data, "--out", tmp / "o.jsonl")
    assert got.returncode == 1 and "a.png" in got.err and json.loads(got.out)["failed"] == 1 and json.loads(got.out)["pictures"] == 1, got.err
    assert len((tmp / "o.jsonl").read_text().splitlines()) == 1
    (tmp / "o.jsonl").unlink()
    program.fails("eval", "caption", "--data", data, "--baseline", "neighbour", "--train", broken / "none.tsv", "--out", tmp / "o.jsonl", says="none.tsv")
    assert not (tmp / "o.jsonl").exists()


def answers_judged():
    ten = ["two"] * 3 + ["2"] + ["a dog"] * 4 + ["Dog."] * 2
    asked = [{"image": "x.png", "question": "how many?", "answers": ten}, {"image": "x.png", "question": "is it?", "answers": ["yes"] * 9 + ["no"]}]
    (tmp / "questions.jsonl").write_text("".join(json.dumps(x) + "\n" for x in asked))
    said = [{"image": str(tmp / "x.png"), "question": "how many?", "text": "Two"}, {"image": "x.png", "question": "is it?", "text": "No!"},
            {"image": "y.png", "question": "is it?", "text": "No!"}]
    (tmp / "answers.jsonl").write_text("".join(json.dumps(x) + "\n" for x in said))
    got = program.good("eval", "vqa", "--json", "--data", tmp / "questions.jsonl", "--predictions", tmp / "answers.jsonl")
    assert abs(json.loads(got.out)["accuracy"] - (1 + 0.3) / 2) < 1e-9 and json.loads(got.out)["questions"] == 2, got.out
    assert "1 lines" in got.err, got.err
    (tmp / "answers.jsonl").write_text(json.dumps(said[1]) + "\n")
    program.fails("eval", "vqa", "--data", tmp / "questions.jsonl", "--predictions", tmp / "answers.jsonl", says=["how many?", "1 of 2"])
    program.fails("eval", "vqa", "--data", tmp / "questions.jsonl", code=2, says="--predictions")
    (tmp / "questions.jsonl").write_text(json.dumps({**asked[0], "answers": ["one"]}) + "\n")
    program.fails("eval", "vqa", "--data", tmp / "questions.jsonl", "--predictions", tmp / "answers.jsonl", says=["questions.jsonl line 1", "answers"])


def a_tokenizer_of_ones_own():
    (tmp / "corpus.txt").write_text("the red disc and the blue square 红色的圆和蓝色的正方形\n" * 50)
    got = lines("tokenizer", "--size", 560, "--out", tmp / "tokenizer", tmp / "corpus.txt")[-1]
    assert 512 <= got["size"] <= 560, got
    model = Path(shutil.copytree(MODEL, tmp / "with-tokenizer"))
    for p in (tmp / "tokenizer").iterdir():
        shutil.copy(p, model)
    mine, theirs = [len(json.loads(program.good("tokenize", "--model", m, text="the red disc 红色的圆\n").out)) for m in (model, MODEL)]
    assert mine < theirs, f"{mine} ids, {theirs} by a tokenizer that never saw such words"


def in_fewer_bits():
    """What `quantize` writes is what --dtype makes in memory, is near, is smaller, and is not rounded or trained again."""
    exact = unit(embed("--text", *TEXTS))
    for dtype, least in (("bf16", 0.9999), ("int8", 0.995), ("int4", 0.7)):
        small = tmp / f"quantized-{dtype}"
        program.good("quantize", "--model", MODEL, "--dtype", dtype, "--out", small)
        rows = np.array([x["embedding"] for x in lines("embed", "--model", small, "--text", *TEXTS)])
        assert dtype == "bf16" or np.array_equal(rows, embed("--text", *TEXTS, "--dtype", dtype)), dtype
        assert not np.array_equal(unit(rows), exact) and (unit(rows) * exact).sum(1).min() > least, dtype
    bits = json.loads((small / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"]
    assert bits == 4 and (small / "model.safetensors").stat().st_size < (tmp / "quantized-int8/model.safetensors").stat().st_size
    pairs = tmp / "pairs.tsv"
    pairs.write_text(f"{pictures[0]}\ta red disc\n{pictures[1]}\tanother\n")
    program.good("quantize", "--model", MODEL, "--dtype", "int4", "--group", 1024, "--out", tmp / "one-group")
    group = json.loads((tmp / "one-group/config.json").read_text())["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"]
    held = load(tmp / "one-group/model.safetensors")
    for name in (n for n in held if n.endswith(".weight_packed")):
        k = held[name.replace("_packed", "_shape")][1]
        assert held[name.replace("_packed", "_scale")].shape[1] == -(-k // group), f"{name}: groups are not {group} wide"
    program.good("quantize", "--model", CASES / "open_clip/model", "--dtype", "int8", "--out", tmp / "open-clip-int8")
    program.good("embed", "--model", tmp / "open-clip-int8", "--text", "a")
    for words in (("quantize", "--dtype", "int8"), ("train", "--data", pairs, "--steps", 1)):
        program.fails(*words, "--model", small, "--out", tmp / "refused", says=["is quantised", "start from"])
        assert not (tmp / "refused").exists() or not list((tmp / "refused").iterdir())


def facts():
    got = lines("info", MODEL)[0]
    held = {k: v for k, v in load(MODEL / "model.safetensors").items() if v.dtype.kind == "f"}
    assert got["family"] == "clip" and got["parameters"] == sum(v.size for v in held.values()), got
    assert set(got["capabilities"]) == {"embed_images", "embed_texts"} and got["weights_bytes"] == 4 * got["parameters"]
    tied = CASES / "t5" / "model"  # its head is its table, which the file holds once
    got_tied, names = lines("info", tied)[0], program.good("info", "--weights", tied).out
    assert got_tied["parameters"] == sum(v.size for v in load(tied / "model.safetensors").values()) and "lm_head" not in names, got_tied
    more = lines("info", MODEL, "--batch", 64)[0]
    assert more["arena_bytes"] > got["arena_bytes"] > 0
    for case in ("gpt2", "llama", "t5", "blip_caption", "blip_vqa"):
        model = CASES / case / "model"
        plain = lines("info", "--batch", 8, model)[0]
        context = min(plain["context"], 1024)  # as bench has it
        for threads in ((), ("--threads", 2), ("--threads", 3)):
            said = lines("info", "--batch", 8, "--context", context, *threads, model)[0]
            measured = lines("bench", "speak", "--model", model, "--batch", 8, *threads, "--seconds", 0.01)
            for key in ("arena_bytes", "cache_bytes"):
                assert {x[key] for x in measured} == {said[key]}, f"{case}, {threads}: {said}, {measured}"
        fewer = lines("info", "--batch", 1, "--context", 20, "--threads", 2, model)[0]
        assert fewer["cache_bytes"] < said["cache_bytes"] and fewer["arena_bytes"] < said["arena_bytes"], f"{case}: {fewer}"
    assert "MB for a batch of 2 with 100 each" in program.good("info", "--batch", 2, "--context", 100, CASES / "llama" / "model").out
    program.fails("info", "--context", 4096, CASES / "llama" / "model", says=["4096", "128"])
    program.fails("info", "--context", 64, MODEL, says=["does not generate"])
    both = lines("info", "--batch", 8, "--context", 48, tiny_blip.does_all(tmp / "does_all"))[0]
    assert set(both["capabilities"]) >= {"generate", "answer", "match"}, both  # a question is kept longer than a picture of a few rows
    one = lines("info", "--batch", 8, "--context", 48, CASES / "blip_caption" / "model")[0]
    assert both["cache_bytes"] > one["cache_bytes"] and "answer" not in one["capabilities"], f"{both}, {one}"


def towers():
    """A tower alone embeds what it can and says what it cannot; open_clip's folder does both."""
    photo = CASES / "images" / "photo.jpg"
    can = {"clip_text_projection": ["embed_texts"], "clip_vision_projection": ["embed_images"], "open_clip": ["embed_images", "embed_texts"]}
    for case, able in can.items():
        model = CASES / case / "model"
        got = lines("info", model)[0]
        assert got["capabilities"] == able and got["embedding"] == 12, f"{case}: {got}"
        for what, word, args in [("embed_texts", "texts", ["--text", "a cat"]), ("embed_images", "pictures", [photo])]:
            if what in able:
                assert len(lines("embed", "--model", model, *args)[0]["embedding"]) == 12
            else:
                program.fails("embed", "--model", model, *args, says=f"does not embed {word}")


def judged():
    """SigLIP's probabilities are of each label by itself, as transformers gives them; Chinese-CLIP's share one softmax."""
    for case in ["siglip", "chinese_clip"]:
        spec = next(x for x in json.loads((CASES / case / "case.json").read_text())["checks"] if x["kind"] == "zero_shot")
        paths = [CASES / case / p for p in spec["images"]]
        labels = tmp / f"labels-{case}"
        labels.write_text("\n".join(spec["labels"]) + "\n")
        got = lines("classify", "--model", CASES / case / "model", "--json", "--labels", labels, "--template", "{}", *paths)
        for row, want in zip(got, spec["probs"]):
            by = {x["label"]: x["score"] for x in row["labels"]}
            assert np.allclose([by[x] for x in spec["labels"]], want, atol=1e-5), f"{case}: {by} instead of {want}"


def first_rows():
    """A sentence model that is pooled by its first row computes that row alone in the last layer: the same as of all rows."""
    model = Path(shutil.copytree(CASES / "minilm" / "model", tmp / "first-row"))
    (model / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 60, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    texts = ["a photo of a cat", "two dogs run", "a tree"]
    ids = [json.loads(x) for x in program.good("tokenize", "--model", model, text="".join(t + "\n" for t in texts)).out.splitlines()]
    width = max(map(len, ids))
    save({"input_ids": np.array([i + [0] * (width - len(i)) for i in ids], np.int64),
          "attention_mask": np.array([[1] * len(i) + [0] * (width - len(i)) for i in ids], np.int64)}, tmp / "in")
    program.good("forward", "--model", model, "--in", tmp / "in", "--out", tmp / "out")
    want = unit(load(tmp / "out")["last_hidden_state"][:, 0])
    got = np.array([x["embedding"] for x in lines("embed", "--model", model, "--normalize", "--text", *texts)])
    mean = np.array([x["embedding"] for x in lines("embed", "--model", CASES / "minilm" / "model", "--normalize", "--text", *texts)])
    assert np.allclose(got, want, atol=1e-5) and not np.allclose(got, mean, atol=1e-2), np.abs(got - want).max()


def lines_of_a_text():
    """The lines nearest in meaning, with their numbers in the file; empty ones count and are not found."""
    model, text = CASES / "minilm" / "model", tmp / "lines.txt"
    sentences = ["a photo of a cat", "", "two dogs run", "a tree", "cats and dogs"]
    text.write_text("\n".join(sentences))
    got = lines("search", "--model", model, "--lines", text, "--json", "two dogs run")
    assert [got[0]["line"], got[0]["text"]] == [3, "two dogs run"] and abs(got[0]["score"] - 1) < 1e-5 and len(got) == 4, got
    rows = [np.array(lines("embed", "--model", model, "--normalize", "--text", s)[0]["embedding"]) for s in sentences if s]
    want = sorted((float(r @ rows[1]) for r in rows), reverse=True)
    assert np.allclose([x["score"] for x in got], want, atol=1e-5), f"{got} instead of {want}"
    text.write_text("\n\n")
    program.fails("search", "--model", model, "--lines", text, "a", says="holds no line")


def switches_are_told_apart():
    """A switch declared twice would set only the first of its two meanings."""
    commands = re.findall(r"^  ([a-z]+)  ", program.good("--help").out, re.M)
    assert len(commands) > 15
    for command in commands:
        names = re.findall(r"^  (--[a-z0-9-]+)", program.good(command, "--help").out.split("common switches")[0], re.M)
        twice = {n for n in names if names.count(n) > 1}
        assert names and not twice, f"{command}: {twice}"


def main():
    for tier in tiers(program)[0]:
        tap.check(f"{tier}: forward is the code path of embed", forward_is_embed, tier)
    tap.check("batches do not matter", batches_do_not_matter)
    tap.check("texts of many lengths", texts_of_many_lengths)
    tap.check("--npy is all rows", one_array)
    tap.check("texts from standard input", from_stdin)
    tap.check("long texts are cut with their end token kept, and it is said", long_texts)
    tap.check("pictures with an orientation", turned)
    tap.check("classify is the softmax of scaled cosines to averaged templates", classified)
    tap.check("labels come from a file", labels_from_a_file)
    tap.check("a folder is indexed", whole_index)
    for case in ("clip", "siglip", "chinese_clip", "blip_retrieval", "open_clip"):
        tap.check(f"{case}: search ranks by cosine", ranks_by_cosine, case)
    tap.check("only new and changed files are encoded", only_what_changed)
    tap.check("broken pictures are named", broken_ones_are_named)
    tap.check("what is no database is refused and kept", not_a_database)
    tap.check("kill -9 while indexing", killed_while_indexing)
    tap.check("the database is found from below", found_from_below)
    tap.check("eval answers", evaluated)
    tap.check("captions are judged, and copied by two baselines", captions_judged)
    tap.check("captions that cannot be judged are refused", captions_refused)
    tap.check("answers are judged as VQA judges them", answers_judged)
    tap.check("a tokenizer of one's own", a_tokenizer_of_ones_own)
    tap.check("fewer bits in memory and on disk", in_fewer_bits)
    tap.check("info tells the truth", facts)
    tap.check("no command has two switches of one name", switches_are_told_apart)
    tap.check("probabilities of a softmax and of sigmoids", judged)
    tap.check("a sentence model pooled by its first row", first_rows)
    tap.check("the lines of a text are searched", lines_of_a_text)
    tap.check("a tower alone and open_clip's layout are read", towers)
    shutil.rmtree(tmp)
    tap.finish()


main()
