"""What BLIP's objectives are worth in the trainer, to the last digit that it tells: which strangers itm draws and how often, which words mlm hides, what vqa learns
from. All that may be drawn is worked out with `forward` and NumPy; the loss of a step then tells what was drawn.

    grounded_values.py PROGRAM      prints TAP"""
import itertools
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import tap
import tiny_blip
import tiny_data
from ocelli_run import CASES, Program, load, save

TOLD = 3e-6  # losses have six decimals
DEC, ENC, MASK, WORDS = 560, 561, 4, range(5, 560)
program = Program(sys.argv[1])
tmp = Path(tempfile.mkdtemp(prefix="ocelli-grounded-values-"))
tiny_data.write(tmp / "data")
PICTURES = ["red-disc.png", "green-stripe.png", "blue-square.png"]


def changed(case, name, architecture=None, text=None, temperature=None):
    """The case's model with other settings; as a retrieval model it tells more of what its encoder makes of pictures and texts."""
    def weights(w):
        w = {k: v for k, v in w.items() if not architecture or not k.startswith("text_decoder.")}
        return {**w, "temp": np.array(temperature, np.float32)} if temperature else w

    other = {"architectures": [architecture], "tie_encoder_decoder": False} if architecture else {}
    return tiny_blip.copy_with(tmp / name, CASES / case / "model", weights, text, **other)


def forward(model, **inputs):
    save(inputs, tmp / "in.safetensors")
    program.good("forward", "--model", model, "--in", tmp / "in.safetensors", "--out", tmp / "out.safetensors", "--threads", 1)
    return load(tmp / "out.safetensors")


def write_pairs(name, pairs):
    path = tmp / "data" / name
    path.write_text("".join(json.dumps(x) + "\n" for x in pairs))
    return path


def train(out, model, data, *more, batch, steps=1):
    """(losses, batches) of a run that learns nothing, so every step is worth what the first one is."""
    program.good("train", "--model", model, "--data", data, "--out", tmp / out, "--steps", steps, "--batch", batch, "--lr", 0, "--augment", 0, "--seed", 5,
                 "--metrics", tmp / (out + ".jsonl"), "--dump", tmp / (out + "-dump"), "--threads", 1, "--quiet", *more)
    lines = [json.loads(x) for x in (tmp / (out + ".jsonl")).read_text().splitlines()]
    batches = [load(p) for p in sorted((tmp / (out + "-dump")).glob("step-*.safetensors"))]
    assert len(lines) == len(batches) == steps, f"{len(lines)} lines, {len(batches)} batches of {steps} steps"
    return lines, batches


def in_order(batches):
    """The first batch in an order of its pictures, and how the others are ordered: [steps, batch], which of them."""
    first = batches[0]
    known = [p.tobytes() for p in first["pixel_values"]]
    return first, [[known.index(p.tobytes()) for p in b["pixel_values"]] for b in batches]


def log_softmax(x):
    x = x.astype(float) - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def often(got, trials, chance, what):
    """Of so many trials, so many as the chance says, within five deviations."""
    deviation = math.sqrt(max(trials * chance * (1 - chance), 0.25))
    assert abs(got - trials * chance) <= 5 * deviation, f"{what}: {got} of {trials}, expected {trials * chance:.1f} +- {deviation:.1f}"


# ---- itm ----------------------------------------------------------------------------------------------------------------


def matched(reader, batch):
    """(cost [picture, text, together], cosines [picture, text]) of a batch."""
    n, ids, mask, pixels = len(batch["input_ids"]), batch["input_ids"], batch["attention_mask"], batch["pixel_values"]
    cosines = forward(reader, pixel_values=pixels, input_ids=ids, attention_mask=mask)["itc_score"]
    picture, text, begun = np.repeat(np.arange(n), n), np.tile(np.arange(n), n), ids.copy()
    begun[:, 0] = ENC
    got = forward(reader, pixel_values=pixels[picture], input_ids=begun[text], attention_mask=mask[text])["itm_score"]
    return -log_softmax(got).reshape(n, n, 2), cosines.astype(float)


def three(groups, name):
    texts = ["a red disc", "two green stripes on white", "the blue square"]
    return write_pairs(name, [{"image": i, "text": t, **({"group": g} if g else {})} for i, t, g in zip(PICTURES, texts, groups)])


def drawings(cost, others):
    """{what was drawn: loss} of all that may be drawn: of each text another picture, of each picture another text, counted [picture, text]."""
    n, found = len(cost), {}
    together = sum(cost[i, i, 1] for i in range(n))
    for drawn in itertools.product(*[others[i] for i in range(n)], *[others[i] for i in range(n)]):
        cells = [(drawn[i], i) for i in range(n)] + [(i, drawn[n + i]) for i in range(n)]
        found[tuple(sorted(cells))] = (together + sum(cost[c][0] for c in cells)) / (3 * n)
    return found


def told(found, loss):
    """What was drawn where the loss is this; None where it may be either of several."""
    near = [k for k, v in found.items() if abs(v - loss) < TOLD]
    assert near, f"a loss of {loss} comes of nothing that may be drawn: the nearest is {min(found.values(), key=lambda v: abs(v - loss))}"
    return near[0] if len(near) == 1 else None


def chances(scores, uniform):
    """[text or picture, other] as the draw weighs them (BLIP's: softmax and a little more, nothing for one's own)."""
    alike = np.ones_like(scores) if uniform else np.exp(scores - scores.max(-1, keepdims=True))
    weight = 1e-4 + alike / alike.sum(-1, keepdims=True)
    np.fill_diagonal(weight, 0)
    return weight / weight.sum(-1, keepdims=True)


TEMPERATURE = 0.04


def strangers(case, how, uniform, *more):
    """How often each picture is drawn for each text, and the other way round, follows from how alike they are; without itc nothing tells that."""
    name, steps = f"strangers-{case}-{how}", 300
    model, reader = changed(case, name + "-model", temperature=TEMPERATURE), changed(case, name + "-reader", "BlipForImageTextRetrieval")
    lines, batches = train(name, model, three([None] * 3, "three.jsonl"), *more, batch=3, steps=steps)
    batch, _ = in_order(batches)
    cost, cosines = matched(reader, batch)
    found = drawings(cost, [[k for k in range(3) if k != i] for i in range(3)])
    seen = [told(found, line["loss_itm"]) for line in lines]
    assert seen.count(None) < steps / 20, f"{seen.count(None)} of {steps} losses tell nothing"
    of_text, of_picture = chances(cosines.T / TEMPERATURE, uniform), chances(cosines / TEMPERATURE, uniform)
    known = [x for x in seen if x]
    for picture, text in itertools.permutations(range(3), 2):
        a, b = of_text[text, picture], of_picture[picture, text]
        got = sum(x.count((picture, text)) for x in known)
        deviation = math.sqrt(len(known) * (a * (1 - a) + b * (1 - b))) + 0.5
        assert abs(got - len(known) * (a + b)) <= 5 * deviation, \
            f"picture {picture} with text {text}: {got} times of {len(known)}, expected {len(known) * (a + b):.1f} +- {deviation:.1f}"
    if not uniform:
        assert abs(of_text - chances(cosines.T, True)).max() > 0.25 and abs(of_text - of_picture).max() > 0.25, "these pairs could not tell"


def of_one_group(*more):
    """Who means the same is no stranger: what may be drawn are four ways, all of which come, and no loss is of a fifth."""
    name = "kin" + str(len(more))
    reader = changed("blip_pretrain_tied", name + "-reader", "BlipForImageTextRetrieval")
    model = changed("blip_pretrain_tied", name + "-model", temperature=1)  # so that none is too unlike to be drawn
    lines, batches = train(name, model, three(["one", "one", None], "kin.jsonl"), *more, batch=3, steps=60)
    cost, _ = matched(reader, batches[0])
    ids = [tuple(x) for x in batches[0]["input_ids"]]
    alone = next(i for i, x in enumerate(ids) if x == tuple(blue_ids(ids)))
    kin = [i for i in range(3) if i != alone]
    found = drawings(cost, [kin if i == alone else [alone] for i in range(3)])
    seen = {told(found, line["loss_itm"]) for line in lines}
    assert seen == set(found) and len(found) == 4, f"{len(seen)} of {len(found)} ways"


def ids_of(model, texts):
    return [json.loads(x) for x in program.good("tokenize", "--model", model, text="".join(t + "\n" for t in texts)).out.splitlines()]


def blue_ids(ids):
    want = ids_of(CASES / "blip_pretrain_tied" / "model", ["the blue square"])[0]
    return next(x for x in ids if list(x[:len(want)]) == want)


def forced(groups, strange):
    """Of two pairs each has one stranger; where both mean the same there is none, and three times each belongs together."""
    name = "two" + str(int(strange))
    reader = changed("blip_pretrain", name + "-reader", "BlipForImageTextRetrieval")
    data = write_pairs(name + ".jsonl", [json.loads(x) for x in three([*groups, None], "of_two.jsonl").read_text().splitlines()[:2]])
    (line,), (batch,) = train(name, CASES / "blip_pretrain" / "model", data, "--objectives", "itm", batch=2)
    cost, _ = matched(reader, batch)
    apart = 2 * (cost[0, 1, 0] + cost[1, 0, 0]) if strange else 2 * (cost[0, 0, 1] + cost[1, 1, 1])
    want = (cost[0, 0, 1] + cost[1, 1, 1] + apart) / 6
    assert abs(line["loss_itm"] - want) < TOLD, f"{line['loss_itm']} instead of {want}"


# ---- mlm ----------------------------------------------------------------------------------------------------------------


def found_words(folder, hidden):
    """The head of BERT over the encoder's rows, with the table of words of the stack that writes: log-probabilities."""
    w = {k: v.astype(float) for k, v in load(CASES / folder / "model" / "model.safetensors").items()}
    head = "text_decoder.cls.predictions."
    x = hidden.astype(float) @ w[head + "transform.dense.weight"].T + w[head + "transform.dense.bias"]
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    x = x * w[head + "transform.LayerNorm.weight"] + w[head + "transform.LayerNorm.bias"]
    table = w.get("text_decoder.bert.embeddings.word_embeddings.weight", w.get("text_encoder.embeddings.word_embeddings.weight"))
    return log_softmax(x @ table.T + w[head + "bias"])


def hidings(ids):
    """All ways to hide words of a text with at most one of them another word: (ids as they are shown, the places that are asked for)."""
    for places in itertools.product([False, True], repeat=len(ids) - 2):
        asked = [k + 1 for k, hide in enumerate(places) if hide]
        for shown in itertools.product([MASK, None, *WORDS], repeat=len(asked)):
            if asked and sum(x not in (MASK, None) for x in shown) <= 1:
                text = [ENC, *ids[1:]]
                for k, x in zip(asked, shown):
                    text[k] = ids[k] if x is None else x
                yield tuple(text), tuple(asked)


def hidden_words(case, kind, sentence, architecture=None):
    """At least one word is hidden, each other one with a chance of 15%; of these 80% are [MASK], 10% another word, 10% stay. All are asked for, no others."""
    steps, name = 500, f"{case}-{kind}-{len(sentence)}"
    model = changed(case, name + "-model", text={"mask_token_id": MASK} if kind == "named" else None)
    lines, batches = train(name, model, write_pairs("words.jsonl", [{"image": PICTURES[0], "text": sentence}]), "--objectives", "mlm", batch=1, steps=steps)
    ids = batches[0]["input_ids"][0]
    ways = sorted(set(hidings(ids)))
    said = found_words(case, forward(changed(case, name + "-reader", "BlipForImageTextRetrieval"), input_ids=np.array([x[0] for x in ways]),
                                     pixel_values=np.repeat(batches[0]["pixel_values"], len(ways), 0))["question_embeds"])
    costs = np.array([-np.mean([said[k, place, ids[place]] for place in asked]) for k, (_, asked) in enumerate(ways)])
    told = [ways[int(near[0])] for near in (np.where(abs(costs - line["loss_mlm"]) < TOLD)[0] for line in lines) if len(near) == 1]
    assert len(told) > 0.9 * steps, f"only {len(told)} of {steps} losses tell what was hidden"
    if len(ids) == 4:
        often(sum(x[1] == (1, 2) for x in told), len(told), 0.15, "both words are hidden")
        often(sum(x[1] == (1,) for x in told), len(told), 0.425, "the first word alone is hidden")
    shown = [(ids[place], text[place]) for text, asked in told for place in asked]
    often(sum(x == MASK for _, x in shown), len(shown), 0.8, "[MASK]")
    often(sum(x == own for own, x in shown), len(shown), 0.1, "the word itself")
    others = [x for own, x in shown if x not in (MASK, own)]
    often(len(others), len(shown), 0.1, "another word")
    often(sum(x < np.median(WORDS) for x in others), len(others), 0.5, "a word of the table's first half")


# ---- vqa ----------------------------------------------------------------------------------------------------------------


QUESTIONS = ["which colour is it?", "dog", "is a red disc there?"]
ANSWERS = ["green", "a", "two red discs"]


def padded(rows, fill):
    return np.array([list(x) + [fill] * (max(map(len, rows)) - len(x)) for x in rows])


def answers(smoothing):
    """[DEC] answer [SEP], from what the encoder makes of [ENC] question and picture: of each pair alone, so nothing that fills up is looked at."""
    name = f"answers{smoothing}"
    model = changed("blip_vqa", name + "-model", text={"label_smoothing": smoothing})
    data = write_pairs(name + ".jsonl", [{"image": i, "question": q, "answers": [a]} for i, q, a in zip(PICTURES, QUESTIONS, ANSWERS)])
    (line,), (batch,) = train(name, model, data, "--objectives", "vqa", batch=3)
    questions, answered = ids_of(model, QUESTIONS), ids_of(model, ANSWERS)
    total, count = 0.0, 0
    for i in range(3):
        ids = [int(x) for x, m in zip(batch["input_ids"][i], batch["attention_mask"][i]) if m]
        question = np.array([questions[answered.index(ids)]])
        written = np.array([ids])
        question[:, 0], written[:, 0] = ENC, DEC
        logits = forward(model, pixel_values=batch["pixel_values"][i:i + 1], input_ids=question, attention_mask=np.ones_like(question),
                         decoder_input_ids=written)["logits"]
        said = log_softmax(logits[0])[np.arange(len(ids) - 1)]
        total -= ((1 - smoothing) * said[np.arange(len(ids) - 1), ids[1:]] + smoothing * said.mean(-1)).sum()
        count += len(ids) - 1
    want = total / count
    assert abs(line["loss_vqa"] - want) < 2e-6 * want + TOLD, f"{line['loss_vqa']} instead of {want}"


def main():
    tap.check("itm: two pairs are each other's strangers", forced, ["one", "other"], True)
    tap.check("itm: two that mean the same have none", forced, ["one", "one"], False)
    for case in ["blip_pretrain", "blip_pretrain_tied"]:
        tap.check(f"{case}: strangers that are alike are drawn more often", strangers, case, "alike", False, "--objectives", "itc,itm", "--momentum", 0)
    tap.check("so they are by what a teacher with a queue says", strangers, "blip_pretrain", "taught", False, "--objectives", "itc,itm", "--queue", 6)
    tap.check("without itc any is as good", strangers, "blip_pretrain", "any", True, "--objectives", "itm")
    tap.check("no strangers are of one group", of_one_group, "--objectives", "itm")
    tap.check("nor where likeness is known", of_one_group, "--objectives", "itm,itc", "--momentum", 0)
    for case in ["blip_pretrain", "blip_pretrain_tied"]:
        tap.check(f"{case}: mlm is of the words that are hidden", hidden_words, case, "named", "cat")
    tap.check("a text of one word, [MASK] by the tokenizer's name", hidden_words, "blip_pretrain", "told", "a")
    for smoothing in [0.0, 0.1]:
        tap.check(f"vqa is of the answers, smoothing {smoothing}", answers, smoothing)
    shutil.rmtree(tmp)
    tap.finish()


main()
