"""make_pairs.py DIR: pictures and words to train and to judge the starter model by. Called by ./prepare,
which fetches the sources; README.md describes each file written. Everything is decided by names and hashes of
names, so two runs write the same bytes."""
import collections
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np

import draw
import names

HERE = os.path.dirname(os.path.abspath(__file__))
TRAIN_PACKS = ("noto", "noto-v1", "twemoji", "emojione", "fxemoji")
DEV_PACK = "fxemoji"
OCAL, STAMPS = "/usr/share/openclipart/svg", "/usr/share/tuxpaint/stamps"
OCAL_TEST = 500
SAME_TITLE = 8
JUNK = {"hash", "unsorted", "clip art", "clipart", "svg", "image", "media", "public domain", "png",
        "externalsource", "various cliparts", "none"}


def group_of(points):
    return "-".join(f"{ord(c):x}" for c in points)


def written(path, rows):
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        for row in rows:
            f.write((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n")
    os.replace(path + ".tmp", path)


def drawn(tasks, what):
    """Renders on all cores; returns the tasks' outcomes in order."""
    with multiprocessing.Pool() as pool:
        done = []
        for ok in pool.imap(draw.draw, tasks, chunksize=16):
            done.append(ok)
            if len(done) % 500 == 0 or len(done) == len(tasks):
                print(f"{what}: {len(done)} of {len(tasks)}", file=sys.stderr)
    return done


def row(picture, text, text_zh, group, **more):
    return {"image": picture, "text": text, "text_zh": text_zh, "group": group, **more}


def texts(entry, comma):
    """A name, and the name with all its keywords."""
    name, words = entry
    return [name, comma.join([name, *words])] if words else [name]


def emoji(folder, pack, english, chinese, accept=lambda icon, points: True):
    namer = names.IconNamer(english)
    own = {}
    if pack == "fxemoji":
        by_name = {entry[0]: points for points, entry in english.items()}
        with open(os.path.join(HERE, "fxemoji_names.json"), encoding="utf-8") as f:
            own = {icon: by_name.get(name, "") for icon, name in json.load(f).items()}
    found = [i for i in names.icons(f"{folder}/packs/{pack}", namer, own) if accept(i[0], i[1])]
    tasks = [(svg, f"{folder}/pictures/{pack}/{icon}.png", False) for icon, _, svg in found]
    rows = []
    for ok, (icon, points, _) in zip(drawn(tasks, pack), found):
        if ok:
            en, zh = english[points], chinese[points]
            picture, group = f"pictures/{pack}/{icon}.png", group_of(points)
            rows.append(row(picture, texts(en, ", "), texts(zh, "，"), group,
                            keywords=en[1], keywords_zh=zh[1]))
    return rows


def dictionary(english, chinese):
    """English word to Chinese: names translate names; keywords often seen together translate each other."""
    pairs, en_count, zh_count = collections.Counter(), collections.Counter(), collections.Counter()
    for points in english:
        en, zh = ({w.lower() for w in (e[0], *e[1])} for e in (english[points], chinese[points]))
        en_count.update(en)
        zh_count.update(zh)
        pairs.update((a, b) for a in en for b in zh)
    best = {}
    for (a, b), n in sorted(pairs.items()):
        score = 2 * n / (en_count[a] + zh_count[b])
        if n >= 2 and score > max(0.6, best.get(a, (0, ""))[0]):
            best[a] = (score, b)
    out = {a: b for a, (_, b) in best.items()}
    for points, entry in english.items():
        out[re.sub("^flag: ", "flag of ", entry[0].lower())] = re.sub("^旗: *", "", chinese[points][0])
    return out


def words_of(text):
    return re.sub(r"\s+", " ", re.sub(r"[_\-.]+", " ", text)).strip()


def unescaped(text):
    """XML's text as words; a stray ampersand, which older drawings have, is a space."""
    try:
        return words_of(ET.fromstring(f"<t>{text}</t>").text or "")
    except ET.ParseError:
        return words_of(text.replace("&", " "))


def ocal_metadata(path):
    """(title, keywords, creator) of a drawing from its RDF, cleaned. The title may be a collection's."""
    with open(path, encoding="utf-8", errors="replace") as f:
        found = re.search(r"<metadata.*?</metadata>", f.read(), re.S)
    rdf = found.group(0) if found else ""
    titles = re.findall(r"<dc:title>([^<]*)</dc:title>", rdf) or [""]  # the drawing's, then its creator's
    title = unescaped(titles[0])
    if re.search(r"(?i)clip ?art by .* - ", titles[0]):
        title = re.sub(r"(?i)^(clip ?art by|clipart)\b.* ", "", title)
    keywords = dict.fromkeys(unescaped(k) for k in re.findall(r"<rdf:li>([^<]*)</rdf:li>", rdf))
    keywords = [k for k in keywords if k and k.lower() not in JUNK and len(k) <= 40]
    return title, keywords, " ".join(titles[1:2]).lower()


def stem_words(path, creator):
    """What the file's name says, without the numbers and the author's name that Open Clip Art put behind."""
    stem = re.sub(r"\.svg$", "", os.path.basename(path))
    words = [w for w in re.sub(r"[^A-Za-z]+", " ", stem).split() if len(w) > 1]
    authors = set(re.sub("[^a-z]+", " ", creator).split())
    # Names were cut to a length, so the most diligent author's is there in pieces.
    authors |= {"svg", "architetto", "franc", "fra", "francesco", "ro"}
    kept = [w for w in words if w.lower() not in authors]
    return " ".join(kept)


def ocal_files():
    """The drawings, each once: the package files many under several subjects by links and copies."""
    listed = subprocess.run(["dpkg", "-L", "openclipart-svg"], capture_output=True, text=True, check=True)
    files = {}
    for path in sorted(p for p in listed.stdout.split("\n") if p.endswith(".svg")):
        real = os.path.realpath(path)
        with open(real, "rb") as f:
            files.setdefault(hashlib.sha256(f.read()).hexdigest(), real)
    return list(files.values())


def ocal_title(path, title, keywords, creator, times):
    """The drawing's own title, or what its file's name says when the title is a whole collection's."""
    if not title or times > 4 or title.lower() in JUNK or len(title) > 60:
        title = stem_words(path, creator)
    title = re.sub(r"\s*\d+$", "", title).strip(" -") or (keywords[0] if keywords else "")
    return title if re.search("[A-Za-z]{2}", title) else None


def in_chinese(title, keywords, word):
    """(texts, words): the title if the dictionary knows it, and all words that it knows."""
    words = list(dict.fromkeys(word[w] for w in (title.lower(), *(k.lower() for k in keywords)) if w in word))
    if not words:
        return [], []
    joined = "，".join(words)
    if title.lower() not in word:
        return [joined], words
    return [words[0]] + ([joined] if len(words) > 1 else []), words


def ocal(folder, english, chinese):
    known = [(path, *ocal_metadata(path)) for path in ocal_files()]
    times = collections.Counter(title.lower() for _, title, _, _ in known)
    word = dictionary(english, chinese)
    by_name = {entry[0].lower(): points for points, entry in english.items()}
    rows, tasks = [], []
    for path, title, keywords, creator in known:
        title = ocal_title(path, title, keywords, creator, times[title.lower()])
        if title is None:
            continue
        keywords = [k for k in keywords if k.lower() != title.lower()]
        text_zh, zh = in_chinese(title, keywords, word)
        same = by_name.get(title.lower())
        picture = f"pictures/ocal/{os.path.relpath(path, OCAL).replace('/', '--')[:-4]}.png"
        group = group_of(same) if same else "ocal:" + title.lower()
        text = texts((title, keywords), ", ")
        rows.append(row(picture, text, text_zh, group, keywords=keywords, keywords_zh=zh))
        tasks.append((path, f"{folder}/{picture}", True))
    return [r for r, ok in zip(rows, drawn(tasks, "open clip art")) if ok]


def prints(folder, rows):
    with multiprocessing.Pool() as pool:
        found = pool.map(draw.fingerprint, [f"{folder}/{r['image']}" for r in rows], chunksize=64)
    return [f[0] for f in found], [f[1] for f in found]


def held_out(folder, clip_art, others):
    """Splits clip_art into (train, test): OCAL_TEST drawings whose title and whose looks occur once.
    They are tried in the order of the hash of their file names."""
    bits, colours = (np.stack(x) for x in prints(folder, clip_art + others))
    groups = collections.Counter(r["group"] for r in clip_art + others)
    order = sorted(range(len(clip_art)), key=lambda i: hashlib.sha256(clip_art[i]["image"].encode()).digest())
    test = set()
    for i in order:
        mine = clip_art[i]
        alone = groups[mine["group"]] == 1 and mine["group"].startswith("ocal:") and mine["keywords"]
        if alone and len(draw.nearly_same((bits[i], colours[i]), bits, colours)) == 1:
            test.add(i)
            if len(test) == OCAL_TEST:
                break
    return [r for i, r in enumerate(clip_art) if i not in test], [clip_art[i] for i in sorted(test)]


def capped(rows):
    """At most SAME_TITLE drawings of one title: 1,375 of them are one family of guilloche stars."""
    kept, count = set(), collections.Counter()
    for r in sorted(rows, key=lambda r: hashlib.sha256(r["image"].encode()).digest()):
        count[r["group"]] += 1
        if count[r["group"]] <= SAME_TITLE:
            kept.add(r["image"])
    return [r for r in rows if r["image"] in kept]


def stamps(folder):
    """Tux Paint's captions: the first line is English, then one line a language."""
    rows, tasks = [], []
    for place, _, files in sorted(os.walk(STAMPS)):
        for file in sorted(files):
            path = os.path.join(place, file)
            stem, kind = os.path.splitext(path)
            if kind not in (".png", ".svg") or not os.path.exists(stem + ".txt"):
                continue
            with open(stem + ".txt", encoding="utf-8", errors="replace") as f:
                lines = [line.strip() for line in f]
            zh = [line.split("=", 1)[1].strip() for line in lines if line.startswith("zh_CN.utf8=")]
            name = os.path.relpath(stem, STAMPS).replace("/", "--") + ".png"
            if lines and lines[0]:
                rows.append(row(f"pictures/tuxpaint/{name}", lines[:1], zh, "tuxpaint:" + lines[0].lower()))
                tasks.append((path, f"{folder}/pictures/tuxpaint/{name}", False))
    return [r for r, ok in zip(rows, drawn(tasks, "tux paint")) if ok]


def tsv(folder, rows):
    return [f"{folder}/{r['image']}\t{r['group']}" for r in rows]


def with_chinese(rows):
    return sum(bool(r["text_zh"]) for r in rows)


def write_lists(folder, packs, clip_art, test, fluent, pictures):
    drawings = [r for pack in TRAIN_PACKS for r in packs[pack]]
    train = drawings + clip_art
    seen = {r["group"] for pack in TRAIN_PACKS if pack != DEV_PACK for r in packs[pack]}
    written(f"{folder}/train.jsonl", train)
    written(f"{folder}/train_dev.jsonl", [r for r in train if f"/{DEV_PACK}/" not in r["image"]])
    written(f"{folder}/dev.jsonl", [r for r in packs[DEV_PACK] if r["group"] in seen])
    written(f"{folder}/fluent.jsonl", fluent)
    written(f"{folder}/ocal_test.jsonl", test)
    written(f"{folder}/tuxpaint.jsonl", pictures)
    written(f"{folder}/fluent_en.txt", [r["text"][0] for r in fluent])
    written(f"{folder}/fluent_zh.txt", [r["text_zh"][0] for r in fluent])
    written(f"{folder}/train.tsv", tsv(folder, drawings))
    written(f"{folder}/fluent.tsv", tsv(folder, fluent))
    words = (r["text"] + r["text_zh"] + r["keywords"] + r["keywords_zh"] for r in train)
    written(f"{folder}/corpus.txt", dict.fromkeys(text for some in words for text in some))
    report = {p: len(r) for p, r in packs.items()} | {
        "open clip art": len(clip_art), "of it with chinese": with_chinese(clip_art), "train": len(train),
        "fluent": len(fluent), "fluent names": len({r["group"] for r in fluent}), "ocal_test": len(test),
        "tuxpaint": len(pictures), "tuxpaint with chinese": with_chinese(pictures)}
    written(f"{folder}/counts.json", [report])
    print(json.dumps(report))


def main():
    folder = os.path.abspath(sys.argv[1])
    english, chinese = names.annotations("en"), names.annotations("zh")
    english = {p: e for p, e in english.items() if p in chinese}
    base = {names.slug(e[0]) for e in names.annotations("en", ("annotations",)).values()}
    packs = {pack: emoji(folder, pack, english, chinese) for pack in TRAIN_PACKS}
    # Judged are the icons whose own name is a name in CLDR's annotations proper: no country's flag.
    fluent, openmoji = (emoji(folder, pack, english, chinese, lambda icon, points: icon in base) for pack in ("fluent-emoji-flat", "openmoji"))
    written(f"{folder}/openmoji.jsonl", openmoji)
    drawings = [r for pack in TRAIN_PACKS for r in packs[pack]]
    clip_art, test = held_out(folder, ocal(folder, english, chinese), drawings)
    write_lists(folder, packs, capped(clip_art), test, fluent, stamps(folder))


if __name__ == "__main__":
    main()
