"""Names of pictures: Unicode CLDR's names and keywords, and which code points an icon of each pack stands for."""
import json
import re
import unicodedata
import xml.etree.ElementTree as ET

CLDR = "/usr/share/unicode/cldr/common"
SKIN = re.compile("[\U0001f3fb-\U0001f3ff]")
SKIN_WORDS = re.compile(r"-(light|medium-light|medium|medium-dark|dark)(-skin-tone)?(-|$)")


def annotations(language, folders=("annotations", "annotationsDerived")):
    """{code points without U+FE0F: (name, [keyword, ...])}; skin tones left out."""
    names, words = {}, {}
    for folder in folders:
        for node in ET.parse(f"{CLDR}/{folder}/{language}.xml").iter("annotation"):
            points = node.get("cp").replace("\ufe0f", "")
            if node.get("type") == "tts":
                names.setdefault(points, node.text.strip())
            else:
                words.setdefault(points, [w.strip() for w in node.text.split("|") if w.strip()])
    return {p: (names[p], [w for w in words.get(p, []) if w != names[p]]) for p in names if not SKIN.search(p)}


def slug(text):
    text = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", text).strip("-")


def squash(text):
    """As slug, without the hyphens, and "&" is "and": for names that a pack wrote in its own way."""
    return re.sub("[^a-z0-9]", "", slug(text.replace("&", " and ")))


def points_of(hexadecimal):
    return "".join(chr(int(h, 16)) for h in hexadecimal.split("-")).replace("\ufe0f", "")


class IconNamer:
    """Tells which CLDR entry an icon's name means. Packs follow CLDR of their own year, Unicode's character names, or their own taste,
    so several spellings are tried, the surest first."""

    def __init__(self, english):
        self.english = english
        self.by_slug, self.by_squash = {}, {}
        for points, (name, _) in english.items():
            self.by_slug.setdefault(slug(name), points)
            self.by_squash.setdefault(squash(name), points)
        for points in english:
            if len(points) == 1 and unicodedata.name(points, ""):
                self.by_slug.setdefault(slug(unicodedata.name(points)), points)
                self.by_squash.setdefault(squash(unicodedata.name(points)), points)

    def find(self, name, other_names=(), points=None):
        if points is not None and points in self.english:
            return points
        for n in (name, *other_names):
            if n in self.by_slug:
                return self.by_slug[n]
        for n in (name, *other_names):
            for form in (n, n.replace("flag-for-", "flag-"), n.replace("flag-for-", "", 1), n.replace("digit-", "keycap-"), n.replace("black", "", 1), n.replace("white", "", 1), n.replace("heavy", "", 1),
                         n + "face", n + "button", n + "-sign", n + "-symbol"):
                if squash(form) in self.by_squash:
                    return self.by_squash[squash(form)]
        return None


def icons(folder, namer, own_names):
    """Yields (icon name, code points, svg) of a pack's drawings that CLDR knows, one a name, no skin tones."""
    with open(f"{folder}/icons.json", encoding="utf-8") as f:
        pack = json.load(f)
    with open(f"{folder}/chars.json", encoding="utf-8") as f:
        points = {}
        for hexadecimal, name in json.load(f).items():
            points.setdefault(name, points_of(hexadecimal))
    aliases = {}
    for name, alias in pack.get("aliases", {}).items():
        if set(alias) <= {"parent", "hidden"}:
            aliases.setdefault(alias["parent"], []).append(name)
    for name, icon in pack["icons"].items():
        code = points.get(name)
        if icon.get("hidden") or "skin-tone" in name or (code and SKIN.search(code)):
            continue
        if name in own_names:
            found = own_names[name] if own_names[name] in namer.english else None
        else:
            found = namer.find(name, aliases.get(name, ()), code)
        if found:
            width, height = (icon.get(k, pack.get(k, 16)) for k in ("width", "height"))
            left, top = icon.get("left", 0), icon.get("top", 0)
            yield name, found, (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                                f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>')
