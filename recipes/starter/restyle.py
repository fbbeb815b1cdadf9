#!/usr/bin/env python3
"""restyle.py DIR - the emoji once more in other hands: their SVGs redrawn with other palettes, outlines, gradients and weights.

A style is in the SVG, where warps and colour maps of the finished pixels cannot reach it. Each drawing of the training packs (flags
apart, whose colours are their meaning) gets VARIANTS redrawings, and MORE that the starter never sees, decided by the hash of its name: two
runs write the same pictures. Writes train_styles.jsonl: the texts of train_both.jsonl, once for each drawing and once for each of its
VARIANTS; train_strange.jsonl: once for each of MORE, for the captioner, whose eye the starter's is: it has to read what that eye makes of
drawings that it does not know by heart; and, as "kin", the category of the emoji (from the packs' own tables), by which hard batches are made."""
import colorsys
import hashlib
import json
import multiprocessing
import os
import random
import re
import sys

import draw
import names
from make_pairs import TRAIN_PACKS, written

VARIANTS, MORE = 3, 3
SHAPES = "path|circle|ellipse|rect|polygon"
COLORED = re.compile(r"\b(red|orange|yellow|green|blue|purple|brown|black|white|pink|grey|gray)\b")


def rgb_of(text):
    digits = text[1:]
    digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
    return tuple(int(digits[i:i + 2], 16) / 255 for i in (0, 2, 4))


def hex_of(rgb):
    return "#" + "".join(f"{round(255 * min(1, max(0, c))):02x}" for c in rgb)


def darker(text, share):
    return hex_of([c * share for c in rgb_of(text)])


def recolored(svg, r, turn):
    """Every colour that occurs gets a neighbour of its own; a colour keeps to one neighbour throughout a drawing. turn: degrees."""
    all_hues, light, vivid = r.uniform(-turn, turn), r.uniform(0.85, 1.15), r.uniform(0.7, 1.4)
    known = {}

    def other(found):
        text = found.group(1).lower()
        if text not in known:
            h, s, v = colorsys.rgb_to_hsv(*rgb_of(text))
            h += (all_hues + r.uniform(-turn, turn) / 2) / 360
            s = min(1, s * vivid * r.uniform(0.8, 1.25))
            v = min(1, v * light * r.uniform(0.85, 1.18) + r.uniform(0, 0.06))
            known[text] = hex_of(colorsys.hsv_to_rgb(h % 1, s, v))
        return f'"{known[text]}"'

    return re.sub(r'"(#[0-9a-fA-F]{6}|#[0-9a-fA-F]{3})"', other, svg)


def flattened(svg):
    """Gradients become one colour: the mean of their stops."""
    def flat(found):
        stops = re.findall(r'stop-color="(#[0-9a-fA-F]{3,6})"', found.group(0))
        if not stops:
            return found.group(0)
        mean = hex_of([sum(c) / len(stops) for c in zip(*map(rgb_of, stops))])
        return re.sub(r'stop-color="#[0-9a-fA-F]{3,6}"', f'stop-color="{mean}"', found.group(0))

    return re.sub(r"<(linear|radial)Gradient.*?</\1Gradient>", flat, svg, flags=re.S)


def filled(svg, change):
    """change(attributes, colour) -> attributes, for every shape that has a plain fill and no stroke of its own."""
    def one(found):
        fill = re.search(r'fill="(#[0-9a-fA-F]{6}|#[0-9a-fA-F]{3})"', found.group(2))
        if not fill or "stroke" in found.group(2):
            return found.group(0)
        return f"<{found.group(1)}{change(found.group(2), fill.group(1))}{found.group(3)}>"

    return re.sub(rf"<({SHAPES})\b([^>]*?)(/?)>", one, svg)


def stroked(svg, color, width):
    """color: of the stroke, or what turns a fill into it."""
    return filled(svg, lambda attributes, fill: attributes +
                  f' stroke="{color(fill) if callable(color) else color}" stroke-width="{width:.2f}" stroke-linejoin="round"')


def glossy(svg, r):
    """Plain fills become gradients from a lighter to a darker tone."""
    tones, up = {}, r.random() < 0.8
    lift, sink = r.uniform(0.1, 0.35), r.uniform(0.65, 0.9)

    def toned(attributes, fill):
        name = tones.setdefault(fill, f"tone{len(tones)}")
        return attributes.replace(f'fill="{fill}"', f'fill="url(#{name})"')

    svg = filled(svg, toned)
    place = 'x1="0" y1="0" x2="0" y2="1"' if up else 'x1="0" y1="0" x2="1" y2="1"'
    defs = "".join(
        f'<linearGradient id="{name}" {place}><stop offset="0" stop-color="{hex_of([c + lift * (1 - c) for c in rgb_of(fill)])}"/>'
        f'<stop offset="1" stop-color="{darker(fill, sink)}"/></linearGradient>' for fill, name in tones.items())
    return re.sub(r"(<svg[^>]*>)", lambda m: m.group(1) + f"<defs>{defs}</defs>", svg, count=1)


def pale(svg, r):
    """As a line drawing: fills nearly white, the lines dark."""
    keep = r.uniform(0, 0.35)
    return filled(svg, lambda attributes, fill: re.sub(
        re.escape(f'fill="{fill}"'), f'fill="{hex_of([1 - keep * (1 - c) for c in rgb_of(fill)])}"', attributes))


def without_details(svg, r, share):
    """Leaves out some of the shapes behind the first three."""
    seen = [0]

    def one(found):
        seen[0] += 1
        return "" if seen[0] > 3 and r.random() < share else found.group(0)

    return re.sub(r"<(path|circle|ellipse)\b[^>]*/>", one, svg)


def restyled(svg, r, keeps_colors):
    """A drawing in another style. keeps_colors: its colours are what it is called by."""
    width = float(re.search(r'viewBox="\S+ \S+ (\S+)', svg).group(1))
    if "<mask" not in svg and "<clipPath" not in svg and r.random() < 0.4:
        svg = without_details(svg, r, r.uniform(0.05, 0.2))
    if r.random() < 0.5:
        svg = flattened(svg)
    svg = recolored(svg, r, 5 if keeps_colors else r.choice((8, 15, 30)))
    kind = r.random()
    if kind < 0.2:
        svg = stroked(svg, hex_of([r.uniform(0, 0.35)] * 3), width * r.uniform(0.008, 0.03))
    elif kind < 0.4:
        share = r.uniform(0.45, 0.85)
        svg = stroked(svg, lambda fill: darker(fill, share), width * r.uniform(0.008, 0.035))
    elif kind < 0.55:
        svg = stroked(svg, lambda fill: fill, width * r.uniform(0.01, 0.04))
    elif kind < 0.75:
        svg = glossy(svg, r)
    elif kind < 0.83 and not keeps_colors:
        svg = stroked(pale(svg, r), hex_of([r.uniform(0, 0.3)] * 3), width * r.uniform(0.01, 0.025))
    return svg


OLDER = {"People": "People & Body", "Nature": "Animals & Nature", "Food": "Food & Drink", "Places": "Travel & Places", "Travel": "Travel & Places"}


def categories(folder, emoji):
    """{group: category} by the first pack that tells; a category holds what is easily mixed up."""
    out = {}
    for pack in TRAIN_PACKS:
        with open(f"{folder}/packs/{pack}/metadata.json", encoding="utf-8") as f:
            of_icon = {icon: c for c, icons in json.load(f).get("categories", {}).items() for icon in icons}
        for pair in emoji:
            icon = pair["image"].split("/")[2][:-4]
            if f"/{pack}/" in pair["image"] and icon in of_icon:
                out.setdefault(pair["group"], OLDER.get(of_icon[icon], of_icon[icon]))
    return out


def redrawings(folder, pairs):
    """{picture: [(svg, path), ...]}, the redrawings of the given training pairs."""
    packs = {}
    for pack in TRAIN_PACKS:
        with open(f"{folder}/packs/{pack}/icons.json", encoding="utf-8") as f:
            packs[pack] = json.load(f)
    out = {}
    for pair in pairs:
        pack, icon = pair["image"].split("/")[1:3]
        icon = icon[:-4]
        svg = names.svg_of(packs[pack]["icons"][icon], packs[pack])
        keeps_colors = bool(COLORED.search(pair["text"][0]))
        seeds = [hashlib.sha256(f"{pack}/{icon}/{k}".encode()).digest() for k in range(VARIANTS + MORE)]
        out[pair["image"]] = [(restyled(svg, random.Random(seed), keeps_colors), f"pictures/restyled/{pack}/{icon}-{k}.png")
                              for k, seed in enumerate(seeds)]
    return out


def main():
    folder = os.path.abspath(sys.argv[1])
    with open(f"{folder}/train.jsonl", encoding="utf-8") as f:
        emoji = [pair for pair in map(json.loads, f) if "/ocal/" not in pair["image"]]
    with open(f"{folder}/train_both.jsonl", encoding="utf-8") as f:
        mixed = {pair["image"]: pair for pair in map(json.loads, f)}
    more = redrawings(folder, [pair for pair in emoji if not pair["text"][0].startswith("flag:")])
    tasks = [(svg, f"{folder}/{path}", False) for some in more.values() for svg, path in some]
    with multiprocessing.Pool() as pool:
        drawn = {task[1] for task, ok in zip(tasks, pool.imap(draw.draw, tasks, chunksize=16)) if ok}
    kin = categories(folder, emoji)
    styles, strange = [], []
    for image, pair in mixed.items():
        if pair["group"] in kin:
            pair["kin"] = kin[pair["group"]]
        paths = [path for _, path in more.get(image, [])]
        styles += [{**pair, "image": path} for path in [image, *paths[:VARIANTS]] if path == image or f"{folder}/{path}" in drawn]
        strange += [{**pair, "image": path} for path in paths[VARIANTS:] if f"{folder}/{path}" in drawn]
    written(f"{folder}/train_styles.jsonl", styles)
    written(f"{folder}/train_strange.jsonl", strange)
    print(f"{len(drawn)} of {len(tasks)} redrawn", file=sys.stderr)


if __name__ == "__main__":
    main()
