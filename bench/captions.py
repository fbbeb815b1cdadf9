"""BLIP-base of random weights at 384 pixels: looking at pictures, and captions of 20 tokens, by Ocelli (`ocelli bench speak`) and PyTorch (transformers) in turns.

    captions.py --make --work DIR                                    writes the model (BlipForConditionalGeneration, fp32; needs torch, transformers)
    captions.py --engine build/ocelli --work DIR [--rounds 5]        both beside each other; bf16 and int8 of Ocelli beside those
    captions.py --engine build/ocelli --work DIR --check             one picture's rows and greedy tokens are the same
    captions.py --engine build/ocelli --work DIR --memory            peak memory of `ocelli caption` against what has to be there (--dtype)

Each stays alive and warm and is idle while it is not its turn; PyTorch's allocator has glibc's thresholds raised. Medians over rounds, milliseconds."""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

TOKENS, BATCHES = 20, (1, 8)
CASES = Path(__file__).resolve().parent.parent / "tests" / "reference"
QUIET = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(8 << 30), "HF_HUB_OFFLINE": "1"}


def make(work):
    import torch
    import transformers
    torch.manual_seed(3)
    config = transformers.BlipConfig(text_config={"num_attention_heads": 12, "bos_token_id": 30522, "sep_token_id": 102, "eos_token_id": 102, "pad_token_id": 0,
                                                  "is_decoder": True},
                                     vision_config={"initializer_range": 0.02})
    model = transformers.BlipForConditionalGeneration(config).eval()
    folder = work / "blip-base"
    model.save_pretrained(folder)
    small = CASES / "blip_caption" / "model"
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(small / name, folder)
    processor = json.loads((small / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "size": {"height": 384, "width": 384}}))


class Ocelli:
    def __init__(self, a, dtype):
        self.process = subprocess.Popen([a.engine, "bench", "speak", "--stdin", "--json", "--model", a.work / "blip-base", "--threads", str(a.threads), "--dtype",
                                         dtype, "--context", "32"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3):
            self.ask("tell 1 2")

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def look(self, n):
        return self.ask(f"look {n}")["ms"]

    def tell(self, n):
        return self.ask(f"tell {n} {TOKENS}")["ms"]


class Torch:
    def __init__(self, a):
        import torch
        import transformers
        torch.set_num_threads(a.threads)
        self.torch = torch
        self.model = transformers.BlipForConditionalGeneration.from_pretrained(a.work / "blip-base").eval()
        self.pixels = torch.randn(max(BATCHES), 3, 384, 384)
        self.tell(1)

    def timed(self, call):
        with self.torch.inference_mode():
            start = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - start)

    def look(self, n):
        return self.timed(lambda: self.model.vision_model(self.pixels[:n]))

    def tell(self, n):
        return self.timed(lambda: self.model.generate(pixel_values=self.pixels[:n], max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False))


def compare(a):
    theirs, ours = Torch(a), {d: Ocelli(a, d) for d in ("fp32", "bf16", "int8")}
    figures = {}
    for _ in range(a.rounds):
        for n in BATCHES:
            for what in ("look", "tell"):
                for name, engine in [("torch", theirs), *ours.items()]:
                    figures.setdefault((what, n, name), []).append(getattr(engine, what)(n))
    for n in BATCHES:
        for what, words in [("look", "looking"), ("tell", f"looking and {TOKENS} tokens")]:
            median = {name: statistics.median(figures[what, n, name]) for name in ("torch", *ours)}
            print(f"batch {n}, {words}: " + ", ".join(f"{k} {v:.0f} ms" for k, v in median.items()) + f"; fp32 {median['torch'] / median['fp32']:.2f}x, "
                  f"int8 {median['torch'] / median['int8']:.2f}x")


def picture():
    return CASES / "images" / "wide.png"


def check(a):
    """Greedy tokens of a real picture; transformers' own processor and generate."""
    import torch
    import transformers
    from PIL import Image
    model = transformers.BlipForConditionalGeneration.from_pretrained(a.work / "blip-base").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(a.work / "blip-base", use_fast=False)
    pixels = processor(Image.open(picture()).convert("RGB"), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        want = model.generate(pixel_values=pixels, max_new_tokens=TOKENS)[0].tolist()
    got = json.loads(subprocess.run([a.engine, "generate", "--model", a.work / "blip-base", "--image", picture(), "--max-new-tokens", str(TOKENS), "--json"],
                                    check=True, capture_output=True, text=True).stdout)["ids"]
    print("the same" if want[-len(got):] == got else f"they differ: {want}, {got}")
    return want[-len(got):] != got


def memory(a):
    """Of four captions at the same time. In fp32 a picture's own rows are remembered, and the weights of crossattention's keys are read where the file has them."""
    layers, width, rows = 12, 768, 577
    command = [a.engine, "caption", "--model", a.work / "blip-base", "--json", "--quiet", "--dtype", a.dtype, "--threads", str(a.threads), *[picture()] * 4]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = os.wait4(process.pid, 0)[2].ru_maxrss * 1024
    line = Ocelli(a, a.dtype).ask("tell 1 20")
    info = json.loads(subprocess.run([a.engine, "info", "--json", a.work / "blip-base"], check=True, capture_output=True, text=True).stdout)
    each, plain = info["cache_bytes_per_position"], a.dtype == "fp32"
    parts = {"weights": line["weights_read_bytes"] + (layers * width * width * 4 if plain else 0),
             "cache": 4 * (rows * (width * 4 if plain else each) + TOKENS * each), "arena": line["arena_bytes"]}
    print(f"{a.dtype}: peak {peak / 1e6:.0f} MB, {peak / sum(parts.values()):.3f} of " + ", ".join(f"{k} {v / 1e6:.0f}" for k, v in parts.items()))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--engine")
    p.add_argument("--work", type=Path, required=True)
    for name in ["make", "check", "memory"]:
        p.add_argument("--" + name, action="store_true")
    p.add_argument("--dtype", default="fp32", help="with --memory")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    if a.make:
        return make(a.work)
    return check(a) if a.check else memory(a) if a.memory else compare(a)


if __name__ == "__main__":
    if os.environ.get("HF_HUB_OFFLINE") is None:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **QUIET})
    sys.exit(main())
