"""A tiny data set that the tests draw themselves: PNGs of coloured shapes, with sentences in two languages."""
import json
import struct
import zlib
from pathlib import Path

import numpy as np

COLOURS = {"red": (220, 40, 40, "红色"), "green": (40, 180, 60, "绿色"), "blue": (40, 70, 220, "蓝色"), "yellow": (230, 210, 50, "黄色")}
SHAPES = {"disc": "圆", "square": "正方形", "stripe": "条纹"}


def png(path, pixels):
    """Writes uint8 pixels [H, W, 3]."""
    h, w, _ = pixels.shape

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) +
                           chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


def draw(colour, shape, size=40):
    y, x = np.mgrid[:size, :size]
    inside = {"disc": (x - size / 2) ** 2 + (y - size / 2) ** 2 < (size / 3) ** 2,
              "square": (abs(x - size / 2) < size / 3) & (abs(y - size / 2) < size / 3), "stripe": (x // 6) % 2 == 0}[shape]
    pixels = np.full((size, size, 3), 245, np.uint8)
    pixels[inside] = colour[:3]
    return pixels


def write(folder):
    """Twelve pictures and pairs.jsonl; returns its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, colour in COLOURS.items():
        for shape, chinese in SHAPES.items():
            png(folder / f"{name}-{shape}.png", draw(colour, shape))
            lines.append({"image": f"{name}-{shape}.png", "text": [f"a {name} {shape}", f"{shape}, {name}"],
                          "text_zh": f"{colour[3]}的{chinese}", "group": f"{name} {shape}"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines))
    return folder / "pairs.jsonl"
