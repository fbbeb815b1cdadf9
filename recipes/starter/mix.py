#!/usr/bin/env python3
"""mix.py DIR - from train.jsonl to the two lists that are trained on: how often a drawing is seen, and by which words.

Emoji count twice, flags and clip art once. A text is drawn evenly from a list, so the list says how likely each is.
train_mix.jsonl, the first stage: the name six times of eight (three of five for clip art), else one to three keywords, with or
without the name. train_phrases.jsonl, the second: names, keywords, and both inside phrases as people type them. train_both.jsonl,
the third: the first's texts, and the name in a phrase for every fifth."""
import json
import random
import sys
from pathlib import Path


def texts(names, keywords, separator, emoji):
    out = [names[0]] * (6 if emoji else 3) + ([] if emoji else names[1:])
    for _ in range(2 if keywords else 0):
        words = random.sample(keywords, min(len(keywords), random.randint(1, 3)))
        if random.random() < 0.5:
            words = [names[0]] + words
        out.append(separator.join(words))
    return out


ENGLISH = ["{a}", "the {}", "{} icon", "a picture of {a}", "a drawing of {a}", "a photo of {a}", "clip art of {a}", "an emoji of {a}",
           "show me {a}", "find {a}", "{a} on white", "a small {}", "this is {a}"]
CHINESE = ["一个{}", "一只{}", "一条{}", "一张{}", "一辆{}", "一朵{}", "一把{}", "一位{}", "{}的图片", "{}的图画", "{}图标", "一张{}的照片",
           "画着{}", "卡通{}", "找{}", "这是{}", "我想看{}", "{}表情"]


def phrase(word, chinese):
    if chinese:
        return random.choice(CHINESE).format(word)
    return random.choice(ENGLISH).format(word, a=("an " if word[:1].lower() in "aeiou" else "a ") + word)


def phrases(names, keywords, separator, chinese):
    out = [names[0]] * 4 + [phrase(names[0], chinese) for _ in range(4)]
    for _ in range(2 if keywords else 0):
        out.append(random.choice(keywords))
        out.append(phrase(random.choice(keywords), chinese))
        words = random.sample(keywords, min(len(keywords), random.randint(1, 3)))
        out.append(separator.join(words))
    return out


def mixed(pair, stage):
    emoji = "/ocal/" not in pair["image"]
    out = {"image": pair["image"], "group": pair["group"]}
    for key, words, separator in (("text", "keywords", ", "), ("text_zh", "keywords_zh", "，")):
        if not pair.get(key):
            continue
        if stage == 2:
            out[key] = phrases(pair[key], pair.get(words), separator, key == "text_zh")
        else:
            out[key] = texts(pair[key], pair.get(words), separator, emoji)
        if stage == 3:
            out[key] += [phrase(pair[key][0], key == "text_zh") for _ in range(2 if emoji else 1)]
    return out, 2 if emoji and not pair["text"][0].startswith("flag:") else 1


def main():
    folder = Path(sys.argv[1])
    for stage, name in ((1, "train_mix.jsonl"), (2, "train_phrases.jsonl"), (3, "train_both.jsonl")):
        random.seed(stage)
        with open(folder / "train.jsonl", encoding="utf-8") as f, open(folder / name, "w", encoding="utf-8") as to:
            for line in f:
                pair, times = mixed(json.loads(line), stage)
                to.write((json.dumps(pair, ensure_ascii=False) + "\n") * times)


if __name__ == "__main__":
    main()
