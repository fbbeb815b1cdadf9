#!/usr/bin/env python3
"""Writes tests/data/captions: made-up captions, and what pycocoevalcap says of them.

    python3 -m venv v && v/bin/pip install --no-deps pycocoevalcap==1.2 && v/bin/pip install numpy && v/bin/python tools/make_caption_cases.py

    cases.jsonl   {"said", "references", "cider_d"}: words with spaces between, and CIDEr-D of that picture among all of them
    scores.json   {"bleu": [4], "cider_d"} of all together
    tokens.txt    a text, a tab, its words as Stanford's PTBTokenizer makes them (Java, in the wheel) less what coco-caption takes away

The captions are drawn from a small grammar with a fixed seed; nothing is downloaded.
"""
import json
import random
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "captions"
PICTURES = 400
WHO = "man woman dog cat child bird horse boat train red-haired girl old clock small kite large pizza bus".split()
DOES = "sits stands runs sleeps waits flies lies is are holding riding eating looks".split()
WHERE = "on in near under behind beside above with at to".split()
WHAT = "grass table street water beach field kitchen tree bench sky room road snow plate hill".split()
HOW = "and a the very two 's while some green blue".split()

# Each is tokenised by itself: the tokenizer looks at the next line to decide whether "A." at the end of one is a sentence or an initial.
HARD = r"""A man, standing . next to a tree.
Don't, can't and WON'T: it's the dogs' ball; they're sure he'd've gone, I'm not.
cannot gonna wanna gotta gimme lemme 'tis 'twas y'all
a black-and-white photo of a T-shirt -- an x-ray - dash
his/her b/w a/b/c/d 1/2 1st/2nd w/o 24/7 a/b
1,000 people 3.5 metres at 10:30 a.m. or 3:45pm on 12/24, 555-1234 .5 -5 +5
Mr. Smith of St. John St. in the U.S. and vs. etc. i.e. J. Smith lives at no. 5
two dogs.A cat sat on the mat.The end... wait.. what?! Yes!! No!
"quoted words" and 'single' ones, `like this' ``or this''
(round) [square] {curly} brackets
$5.00 20% #1 #hashtag @home AT&T r&b A & B a+b a=b *star* **two** ~x ^y a_b __ \ |
o'clock o'brien d'or c'mon ma'am rock'n'roll rock 'n' roll '80s 80's 'em
café naïve Ångström привет “curly” ‘single’ it’s don’t … £5 €6 ½ 5¢ 45°F
12-ft. tall 5'10" 2x4 5-year-old R2-D2 100th
-cat cat- --cat a--b a - b grass.There ok.yes a.b.c 3.A 1.2.3
3,a a,b a;b a:b 12:cat dog!cat 3!4

...
A.B. and U.N.'s p.m. plan
Dr. Who, Prof. X, Sgt. Y Jr. Jan. Feb. Dec. Inc. Ltd. Co. Ave. Blvd. Rd. Ft. in. oz. lb.""".split("\n")


def sentence(rng):
    words = ["a", rng.choice(WHO), rng.choice(DOES), rng.choice(WHERE), "the", rng.choice(WHAT)]
    for _ in range(rng.randrange(8)):
        words.insert(rng.randrange(len(words) + 1), rng.choice(HOW + WHO + WHERE))
    return words


def changed(rng, words):
    words = list(words)
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(words) + 1)
        if rng.random() < 0.4 and len(words) > 1:
            del words[min(at, len(words) - 1)]
        elif rng.random() < 0.5:
            words.insert(at, rng.choice(HOW + WHAT))
        else:
            words[at:at + 1] = [rng.choice(WHO + DOES + WHAT)]
    return words


def captions():
    rng = random.Random(7)
    for i in range(PICTURES):
        about = sentence(rng)
        references = [changed(rng, about) for _ in range(rng.randrange(1, 6))]
        said = changed(rng, about[:-2]) if rng.random() < 0.7 else sentence(rng)  # short ones: BLEU's penalty has a say
        said = {5: [], 6: ["a"], 7: ["a"] * 12, 8: references[0], 9: ["unheard", "of"]}.get(i, said)
        references = {10: [[]], 11: [["cat"]], 12: [["cat"], []]}.get(i, references)
        yield " ".join(said), [" ".join(r) for r in references]


def main():
    OUT.mkdir(exist_ok=True)
    cases = list(captions())
    said, references = {i: [c[0]] for i, c in enumerate(cases)}, {i: c[1] for i, c in enumerate(cases)}
    cider, each = Cider().compute_score(references, said)
    bleu, _ = Bleu(4).compute_score(references, said, verbose=0)
    with open(OUT / "cases.jsonl", "w") as f:
        for (text, others), score in zip(cases, each):
            f.write(json.dumps({"said": text, "references": others, "cider_d": float(score)}) + "\n")
    (OUT / "scores.json").write_text(json.dumps({"bleu": [float(x) for x in bleu], "cider_d": float(cider)}) + "\n")
    with open(OUT / "tokens.txt", "w") as f:
        for text in HARD:
            f.write(text + "\t" + PTBTokenizer().tokenize({0: [{"caption": text}]})[0][0] + "\n")


if __name__ == "__main__":
    main()
