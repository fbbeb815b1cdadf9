"""SVG or PNG to a small square RGB PNG on white; and whether two such pictures are nearly the same."""
import io
import os
import subprocess

import numpy as np
from PIL import Image

SIDE = 128
INK = 247  # a pixel with a channel below this is drawn, as in the nearest-neighbour baseline


def on_white(image):
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def trimmed(image):
    """Without the page's empty margin: many clip-art drawings lie on a corner of an A4 page."""
    ink = np.asarray(image).min(2) < INK
    if not ink.any():
        return None
    ys, xs = np.where(ink.any(1))[0], np.where(ink.any(0))[0]
    return image.crop((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))


def squared(image, margin=0.0):
    """Padded with white to a square of SIDE. margin: part of the longer side to leave free on each side."""
    side = max(image.size)
    side += 2 * round(side * margin)
    page = Image.new("RGB", (side, side), "white")
    page.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return page.resize((SIDE, SIDE), Image.LANCZOS) if side != SIDE else page


def render(svg, side, seconds=20):
    """The SVG (path, or text) as an image, its longer side `side`; None if librsvg cannot draw it in time."""
    command = ["rsvg-convert", "--unlimited", "-a", "-w", str(side), "-h", str(side), "-b", "white"]
    given = None if os.path.exists(svg) else svg.encode()
    try:
        done = subprocess.run(command + ([] if given else [svg]), input=given, capture_output=True,
                              timeout=seconds, check=False)
        return on_white(Image.open(io.BytesIO(done.stdout))) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, OSError):
        return None


def save(image, path):
    """Written aside and renamed, so that a run that is stopped leaves no half picture for the next."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image.save(path + ".tmp", "PNG")
    os.replace(path + ".tmp", path)


def draw(task):
    """task: (svg text or path of an SVG or PNG, path of the PNG, trim). True when the picture is there."""
    source, path, trim = task
    if os.path.exists(path):
        return True
    if source.endswith(".png"):
        image = on_white(Image.open(source))
    else:
        image = render(source, 512 if trim else SIDE)
    if image is not None and trim:
        image = trimmed(image)
    if image is None or min(image.size) < 1:
        return False
    save(squared(image, 0.04 if trim else 0.0), path)
    return True


def fingerprint(path):
    """(256 bits: is a neighbour darker; 12x12 colours) of the content: small changes hardly change it."""
    image = Image.open(path).convert("RGB")
    image = trimmed(image) or image
    grey = np.asarray(image.convert("L").resize((17, 16), Image.BOX), np.float32)
    colours = np.asarray(image.resize((12, 12), Image.BOX), np.float32)
    return np.packbits(grey[:, 1:] > grey[:, :-1]), colours.reshape(-1)


def nearly_same(one, bits, colours):
    """Indices of the fingerprints (stacked) that may show the same drawing as `one`; rather one too many."""
    differing = np.unpackbits(bits ^ one[0], axis=1).sum(1)
    apart = np.abs(colours - one[1]).mean(1)
    return np.where((differing <= 24) | (apart <= 10) | ((differing <= 48) & (apart <= 24)))[0]
