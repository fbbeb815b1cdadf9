"""Names of pictures: Unicode CLDR's names and keywords, and which code points an icon stands for."""
import json
import re
import unicodedata
import xml.etree.ElementTree as ET

CLDR = "/usr/share/unicode/cldr/common"
SKIN = re.compile("[\U0001f3fb-\U0001f3ff]")


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
    return {points: (name, [w for w in words.get(points, []) if w != name])
            for points, name in names.items() if not SKIN.search(points)}


def slug(text):
    text = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", text).strip("-")


def squash(text):
    """As slug, without the hyphens, and "&" is "and": for names that a pack wrote in its own way."""
    return re.sub("[^a-z0-9]", "", slug(text.replace("&", " and ")))


def points_of(hexadecimal):
    return "".join(chr(int(h, 16)) for h in hexadecimal.split("-")).replace("\ufe0f", "")


def spellings(name):
    """The name itself first, then as others have it: older packs say 'heavy-check-mark', 'bear-face'."""
    less = [name.replace(part, "", 1) for part in ("flag-for-", "black", "white", "heavy")]
    return [name, name.replace("flag-for-", "flag-"), less[0], name.replace("digit-", "keycap-"), *less[1:],
            name + "face", name + "button", name + "-sign", name + "-symbol"]


class IconNamer:
    """Tells which CLDR entry an icon's name means. Packs follow CLDR of their own year, Unicode's names of
    characters, or their own taste, so several spellings are tried, the surest first."""

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
            for form in spellings(n):
                if squash(form) in self.by_squash:
                    return self.by_squash[squash(form)]
        return None


def svg_of(icon, pack):
    """The whole SVG of an icon; what it does not say itself, its pack says for all."""
    width, height = (icon.get(k, pack.get(k, 16)) for k in ("width", "height"))
    return ('<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" width="{width}" height="{height}">'
            f'{icon["body"]}</svg>')


def icons(folder, namer, own_names):
    """Yields (icon name, code points, svg) of a pack's drawings that CLDR knows; no skin tones."""
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
            yield name, found, svg_of(icon, pack)
