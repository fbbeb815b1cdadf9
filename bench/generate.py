"""Tokens a second of `ocelli generate` beside PyTorch (transformers), in turns: decoding one text and eight at a time, and a prompt of 512 tokens.

    generate.py --make gpt2|llama --work DIR                                  writes a model of random weights, fp32 and bf16 (GPT-2 124M, TinyLlama's shape)
    generate.py --engine build/ocelli --model DIR/gpt2-fp32 [--rounds 3]      needs torch and transformers

Ocelli is a process of its own each time; what loading costs falls out, as times of a long answer and a short one are subtracted. PyTorch runs in this process
(so it keeps its memory warm), by the faster of a plain loop over its dynamic cache and `generate` with a static one. The read bandwidth is what numbers in
memory are summed with, in the same rounds. Medians over rounds."""
import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

CASES = Path(__file__).resolve().parent.parent / "tests" / "reference"
PROMPT, SHORT, LONG = 512, 4, 36  # tokens of a prompt, and of answers


def make(kind, work):
    torch.manual_seed(1)
    if kind == "gpt2":
        config = transformers.GPT2Config(eos_token_id=50256)
    else:
        config = transformers.LlamaConfig(vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
                                          num_key_value_heads=4, max_position_embeddings=2048, rms_norm_eps=1e-5)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    noise = 0.02 * torch.randn((1 << 20) + 7)
    state = {k: noise.repeat(p.numel() // noise.numel() + 1)[:p.numel()].view(p.shape) + (p.dim() == 1) for k, p in model.named_parameters()}
    for name, dtype in [("bf16", torch.bfloat16), ("fp32", torch.float32)]:
        folder = work / f"{kind}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.to(dtype) for k, v in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps({**config.to_diff_dict(), "architectures": [type(model).__name__]}))
        for file in ["tokenizer.json", "tokenizer_config.json"]:  # every byte a token
            shutil.copy(CASES / "mistral" / "model" / file, folder)


class Ocelli:
    def __init__(self, engine, folder, dtype):
        self.args = [engine, "generate", "--model", str(folder), "--threads", str(torch.get_num_threads()), "--quiet", "--json", *(["--dtype", dtype] if dtype else [])]

    def seconds(self, batch, prompt, new):
        lines = "".join(chr(97 + i) * prompt + "\n" for i in range(batch))
        start = time.perf_counter()
        out = subprocess.run([*self.args, "--stdin", "--batch", str(batch), "--context", "1024", "--max-new-tokens", str(new)], input=lines, text=True, check=True,
                             capture_output=True).stdout
        took = time.perf_counter() - start
        assert all(len(json.loads(x)["ids"]) == new for x in out.splitlines()), "an answer ended early"
        return took

    def decode(self, batch):
        return batch * (LONG - SHORT) / (self.seconds(batch, 8, LONG) - self.seconds(batch, 8, SHORT))

    def prefill(self):
        return (PROMPT - 8) / (self.seconds(1, PROMPT, 1) - self.seconds(1, 8, 1))


class Torch:
    def __init__(self, folder):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()

    def ids(self, batch, n):
        return torch.arange(batch)[:, None] + torch.full((batch, n), 67)

    @torch.inference_mode()
    def loop(self, batch):
        out = self.model(self.ids(batch, 8), use_cache=True, logits_to_keep=1)
        start = time.perf_counter()
        for _ in range(LONG - SHORT):
            out = self.model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)
        return batch * (LONG - SHORT) / (time.perf_counter() - start)

    @torch.inference_mode()
    def generate(self, batch):
        times = []
        for new in (SHORT, LONG):
            start = time.perf_counter()
            self.model.generate(self.ids(batch, 8), max_new_tokens=new, min_new_tokens=new, do_sample=False, cache_implementation="static", pad_token_id=0)
            times.append(time.perf_counter() - start)
        return batch * (LONG - SHORT) / (times[1] - times[0])

    def decode(self, batch):
        return max(self.loop(batch), self.generate(batch))

    @torch.inference_mode()
    def prefill(self):
        start = time.perf_counter()
        self.model(self.ids(1, PROMPT), use_cache=True, logits_to_keep=1)
        return PROMPT / (time.perf_counter() - start)


def read_bandwidth(x=[]):
    """Bytes a second."""
    x = x or x.append(torch.ones(1 << 28)) or x
    start = time.perf_counter()
    x[0].sum()
    return x[0].numel() * 4 / (time.perf_counter() - start)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--make", choices=["gpt2", "llama"])
    p.add_argument("--work", type=Path)
    p.add_argument("--engine")
    p.add_argument("--model", type=Path)
    p.add_argument("--dtype", help="of Ocelli's weights: bf16 where the file is")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    transformers.logging.set_verbosity_error()
    if a.make:
        return make(a.make, a.work)
    weights = sum(f.stat().st_size for f in a.model.glob("*.safetensors"))
    theirs, ours = Torch(a.model), Ocelli(a.engine, a.model, a.dtype)
    figures = {}
    for _ in range(a.rounds):
        for name, take in [("read GB/s", lambda: read_bandwidth() / 1e9), ("torch decode 1", lambda: theirs.decode(1)), ("ocelli decode 1", lambda: ours.decode(1)),
                           ("torch decode 8", lambda: theirs.decode(8)), ("ocelli decode 8", lambda: ours.decode(8)), ("torch prefill", theirs.prefill),
                           ("ocelli prefill", ours.prefill)]:
            figures.setdefault(name, []).append(take())
            print(name, f"{figures[name][-1]:.2f}", flush=True, file=sys.stderr)
    middle = {k: statistics.median(v) for k, v in figures.items()}
    for what in ["decode 1", "decode 8", "prefill"]:
        ratio = middle["ocelli " + what] / middle["torch " + what]
        print(f"{a.model.name} {what}: torch {middle['torch ' + what]:.1f}, ocelli {middle['ocelli ' + what]:.1f} tokens/s, {ratio:.2f}x")
    rate = middle["ocelli decode 1"] * weights / 1e9
    print(f"{a.model.name} reads {rate:.1f} GB/s of weights while it decodes one text, of {middle['read GB/s']:.1f} that can be read: {rate / middle['read GB/s']:.2f}")


main()
