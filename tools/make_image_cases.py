#!/usr/bin/env python3
"""Writes tests/data/images: small generated pictures in every kind of file, and what Pillow makes of them.

    python3 -m venv v && v/bin/pip install 'pillow>=13' numpy && v/bin/python tools/make_image_cases.py

    NAME.jpg|png|webp          the files
    NAME.jpg.png, NAME.webp.png  a lossy file's pixels as Pillow decodes them
    pictures.txt    file width height hash     lossless files: hash of the upright RGB bytes
    resize.txt      seed width height to_width to_height filter hash
    preprocess.txt  seed width height out_width out_height hash config   (no rescale, no normalise)

Hashes are FNV-1a of 64 bits. The pictures of resize.txt and preprocess.txt are made from the seed by the
same formula here and in tests/test_image.c, so only their hashes are stored. Nothing is downloaded.
"""
import io
import json
import math
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "images"
assert int(PIL.__version__.split(".")[0]) >= 13, "the order of the resize passes is Pillow 13's"


def pixels(seed, width, height):
    """The test pictures: a slope with noise on it, from integer arithmetic that C repeats."""
    i = np.arange(width * height * 3, dtype=np.uint32)
    h = i * np.uint32(2654435761) + np.uint32(seed * 40503)
    h ^= h >> np.uint32(15)
    h *= np.uint32(2246822519)
    h ^= h >> np.uint32(13)
    x, y, c = i // 3 % width, i // 3 // width, i % 3
    noise = (h >> np.uint32(8)) & np.uint32(255 if seed % 2 else 31)
    return ((x * 3 + y * 5 + c * 40 + noise) & 255).astype(np.uint8).reshape(height, width, 3)


def picture(seed, width, height):
    return Image.fromarray(pixels(seed, width, height))


def fnv(data):
    h = 0xCBF29CE484222325
    for b in bytes(data):
        h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


# ---- files ------------------------------------------------------------------------------------------------


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(orientation, order="<"):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def xmp(orientation):
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def png(seed, width, height, depth, kind, extra=b"", interlaced=False, tail=b""):
    """Any PNG that the format allows; Pillow writes only some."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    wide = pixels(seed, width * channels, height)[..., :2].astype(np.uint16) @ np.array([256, 1], np.uint16)
    values = (wide >> (16 - depth)).reshape(height, width, channels)
    if kind == 0 and depth == 16:
        values = values * (values % 3 == 0) % 700  # most are beyond 255, some are not

    def row(y, xs):
        v = values[y, xs].ravel()
        if depth == 16:
            return b"\0" + v.astype(">u2").tobytes()
        bits = "".join(format(int(k), f"0{depth}b") for k in v)
        bits += "0" * (-len(bits) % 8)
        return b"\0" + bytes(int(bits[j:j + 8], 2) for j in range(0, len(bits), 8))

    raw = b""
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    for x0, y0, dx, dy in steps if interlaced else ((0, 0, 1, 1),):
        if x0 < width:
            raw += b"".join(row(y, list(range(x0, width, dx))) for y in range(y0, height, dy))
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    body = extra + chunk(b"IDAT", zlib.compress(raw, 9)) + tail
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def palette(n, alphas=None):
    colours = bytes((i * 37 + c * 91 + 11) & 255 for i in range(n) for c in range(3))
    return chunk(b"PLTE", colours) + (chunk(b"tRNS", bytes(alphas)) if alphas else b"")


def saved(image, form, **options):
    f = io.BytesIO()
    image.save(f, form, **options)
    return f.getvalue()


def png_files():
    lone = [255] * 7 + [0]
    yield "palette1.png", png(1, 13, 9, 1, 3, palette(2))
    yield "palette2.png", png(2, 14, 9, 2, 3, palette(4))
    yield "palette4.png", png(3, 15, 9, 4, 3, palette(16))
    yield "palette8.png", png(4, 16, 9, 8, 3, palette(256))
    yield "palette8_short.png", png(5, 16, 9, 8, 3, palette(100))
    yield "palette4_alphas.png", png(6, 16, 9, 4, 3, palette(16, range(0, 160, 10)))
    yield "palette4_half.png", png(6, 16, 9, 4, 3, palette(16, [255, 128, 255]))
    yield "palette4_lone.png", png(7, 16, 9, 4, 3, palette(16, lone))
    for depth in (1, 2, 4, 8, 16):
        yield f"gray{depth}.png", png(10 + depth, 17, 11, depth, 0)
        yield f"gray{depth}_key.png", png(10 + depth, 17, 11, depth, 0, chunk(b"tRNS", b"\0\0"))
    yield "gray8_key70.png", png(8, 17, 11, 8, 0, chunk(b"tRNS", b"\0\x46"))
    for depth in (8, 16):
        yield f"grayalpha{depth}.png", png(31 + depth, 12, 7, depth, 4)
        yield f"rgb{depth}.png", png(41 + depth, 12, 7, depth, 2)
        yield f"rgba{depth}.png", png(51 + depth, 12, 7, depth, 6)
    key = saved(Image.fromarray(pixels(9, 12, 7) // 128 * 255), "PNG", transparency=(0, 255, 0))
    yield "rgb8_key.png", key
    yield "interlaced_rgb8.png", png(60, 19, 13, 8, 2, interlaced=True)
    yield "interlaced_gray1.png", png(61, 19, 13, 1, 0, interlaced=True)
    yield "interlaced_gray16.png", png(62, 3, 13, 16, 0, interlaced=True)
    yield "interlaced_palette4.png", png(63, 19, 2, 4, 3, palette(16), interlaced=True)
    yield "exif6.png", png(64, 9, 5, 8, 2, chunk(b"eXIf", tiff(6)))
    yield "exif5_late.png", png(65, 9, 5, 8, 2, tail=chunk(b"eXIf", tiff(5, ">")))
    yield "xmp8.png", png(66, 9, 5, 8, 2, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(8)))
    yield "exif1_xmp8.png", png(67, 9, 5, 8, 2, chunk(b"eXIf", tiff(1))
                                + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(8)))


def webp_offset_frame():
    """An animation whose first frame covers only a part of the canvas; Pillow always writes full ones."""
    def riff(name, data):
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def u24(v):
        return struct.pack("<I", v)[:3]

    frame = saved(picture(78, 8, 6), "WEBP", lossless=True)[12:]
    place = u24(4 // 2) + u24(2 // 2) + u24(8 - 1) + u24(6 - 1) + u24(40) + b"\0"
    body = (riff(b"VP8X", b"\2\0\0\0" + u24(16 - 1) + u24(12 - 1)) + riff(b"ANIM", b"\xff\xff\xff\xff\0\0")
            + riff(b"ANMF", place + frame))
    return riff(b"RIFF", b"WEBP" + body)


def webp_lossless_files():
    alpha = picture(71, 20, 14).convert("RGBA")
    alpha.putalpha(picture(72, 20, 14).convert("L"))
    yield "lossless.webp", saved(picture(70, 21, 15), "WEBP", lossless=True)
    yield "alpha.webp", saved(alpha, "WEBP", lossless=True, exact=True)
    yield "exif7.webp", saved(picture(73, 11, 6), "WEBP", lossless=True, exif=b"Exif\0\0" + tiff(7, ">"))
    yield "xmp3.webp", saved(picture(74, 11, 6), "WEBP", lossless=True, xmp=xmp(3))
    yield "animated.webp", saved(picture(75, 16, 12), "WEBP", lossless=True, save_all=True, duration=40,
                                 append_images=[picture(76, 16, 12), picture(77, 16, 12)])
    yield "animated_offset.webp", webp_offset_frame()


def lossy_files():
    base = picture(80, 16, 12).resize((37, 29), Image.Resampling.BICUBIC)
    yield "yuv420.jpg", saved(base, "JPEG", quality=85, subsampling=2)
    yield "yuv422_progressive.jpg", saved(base, "JPEG", quality=85, subsampling=1, progressive=True)
    yield "yuv444.jpg", saved(base, "JPEG", quality=85, subsampling=0)
    yield "gray.jpg", saved(base.convert("L"), "JPEG", quality=85)
    yield "rgb.jpg", saved(base, "JPEG", quality=85, keep_rgb=True)
    yield "restarts.jpg", saved(base, "JPEG", quality=40, restart_marker_blocks=2)
    cmyk = base.convert("CMYK")
    cmyk.putdata([(c, m, y, (c + y) // 3) for c, m, y, _ in cmyk.get_flattened_data()])
    cmyk = saved(cmyk, "JPEG", quality=90, subsampling=0)
    adobe = cmyk.index(b"Adobe")
    yield "cmyk.jpg", cmyk
    yield "ycck.jpg", cmyk[:adobe + 11] + b"\2" + cmyk[adobe + 12:]  # the same numbers read as YCCK
    yield "exif6.jpg", saved(base, "JPEG", quality=85, exif=b"Exif\0\0" + tiff(6))
    yield "xmp4.jpg", saved(base, "JPEG", quality=85, xmp=xmp(4))
    yield "lossy.webp", saved(base, "WEBP", quality=80)
    alpha = base.convert("RGBA")
    alpha.putalpha(picture(81, 37, 29).convert("L"))
    yield "lossy_alpha.webp", saved(alpha, "WEBP", quality=80)


def decode(data):
    """As transformers 5.23 does: load_image, then convert_to_rgb."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    if image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def write_files():
    lines = []
    for name, data in (*png_files(), *webp_lossless_files()):
        (OUT / name).write_bytes(data)
        rgb = decode(data)
        lines.append(f"{name} {rgb.width} {rgb.height} {fnv(rgb.tobytes())}\n")
    for name, data in lossy_files():
        (OUT / name).write_bytes(data)
        (OUT / (name + ".png")).write_bytes(saved(decode(data), "PNG", optimize=True))
    (OUT / "pictures.txt").write_text("".join(lines))


# ---- resizing ---------------------------------------------------------------------------------------------


def resize_cases(rng):
    for f in range(6):
        yield 30, 20, 30, 20, f  # no pass
        yield 30, 20, 30, 7, f  # one pass
        yield 30, 20, 11, 20, f
        yield 33, 200, 31, 21, f  # vertical pass first
        yield 33, 200, 70, 21, f
        yield 1, 1, 5, 4, f
        yield 900, 3, 2, 5, f  # hundreds of taps
        yield 2, 900, 3, 2, f
        for _ in range(15):
            yield (*(rng.randint(1, 90) for _ in range(4)), f)


def write_resizes():
    lines = []
    for seed, (w, h, ow, oh, f) in enumerate(resize_cases(random.Random(5))):
        out = picture(seed, w, h).resize((ow, oh), f)
        lines.append(f"{seed} {w} {h} {ow} {oh} {f} {fnv(out.tobytes())}\n")
    (OUT / "resize.txt").write_text("".join(lines))


# ---- preprocessing ----------------------------------------------------------------------------------------


def target(size, w, h):
    """Width and height that an image processor's `size` asks for."""
    if isinstance(size, int):
        size = {"shortest_edge": size}
    if "height" in size:
        return size["width"], size["height"]
    if "max_height" in size:
        scale = min(size["max_height"] / h, size["max_width"] / w)
        return int(w * scale), int(h * scale)
    edge, raw, limit = size["shortest_edge"], size["shortest_edge"], size.get("longest_edge")
    if limit and max(w, h) / min(w, h) * edge > limit:
        raw = limit * min(w, h) / max(w, h)
        edge = round(raw)
    if limit and min(w, h) == edge:
        return w, h
    return (edge, int(raw * h / w)) if w <= h else (int(raw * w / h), edge)


def crop(image, size):
    """Centre crop that floors, with zeros around a picture that is too small."""
    height, width = (size, size) if isinstance(size, int) else (size["height"], size["width"])
    top, left = math.floor((image.shape[0] - height) / 2), math.floor((image.shape[1] - width) / 2)
    out = np.zeros((height, width, 3), np.uint8)
    ys = range(max(0, top), min(image.shape[0], top + height))
    xs = range(max(0, left), min(image.shape[1], left + width))
    part = image[ys.start:ys.stop, xs.start:xs.stop]
    out[ys.start - top:ys.stop - top, xs.start - left:xs.stop - left] = part
    return out


def preprocess_cases(rng):
    raw = {"do_rescale": False, "do_normalize": False}
    clip = {"image_processor_type": "CLIPImageProcessor", **raw}
    old = {"feature_extractor_type": "CLIPFeatureExtractor", **raw, "resample": 3}
    blip = {"image_processor_type": "BlipImageProcessorFast", **raw}
    siglip = {"image_processor_type": "SiglipImageProcessor", **raw}
    for _ in range(4):
        w, h = rng.randint(5, 90), rng.randint(5, 90)
        yield w, h, {**clip, "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        yield w, h, {**clip, "size": {"shortest_edge": 30}, "crop_size": {"height": 27, "width": 30}}
        yield w, h, {**clip, "size": {"shortest_edge": 11}, "crop_size": {"height": 24, "width": 9}}
        yield w, h, {**old, "size": 24, "crop_size": 21}
        yield w, h, {**clip, "size": {"shortest_edge": 16}, "do_center_crop": False}
        yield w, h, {**clip, "size": {"shortest_edge": 20, "longest_edge": 31}, "do_center_crop": False}
        yield w, h, {**clip, "size": {"max_height": 25, "max_width": 40}, "do_center_crop": False}
        yield w, h, {**clip, "do_resize": False, "crop_size": 40}
        yield w, h, {**blip, "size": {"height": 28, "width": 20}}
        yield w, h, {**siglip, "size": {"height": 32, "width": 32}, "resample": 2}
    yield 10, 47, {**clip, "size": {"shortest_edge": 16}, "crop_size": 16}  # vertical first


def write_preprocess():
    lines = []
    for seed, (w, h, config) in enumerate(preprocess_cases(random.Random(6))):
        image = picture(seed + 1000, w, h)
        if config.get("do_resize", True):
            image = image.resize(target(config["size"], w, h), config.get("resample", 3))
        image = np.asarray(image)
        if "crop_size" in config:
            image = crop(image, config["crop_size"])
        text = json.dumps(config, separators=(",", ":"))
        digest = fnv(image.transpose(2, 0, 1).tobytes())
        lines.append(f"{seed + 1000} {w} {h} {image.shape[1]} {image.shape[0]} {digest} {text}\n")
    (OUT / "preprocess.txt").write_text("".join(lines))


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    write_files()
    write_resizes()
    write_preprocess()
    print(f"{OUT}: {len(list(OUT.iterdir()))} files, {sum(f.stat().st_size for f in OUT.iterdir())} bytes")
