"""The commands that describe pictures, answer, match and judge: caption, ask, match, search --rerank, eval. They say what `forward` says.

    describing.py PROGRAM      prints TAP"""
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import tap
import tiny_blip
import tiny_data
from ocelli_run import CASES, Program, load, save, tiers

CAPTIONER, ANSWERER, MATCHER, CLIP = [CASES / c / "model" for c in ("blip_caption", "blip_vqa", "blip_retrieval", "clip")]
ALL = CASES / "blip_pretrain_tied" / "model"
IMAGES = CASES / "images"
program = Program(sys.argv[1])
tmp = Path(tempfile.mkdtemp(prefix="ocelli-describing-"))
photos = tiny_data.write(tmp / "photos").parent
pictures = sorted(photos.glob("*.png"))
some = [IMAGES / x for x in ("wide.png", "tall.png", "square.png", "photo.jpg")]
TEXTS = ["a red disc", "the cat on the table", "x"]
CHOICES = ["yes", "two dogs", "no", "red", "the cat"]


def lines(*args, **more):
    return [json.loads(x) for x in program.good(*args, "--json", **more).out.splitlines()]


def checks_of(case):
    return [x for x in json.loads((CASES / case / "case.json").read_text())["checks"] if x["kind"] == "generate"]


def ids_of(model, texts):
    return [json.loads(x) for x in program.good("tokenize", "--model", model, text="".join(t + "\n" for t in texts)).out.splitlines()]


def padded(rows):
    width = max(map(len, rows))
    return (np.array([r + [0] * (width - len(r)) for r in rows], np.int64), np.array([[1] * len(r) + [0] * (width - len(r)) for r in rows], np.int64))


def forward(model, paths, **tensors):
    """The outputs of `forward` for pictures, one for each row."""
    program.good("preprocess", "--model", model, "--out", tmp / "px", *paths)
    save({**load(tmp / "px"), **tensors}, tmp / "in")
    program.good("forward", "--model", model, "--in", tmp / "in", "--out", tmp / "out")
    return load(tmp / "out")


# ---- caption -------------------------------------------------------------------------------------------------------


def captions(*args, model=CAPTIONER, **more):
    return lines("caption", "--model", model, *args, **more)


def captions_of_transformers(tier):
    for c in checks_of("blip_caption"):
        prompt = ["--prompt", c["prompt"]] if "prompt" in c else []
        path = CASES / "blip_caption" / c["image"]
        got = captions("--max-new-tokens", c["max_new_tokens"], *prompt, path, env={"OCELLI_CPU": tier})[0]
        assert got["ids"] == c["ids"] and got["text"] == c["text"] and got["image"] == str(path), f"{c['check']}: {got}"


def captions_do_not_depend_on_the_batch():
    (tmp / "gone.png").write_bytes(b"no picture")
    for how in ([], ["--num-beams", 3, "--min-new-tokens", 4], ["--top-p", 0.9, "--seed", 5], ["--temperature", 2, "--top-k", 9, "--repetition-penalty", 1.3]):
        alone = [captions(*how, p)[0] for p in some] if "--seed" not in how and "--temperature" not in how else captions(*how, "--batch", 1, *some)
        for batch in (1, 2, 3, 8):
            assert captions(*how, "--batch", batch, *some) == alone, f"--batch {batch} {how}"
        got = program.run("caption", "--model", CAPTIONER, "--json", *how, "--batch", 2, *some[:1], tmp / "gone.png", *some[1:])
        left = [json.loads(x) for x in got.out.splitlines()]
        assert got.returncode == 1 and len(got.err.splitlines()) == 1 and "gone.png" in got.err, got.err
        assert [x["image"] for x in left] == [str(p) for p in some] and left[0] == alone[0], left
        if "--seed" not in how and "--temperature" not in how:
            assert left == alone, "a picture that cannot be read changes the others"


def drawn():
    a, b = captions("--top-p", 0.9, "--seed", 1, *some), captions("--top-p", 0.9, "--temperature", 1, "--seed", 1, *some)
    assert a == b and a != captions("--top-p", 0.9, "--seed", 2, *some), "--top-p alone draws at temperature 1, by the seed"
    assert captions("--top-p", 0.9, "--temperature", 0, *some) == captions(*some)
    program.fails("caption", "--model", CAPTIONER, "--num-beams", 3, "--top-p", 0.9, some[0], code=2, says="beam")


def lengths():
    greedy = captions(some[0])[0]["ids"]
    assert len(greedy) <= 20 and captions("--max-new-tokens", 3, some[0])[0]["ids"] == greedy[:3]
    folder = Path(shutil.copytree(CAPTIONER, tmp / "soon"))  # every caption ends at once, unless it must not
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["sep_token_id"] = greedy[1]
    (folder / "config.json").write_text(json.dumps(config))
    assert captions(some[0], model=folder)[0]["ids"] == greedy[:2]
    longer = captions("--min-new-tokens", 5, some[0], model=folder)[0]["ids"]
    assert len(longer) >= 5 and greedy[1] not in longer[:4], longer


def layouts():
    out = program.good("caption", "--model", CAPTIONER, *some[:2]).out
    assert out == "".join(f"{x['image']}\t{x['text']}\n" for x in captions(*some[:2])), out
    (tmp / "list.txt").write_text("".join(f"{p}\n" for p in pictures))
    assert captions(f"@{tmp / 'list.txt'}") == captions(photos) == captions(*pictures)


def caption_faults():
    (tmp / "empty").mkdir()
    program.fails("caption", "--model", CAPTIONER, tmp / "empty", says=["no pictures", "empty"])
    program.fails("caption", "--model", CAPTIONER, some[0], tmp / "empty", says=["no pictures", "empty"])
    (tmp / "none.txt").write_text("\n")
    program.fails("caption", "--model", CAPTIONER, some[0], f"@{tmp / 'none.txt'}", says=["none.txt", "no picture"])
    program.fails("caption", "--model", CAPTIONER, some[0], "--num-beams", 3, "--top-p", 0.9, code=2, says="--num-beams")
    program.fails("caption", "--model", CAPTIONER, some[0], "--min-new-tokens", 30, code=2, says="--min-new-tokens")
    program.fails("caption", "--model", CAPTIONER, code=2, says="pictures or folders")
    program.fails("caption", "--model", CAPTIONER, tmp / "absent.png", says="absent.png")
    program.fails("caption", "--model", CLIP, some[0], says="writes nothing about pictures")
    program.fails("caption", "--model", CASES / "gpt2/model", some[0], says="writes nothing about pictures")
    program.fails("caption", "--model", ANSWERER, some[0], says=["answers questions", "ocelli ask"])
    program.fails("caption", "--model", CAPTIONER, "--prompt", "a cat " * 100, some[0], says=["the prompt has"])
    program.fails("caption", "--model", tmp / "nowhere", some[0], says="nowhere")


# ---- ask ------------------------------------------------------------------------------------------------------------


def asked(*args, model=ANSWERER, **more):
    return lines("ask", "--model", model, *args, **more)


def answers_of_transformers(tier):
    env = {"OCELLI_CPU": tier}
    checks = checks_of("blip_vqa")
    paths = [CASES / "blip_vqa" / c["image"] for c in checks]
    many = "".join(json.dumps({"image": str(p), "question": c["prompt"]}) + "\n" for p, c in zip(paths, checks))
    for batch in (1, 4):
        for got, c, p in zip(asked("--stdin", "--batch", batch, "--max-new-tokens", checks[0]["max_new_tokens"], text=many, env=env), checks, paths):
            assert (got["ids"], got["question"], got["image"]) == (c["ids"], c["prompt"], str(p)), f"{c['check']}: {got}"
    one = asked("--max-new-tokens", checks[0]["max_new_tokens"], "--image", paths[0], checks[0]["prompt"], env=env)
    assert [x["ids"] for x in one] == [checks[0]["ids"]], one


def answer_layouts():
    plain = program.good("ask", "--model", ANSWERER, "--image", some[0], "is it red?").out
    got = asked("--image", some[0], "--image", some[1], "is it red?")
    assert plain == got[0]["text"] + "\n", plain
    both = program.good("ask", "--model", ANSWERER, "--image", some[0], "--image", some[1], "is it red?").out
    assert both == "".join(f"{x['image']}\t{x['text']}\n" for x in got), both
    assert [x["image"] for x in asked("--image", photos, "is it red?")] == [str(p) for p in pictures]


def log_softmax(x):
    x = x.astype(np.float64)
    top = x.max(-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(-1, keepdims=True))


def expected_scores(question, path, enc=False):
    """By `forward`: log-probabilities of each choice and the end behind [DEC]."""
    config = json.loads((ANSWERER / "config.json").read_text())["text_config"]
    answers = [[config["bos_token_id"]] + ids[1:-1] + [config["sep_token_id"]] for ids in ids_of(ANSWERER, CHOICES)]
    ids, mask = padded(answers)
    question = np.array(ids_of(ANSWERER, [question]) * len(CHOICES), np.int64)
    question[:, 0] = config["bos_token_id"] + 1 if enc else question[:, 0]
    out = forward(ANSWERER, [path] * len(CHOICES), input_ids=question, attention_mask=np.ones_like(question), decoder_input_ids=ids, decoder_attention_mask=mask)
    p = log_softmax(out["logits"])
    return [sum(p[i, t, a[t + 1]] for t in range(len(a) - 1)) for i, a in enumerate(answers)]


def ranked():
    for question, path in [("what color is it?", some[0]), ("how many?", some[1])]:
        want = dict(zip(CHOICES, expected_scores(question, path)))
        got = asked("--image", path, "--choices", ",".join(CHOICES), question)[0]
        scores = {x["text"]: x["score"] for x in got["choices"]}
        assert max(abs(scores[x] - want[x]) for x in CHOICES) < 2e-3, f"{scores} instead of {want}"
        order = [x["score"] for x in got["choices"]]
        assert order == sorted(order, reverse=True) and got["text"] == got["choices"][0]["text"] == max(want, key=want.get)
        assert got["ids"] == ids_of(ANSWERER, [got["text"]])[0][1:-1]
        (tmp / "choices.txt").write_text("\n".join(CHOICES) + "\n")
        assert asked("--image", path, "--choices", tmp / "choices.txt", question)[0] == got
    plain = program.good("ask", "--model", ANSWERER, "--image", some[0], "--choices", "yes,no", "is it red?").out.splitlines()
    assert len(plain) == 2 and {x.split()[1] for x in plain} == {"yes", "no"}, plain


def with_enc_token():
    """[ENC] in the question's first place is what --enc-token does."""
    want = dict(zip(CHOICES, expected_scores("is it red?", some[0], enc=True)))
    got = [{x["text"]: x["score"] for x in asked("--image", some[0], "--choices", ",".join(CHOICES), *more, "is it red?")[0]["choices"]}
           for more in ([], ["--enc-token"])]
    assert max(abs(got[1][x] - want[x]) for x in CHOICES) < 2e-3, f"{got[1]} instead of {want}"
    assert max(abs(got[0][x] - want[x]) for x in CHOICES) > 1e-2, "--enc-token changes nothing"


def one_model_asks_and_captions():
    """A pre-training model answers as the answering class does of [ENC] and a question, and captions as the captioning class does."""
    both, captioner = tiny_blip.does_all(tmp / "both"), tiny_blip.captions_only(tmp / "captioner")
    for how in ([], ["--num-beams", 3, "--min-new-tokens", 3], ["--top-k", 5, "--seed", 4], ["--choices", ",".join(CHOICES)], ["--dtype", "int8"]):
        question = ["--image", some[0], "--image", some[1], "what color is it?"]
        got = asked(*how, *question, model=both)
        assert got == asked(*how, "--enc-token", *question) and got != asked(*how, *question), f"ask {how}: {got}"
    for how in ([], ["--num-beams", 3], ["--prompt", "a photo of"]):
        assert captions(*how, *some, model=both) == captions(*how, *some, model=captioner), f"caption {how}"
    (tmp / "both.jsonl").write_text("".join(json.dumps({"image": str(p), "question": "is it red?", "answers": ["yes", "yes", "a dog"]}) + "\n" for p in some))
    for how in ([], ["--choices", ",".join(CHOICES)]):
        got = [lines("eval", "vqa", "--data", tmp / "both.jsonl", *how, "--model", *m)[0] for m in ([both], [ANSWERER, "--enc-token"])]
        assert got[0] == got[1], got
    judged = [lines("match", "--model", both, *more, some[0], *TEXTS) for more in ([], ["--enc-token"])]
    assert judged[0] == judged[1], "its texts always begin with [ENC]"


def drawn_star(draw):
    long_and_short = [42 if k % 2 == 0 else 17 for k in range(10)]
    draw.polygon([(48 + r * math.sin(k * math.pi / 5), 48 - r * math.cos(k * math.pi / 5)) for k, r in enumerate(long_and_short)], fill="#ffac33")


def shipped_captioner():
    """It names what is drawn here, in both languages, and answers no questions, which it never learned."""
    shapes = {"disc": ("red circle", "红色圆", lambda d: d.ellipse((8, 8, 88, 88), fill="#dd2e44")),
              "square": ("blue square", "蓝色方块", lambda d: d.rectangle((10, 10, 86, 86), fill="#3b88c3")),
              "star": ("star", "星星", drawn_star)}
    paths = []
    for name, (_, _, draw) in shapes.items():
        image = Image.new("RGB", (96, 96), "white")
        draw(ImageDraw.Draw(image))
        image.save(tmp / f"drawn-{name}.png")
        paths.append(tmp / f"drawn-{name}.png")
    shipped = "starter-caption"
    assert [x["text"] for x in captions("--num-beams", 3, *paths, model=shipped)] == [s[0] for s in shapes.values()]
    assert [x["text"] for x in captions("--num-beams", 3, "--prompt", "中文：", *paths, model=shipped)] == [s[1] for s in shapes.values()]
    program.fails("ask", "--model", shipped, "--image", paths[0], "what is it?", says=["never learned", "vqa"])
    assert "answer" not in lines("info", shipped)[0]["capabilities"]


def answers_that_were_not_learned():
    """What says that it never learned to answer is not asked; it may still learn it, whole or by an adapter, and says so then."""
    mute = shutil.copytree(tiny_blip.does_all(tmp / "to-be-mute"), tmp / "mute")
    config = json.loads((mute / "config.json").read_text())
    (mute / "config.json").write_text(json.dumps({**config, "answers": False}))
    program.fails("ask", "--model", mute, "--image", some[0], "is it red?", says=["never learned", "vqa"])
    (tmp / "learn.jsonl").write_text("".join(json.dumps({"image": str(p), "question": "is it red?", "text": "yes"}) + "\n" for p in some))
    how = ("--data", tmp / "learn.jsonl", "--steps", 1, "--batch", 2, "--objectives", "vqa", "--quiet")
    program.good("train", "--model", mute, "--out", tmp / "learned", *how)
    assert json.loads((tmp / "learned/config.json").read_text()) == {**config, "answers": True}
    assert asked("--image", some[0], "is it red?", model=tmp / "learned")
    program.good("finetune", "--model", mute, "--out", tmp / "adapter", *how)
    said = asked("--image", some[0], "--lora", tmp / "adapter", "is it red?", model=mute)[0]
    program.good("merge", "--model", mute, "--lora", tmp / "adapter", "--out", tmp / "merged")
    assert json.loads((tmp / "merged/config.json").read_text()) == {**config, "answers": True}
    now = asked("--image", some[0], "is it red?", model=tmp / "merged")[0]
    assert now["ids"][0] == said["ids"][0], (said, now)


def question_faults():
    good = ("--image", some[0])
    program.fails("ask", "--model", ANSWERER, *good, "--image", tmp / "empty", "is it red?", says=["no pictures", "empty"])
    program.fails("ask", "--model", ANSWERER, "is it red?", code=2, says="--image")
    program.fails("ask", "--model", ANSWERER, *good, code=2, says="question")
    program.fails("ask", "--model", ANSWERER, *good, "  ", code=2, says="empty")
    program.fails("ask", "--model", ANSWERER, *good, "a?", "b?", code=2, says="one question")
    program.fails("ask", *good, "a?", code=2, says="--model")
    (tmp / "one.txt").write_text("yes\n")
    program.fails("ask", "--model", ANSWERER, *good, "--choices", tmp / "one.txt", "a?", code=2, says=["is one answer", "at least two"])
    program.fails("ask", "--model", ANSWERER, *good, "--choices", "yes", "a?", code=2, says=["yes", "neither a file nor a list"])
    program.fails("ask", "--model", ANSWERER, *good, "--choices", "yes,no,yes", "a?", code=2, says="twice")
    program.fails("ask", "--model", CAPTIONER, *good, "a?", says=["does not answer", "ocelli caption --prompt"])
    program.fails("ask", "--model", ALL, *good, "a?", says=["does not answer", "ocelli caption --prompt"])
    program.fails("ask", "--model", CLIP, *good, "a?", says="writes nothing about pictures")
    program.fails("ask", "--model", ANSWERER, "--image", tmp / "absent.png", "a?", says="absent.png")
    program.fails("ask", "--model", ANSWERER, *good, "dogs " * 60, says="tokens")


def lines_that_are_no_questions():
    fine = {"image": str(some[0]), "question": "is it red?"}
    text = "\n".join([json.dumps(fine), "no json", '{"question": "a?"}', json.dumps({"image": "a.png"}), json.dumps({**fine, "question": " "}), "[]", "",
                      json.dumps({**fine, "image": "absent.png"}), json.dumps(fine)]) + "\n"
    got = program.run("ask", "--model", ANSWERER, "--stdin", "--json", text=text)
    err = got.err.splitlines()
    assert got.returncode == 1 and len(err) == 6 and len(got.out.splitlines()) == 2, got.err
    for line, says in zip(err, ["line 2", "line 3'", "line 4'", "line 5'", "line 6'", "absent.png"]):
        assert says in line, f"{line} does not say {says}"
    assert program.good("ask", "--model", ANSWERER, "--stdin", text="").out == ""


# ---- match -----------------------------------------------------------------------------------------------------------


def softmax_of_second(x):
    return 1 / (1 + np.exp(x[:, 0].astype(np.float64) - x[:, 1]))


def pairs_by_forward(model, paths, texts, enc=False):
    """itc [pictures, texts] and the logit of `together`, both logits [pictures * texts, 2]."""
    rows = ids_of(model, texts)
    for r in rows:
        if enc:
            r[0] = json.loads((model / "config.json").read_text())["text_config"]["bos_token_id"] + 1
    ids, mask = padded(rows)
    n, t = len(paths), len(texts)
    out = forward(model, [p for p in paths for _ in texts], input_ids=np.tile(ids, (n, 1)), attention_mask=np.tile(mask, (n, 1)))
    return out["itc_score"][::t, :t], out["itm_score"]


def matched():
    itc, logits = pairs_by_forward(MATCHER, some, TEXTS)
    itm = softmax_of_second(logits).reshape(len(some), -1)
    for i, path in enumerate(some):
        got = lines("match", "--model", MATCHER, path, *TEXTS)
        assert [(x["image"], x["text"]) for x in got] == [(str(path), t) for t in TEXTS]
        assert np.allclose([x["itc"] for x in got], itc[i], atol=1e-5) and np.allclose([x["itm"] for x in got], itm[i], atol=1e-5), got
        assert lines("match", "--model", MATCHER, path, TEXTS[1])[0] == got[1], "a pair among others is another"
    _, logits = pairs_by_forward(MATCHER, some[:1], TEXTS, enc=True)
    got = lines("match", "--model", MATCHER, "--enc-token", some[0], *TEXTS)
    assert np.allclose([x["itm"] for x in got], softmax_of_second(logits), atol=1e-5), got
    assert np.allclose([x["itc"] for x in got], itc[0], atol=1e-5), "--enc-token is none of ITC's business"
    assert not np.allclose([x["itm"] for x in got], itm[0], atol=1e-4), "--enc-token changes nothing"
    assert set(lines("match", "--model", ALL, some[0], "a")[0]) == {"image", "text", "itc", "itm"}


def matched_by_vectors():
    for model in (CLIP, CASES / "siglip" / "model"):
        got = lines("match", "--model", model, photos, "a red disc", "x")
        rows = [np.array([x["embedding"] for x in lines("embed", "--model", model, "--normalize", *args)]) for args in ((photos,), ("--text", "a red disc", "x"))]
        assert np.allclose([x["itc"] for x in got], (rows[0] @ rows[1].T).ravel(), atol=1e-5) and all("itm" not in x for x in got)
    program.fails("match", "--model", CLIP, "--enc-token", some[0], "a", says="no head")


def match_faults():
    program.fails("match", "--model", MATCHER, some[0], code=2, says="IMAGE TEXT")
    program.fails("match", "--model", MATCHER, tmp / "absent.png", "a", says="absent.png")
    program.fails("match", "--model", CAPTIONER, some[0], "a", says="does not embed")
    program.fails("match", "--model", MATCHER, tmp / "empty", "a", says="no pictures")


# ---- search --rerank ------------------------------------------------------------------------------------------------------


def reranked():
    folder = Path(shutil.copytree(photos, tmp / "shelf"))
    db = ("--db", tmp / "shelf.db", "--model", CLIP)
    program.good("index", *db, folder)
    by_cosine = lines("search", *db, "--top", 50, "a red disc")
    together = {Path(x["image"]).name: x["itm"] for x in lines("match", "--model", MATCHER, folder, "a red disc")}
    want = sorted(together, key=together.get, reverse=True)
    for batch in (1, 5, 8):
        got = lines("search", *db, "--rerank", MATCHER, "--top", 50, "--batch", batch, "a red disc")
        assert [Path(x["path"]).name for x in got] == want, f"{got} instead of {want}"
        assert all(abs(x["score"] - together[Path(x["path"]).name]) < 1e-5 for x in got)
        assert {x["path"]: x["cosine"] for x in got} == {x["path"]: x["score"] for x in by_cosine}
    few = lines("search", *db, "--rerank", MATCHER, "--rerank-top", 4, "--top", 3, "a red disc")
    first = [Path(x["path"]).name for x in by_cosine[:4]]
    assert [Path(x["path"]).name for x in few] == sorted(first, key=together.get, reverse=True)[:3], few
    gone = [want[0], want[5]]
    for name in gone:
        (folder / name).unlink()
    got = program.run("search", *db, "--rerank", MATCHER, "--top", 50, "--json", "a red disc")
    names = [Path(json.loads(x)["path"]).name for x in got.out.splitlines()]
    order = [Path(x["path"]).name for x in by_cosine if Path(x["path"]).name in gone]
    assert got.returncode == 1 and len(got.err.splitlines()) == 2 and all(n in got.err for n in gone), got.err
    assert names == [n for n in want if n not in gone] + order, names
    assert [json.loads(x)["score"] for x in got.out.splitlines()[-2:]] == [None, None]


def rerank_faults():
    db = ("--db", tmp / "shelf.db", "--model", CLIP)
    program.fails("search", *db, "--rerank", CLIP, "a", says=["--rerank", "no head"])
    program.fails("search", *db, "--rerank", MATCHER, "--image", some[0], code=2, says="--image")
    program.fails("search", *db, "--rerank", MATCHER, "--top", 9, "--rerank-top", 3, "a", code=2, says="fewer")
    program.fails("search", *db, "--rerank-top", 3, "a", code=2, says="--rerank")
    program.fails("search", *db, "--rerank", tmp / "nowhere", "a", says="nowhere")


# ---- eval ------------------------------------------------------------------------------------------------------------------


def places(scores):
    """Of the right column of each row, from 1; equal ones by column."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.array([np.where(o == i)[0][0] + 1 for i, o in enumerate(order)])


def retrieval_reranked():
    data = photos / "pairs.jsonl"
    pairs = [json.loads(x) for x in data.read_text().splitlines()]
    paths, texts = [photos / x["image"] for x in pairs], [x["text"][0] for x in pairs]
    itc, logits = pairs_by_forward(MATCHER, paths, texts)
    itm = logits[:, 1].reshape(len(paths), -1)
    for most in (1, 3, 7, 100):
        got = lines("eval", "retrieval", "--model", MATCHER, "--data", data, "--rerank", "--rerank-top", most)[0]
        assert got["rerank"] == "itm+itc" and got["rerank_top"] == min(most, 12)
        for name, cosine, logit in (("i2t", itc, itm), ("t2i", itc.T, itm.T)):
            score = cosine - 100
            for row, best in zip(range(len(paths)), np.argsort(-cosine, axis=1, kind="stable")[:, :most]):
                score[row, best] = (cosine + logit)[row, best]
            place = places(score)
            for k in (1, 5, 10):
                assert abs(got[f"{name}_r{k}"] - (place <= k).mean()) < 1e-6, f"top {most}, {name}: {got}, places {place}"
            assert got[f"{name}_median_rank"] == np.median(place)
    program.fails("eval", "retrieval", "--model", CLIP, "--data", data, "--rerank", says="no head")
    program.fails("eval", "zeroshot", "--model", CLIP, "--data", data, "--rerank", code=2, says="retrieval only")


def write_tsv(path, images):
    path.write_text("".join(f"{p}\ta disc\n" for p in images))
    return path


def captions_of_a_model_judged():
    data = photos / "pairs.jsonl"
    how = ("--max-new-tokens", 6, "--num-beams", 2, "--prompt", "a photo of")
    got = lines("eval", "caption", "--model", CAPTIONER, "--data", data, "--out", tmp / "said.jsonl", *how)[0]
    said = {Path(x["image"]).name: x["text"] for x in captions(*how, photos)}
    assert {Path(x["image"]).name: x["text"] for x in map(json.loads, (tmp / "said.jsonl").read_text().splitlines())} == said
    assert lines("eval", "caption", "--predictions", tmp / "said.jsonl", "--data", data)[0] == got
    broken = tmp / "broken.tsv"
    broken.write_text(f"{tmp / 'gone.png'}\ta\n{pictures[0]}\ta disc\n")
    (tmp / "gone.png").write_bytes(b"no picture")
    told = program.run("eval", "caption", "--model", CAPTIONER, "--json", "--data", broken)
    assert told.returncode == 1 and "gone.png" in told.err and json.loads(told.out)["failed"] == 1 and json.loads(told.out)["pictures"] == 1, told.err
    program.fails("eval", "caption", "--model", CLIP, "--data", data, says="writes nothing about pictures")
    (tmp / "kept.jsonl").write_text("kept")
    program.run("eval", "caption", "--model", CAPTIONER, "--data", write_tsv(tmp / "gone.tsv", [tmp / "gone.png"]), "--out", tmp / "kept.jsonl")
    assert (tmp / "kept.jsonl").read_text() == "kept", "what could not be judged was written"
    program.fails("eval", "caption", "--model", CAPTIONER, "--data", data, "--out", data, says=["--out", "pairs.jsonl"])
    program.fails("eval", "caption", "--model", CAPTIONER, "--data", data, "--num-beams", 2, "--top-p", 0.9, code=2, says="--num-beams")
    program.fails("eval", "retrieval", "--model", MATCHER, "--data", data, "--enc-token", code=2, says="--rerank")


def answers_of_a_model_judged():
    said = asked("--image", some[0], "--max-new-tokens", 4, "is it red?")[0]["text"]
    asks = [{"image": str(some[0]), "question": "is it red?", "answers": [said] * 3 + ["no"]}, {"image": str(tmp / "gone.png"), "question": "a?", "answers": ["a", "b"]},
            {"image": str(some[1]), "question": "is it?", "answers": ["nothing like it", "b"]}]
    (tmp / "gone.png").write_bytes(b"no picture")
    (tmp / "asked.jsonl").write_text("".join(json.dumps(x) + "\n" for x in asks))
    got = program.run("eval", "vqa", "--model", ANSWERER, "--data", tmp / "asked.jsonl", "--max-new-tokens", 4, "--json")
    assert got.returncode == 1 and "gone.png" in got.err, got.err
    got = json.loads(got.out)
    assert got["questions"] == 2 and got["failed"] == 1 and abs(got["accuracy"] - (3 * 2 / 3 + 1) / 4 / 2) < 1e-6, got
    best = asked("--image", some[1], "--choices", ",".join(CHOICES), "is it?")[0]["text"]
    (tmp / "asked.jsonl").write_text(json.dumps({**asks[2], "answers": [best] * 10}) + "\n")
    assert lines("eval", "vqa", "--model", ANSWERER, "--data", tmp / "asked.jsonl", "--choices", ",".join(CHOICES))[0]["accuracy"] == 1
    program.fails("eval", "vqa", "--model", CAPTIONER, "--data", tmp / "asked.jsonl", says="does not answer")
    program.fails("eval", "vqa", "--model", ANSWERER, "--data", tmp / "asked.jsonl", "--choices", "yes", code=2, says="neither a file nor a list")
    for question, says in [("dogs " * 100, [str(some[1]), "tokens"]), (" ", ["line 1", "question"])]:
        (tmp / "asked.jsonl").write_text(json.dumps({**asks[2], "question": question}) + "\n")
        program.fails("eval", "vqa", "--model", ANSWERER, "--data", tmp / "asked.jsonl", says=["asked.jsonl", *says])


def main():
    for tier in tiers(program)[0]:
        tap.check(f"{tier}: caption says what transformers says", captions_of_transformers, tier)
        tap.check(f"{tier}: ask says what transformers says", answers_of_transformers, tier)
    for name, function in [("a caption does not depend on the pictures beside it", captions_do_not_depend_on_the_batch), ("captions are drawn by the seed", drawn),
                           ("captions are as long as asked for", lengths), ("path, tab, caption; lists and folders", layouts), ("faults of caption", caption_faults),
                           ("answers, one a line", answer_layouts), ("choices are ranked by what forward gives them", ranked), ("ask --enc-token", with_enc_token),
                           ("a pre-training model answers and captions", one_model_asks_and_captions),
                           ("the captioner that ships", shipped_captioner), ("answers that were not learned", answers_that_were_not_learned),
                           ("faults of ask", question_faults), ("lines that are no questions are told", lines_that_are_no_questions),
                           ("match is forward's ITC and ITM", matched), ("match by vectors alone", matched_by_vectors), ("faults of match", match_faults),
                           ("search --rerank orders as match judges", reranked), ("faults of search --rerank", rerank_faults),
                           ("eval retrieval --rerank is BLIP's evaluation", retrieval_reranked), ("eval caption --model", captions_of_a_model_judged),
                           ("eval vqa --model", answers_of_a_model_judged)]:
        tap.check(name, function)
    shutil.rmtree(tmp)
    tap.finish()


main()
