"""One picture file to the numbers that CLIP takes: Ocelli beside Pillow and transformers, interleaved, on the same files.

    pixels.py --engine build/ocelli --venv DIR [--rounds 7] [--threads 1,2] [--json OUT] [FILE...]

DIR gets a Python environment with the peers (made when it is not there); without files, JPEGs of 1 and 12 megapixels, a PNG and a WebP are made.
Each round runs every way once on every file; the table gives medians over the rounds, and how far the numbers are from the processor's.
"""
import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEERS = ["pillow>=13", "numpy", "transformers"]
PROCESSOR = '{"image_processor_type": "CLIPImageProcessor"}'


def enter(venv):
    """Goes on inside the environment, which is made first if need be."""
    python = Path(venv).absolute() / "bin" / "python"
    if Path(sys.prefix).resolve() == python.parent.parent.resolve():
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS], check=True)
    os.execv(python, [str(python), *sys.argv])


def photo(width, height):
    """Noise whose amplitude falls with the frequency, as in photographs, and some sharp edges."""
    import numpy as np
    from PIL import Image, ImageDraw
    rng = np.random.default_rng(width)
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    fall = np.maximum(np.hypot(x, y), 1 / width) ** -1.1
    planes = [np.fft.irfft2(fall * np.exp(2j * np.pi * rng.random(fall.shape)) * rng.rayleigh(size=fall.shape), s=(height, width)) for _ in range(3)]
    mixed = [0.8 * planes[0] + 0.3 * p for p in planes]
    image = Image.fromarray(np.clip(np.stack([128 + 50 * p / p.std() for p in mixed], -1), 0, 255).astype("uint8"))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        cx, cy, r = rng.integers(width), rng.integers(height), rng.integers(width // 60, width // 12)
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), outline=tuple(map(int, rng.integers(0, 255, 3))), width=max(2, width // 400))
    return image


def make_files(folder):
    small, large = photo(1152, 864), photo(4000, 3000)
    small.save(folder / "1mp.jpg", quality=90)
    large.save(folder / "12mp.jpg", quality=90)
    small.save(folder / "1mp-progressive.jpg", quality=90, progressive=True)
    small.rotate(90, expand=True).save(folder / "1mp-portrait.jpg", quality=90)
    small.save(folder / "1mp.png")
    small.save(folder / "1mp.webp", quality=80)
    return sorted(folder.iterdir())


def read_pixels(path):
    import numpy as np
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    info = json.loads(raw[8:8 + size])["pixel_values"]
    begin, end = (8 + size + at for at in info["data_offsets"])
    return np.frombuffer(raw[begin:end], "<f4").reshape(info["shape"])


class Ocelli:
    def __init__(self, engine, threads, fast, work):
        self.name = f"Ocelli{' --fast-decode' if fast else ''}, {threads} thread{'s' * (threads > 1)}"
        self.out = work / "pixels"
        self.command = [engine, "preprocess", "--model", work / "model", "--threads", str(threads), "--json", "--out", self.out] + ["--fast-decode"] * fast

    def run(self, path, times):
        said = subprocess.run([*self.command, "--repeat", str(times), path], capture_output=True, text=True, check=True).stdout
        return json.loads(said)["ms"], read_pixels(self.out)


class Processor:
    def __init__(self):
        import transformers
        make = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
        self.name, self.processor = f"Pillow + {make.__name__}", make()

    def run(self, path, times):
        from PIL import Image
        file, took = path.read_bytes(), []
        for _ in range(times):
            start = time.perf_counter()
            pixels = self.processor(images=Image.open(io.BytesIO(file)), return_tensors="np")["pixel_values"]
            took.append(time.perf_counter() - start)
        return 1e3 * statistics.median(took), pixels


def measure(ways, files, rounds):
    """{file: {way: [ms of each round]}} and {file: {way: greatest difference from the first way}}."""
    import numpy as np
    times = {f: {w.name: [] for w in ways} for f in files}
    off = {f: {} for f in files}
    for _ in range(rounds):
        for f in files:
            first = None
            for w in ways:
                ms, pixels = w.run(f, 3)
                times[f][w.name].append(ms)
                first = pixels if first is None else first
                off[f][w.name] = float(np.abs(np.asarray(pixels) - first).max())
    return times, off


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--venv", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--json")
    parser.add_argument("files", nargs="*", type=Path)
    a = parser.parse_args()
    enter(a.venv)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "model").mkdir()
        (work / "model" / "preprocessor_config.json").write_text(PROCESSOR)
        (work / "files").mkdir()
        files = a.files or make_files(work / "files")
        ways = [Processor()] + [Ocelli(a.engine, int(t), fast, work) for t in a.threads.split(",") for fast in (False, True)]
        times, off = measure(ways, files, a.rounds)
    print("| file | way | ms | times as fast | greatest difference |\n|---|---|---|---|---|")
    table = []
    for f in files:
        base = statistics.median(times[f][ways[0].name])
        for w in ways:
            ms = statistics.median(times[f][w.name])
            table.append({"file": f.name, "way": w.name, "ms": ms, "ratio": base / ms, "off": off[f][w.name]})
            print(f"| {f.name} | {w.name} | {ms:.2f} | {base / ms:.2f} | {off[f][w.name]:.3g} |")
    if a.json:
        Path(a.json).write_text(json.dumps(table, indent=1))


main()
