"""Tokens a second of Ocelli (`ocelli bench speak`) beside PyTorch (transformers), in turns: decoding one text and eight at a time, and a prompt of 512 tokens.

    generate.py --make gpt2|llama --work DIR                                  writes a model of random weights, fp32 and bf16 (GPT-2 124M, TinyLlama's shape)
    generate.py --engine build/ocelli --model DIR/gpt2-fp32 [--rounds 3]      needs torch and transformers
    generate.py --engine build/ocelli --model DIR/gpt2-fp32 --memory          peak memory of `ocelli generate`, needs neither

Both stay alive and warm, each idle while it is the other's turn. PyTorch's decoding is the faster of a plain loop over its dynamic cache and `generate` with a
static one. The read bandwidth is what Ocelli's threads sum numbers in memory with, in the same rounds. Medians over rounds. --memory holds the peak against
what has to be there: weights as they are held, keys and values of the positions in use, the arena."""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

CASES = Path(__file__).resolve().parent.parent / "tests" / "reference"
PROMPT, BEFORE, STEPS = 512, 8, 32  # tokens of a prompt; those before an answer and of it


def make(kind, work):
    import torch
    import transformers
    from safetensors.torch import save_file
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
    def __init__(self, a):
        self.process = subprocess.Popen([a.engine, "bench", "speak", "--stdin", "--json", *common(a)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for line in ["prompt 512"] * 3 + ["decode 8 4"]:
            self.ask(line)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def decode(self, batch):
        return self.ask(f"decode {batch} {STEPS}")["per_s"]

    def prefill(self):
        return self.ask(f"prompt {PROMPT}")["per_s"]


class Torch:
    def __init__(self, folder, threads):
        import torch
        import transformers
        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        self.torch, self.new_cache = torch, transformers.DynamicCache
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        self.prefill()

    def ids(self, batch, n):
        return self.torch.arange(batch)[:, None] + self.torch.full((batch, n), 67)

    def loop(self, batch):
        cache = self.new_cache()
        with self.torch.inference_mode():
            out = self.model(self.ids(batch, BEFORE), past_key_values=cache, use_cache=True, logits_to_keep=1)
            start = time.perf_counter()
            for _ in range(STEPS):
                out = self.model(out.logits[:, -1:].argmax(-1), past_key_values=cache, use_cache=True)
            return batch * STEPS / (time.perf_counter() - start)

    def generate(self, batch):
        times = []
        for new in (4, 4 + STEPS):
            start = time.perf_counter()
            self.model.generate(self.ids(batch, BEFORE), max_new_tokens=new, min_new_tokens=new, do_sample=False, cache_implementation="static", pad_token_id=0)
            times.append(time.perf_counter() - start)
        return batch * STEPS / (times[1] - times[0])

    def decode(self, batch):
        return max(self.loop(batch), self.generate(batch))

    def prefill(self):
        with self.torch.inference_mode():
            start = time.perf_counter()
            self.model(self.ids(1, PROMPT), use_cache=True, logits_to_keep=1)
            return PROMPT / (time.perf_counter() - start)


def common(a):
    info = json.loads(subprocess.run([a.engine, "info", "--json", a.model], text=True, check=True, capture_output=True).stdout)
    held = a.dtype or ("bf16" if max(info["dtypes"], key=info["dtypes"].get) == "BF16" else "fp32")
    return ["--model", str(a.model), "--threads", str(a.threads), "--dtype", held]


def memory(a):
    """Peak resident bytes of an answer of 60 tokens to a prompt of 512."""
    tokens = ["--context", "1024", "--max-new-tokens", "60", "--prompt", "a" * PROMPT]
    process = subprocess.Popen([a.engine, "generate", "--json", "--quiet", *common(a), *tokens], stdout=subprocess.DEVNULL)
    peak = os.wait4(process.pid, 0)[2].ru_maxrss * 1024
    line = Ocelli(a).ask("decode 1 4")
    info = json.loads(subprocess.run([a.engine, "info", "--json", str(a.model)], text=True, check=True, capture_output=True).stdout)
    parts = {"weights": line["weights_read_bytes"], "cache": (PROMPT + 60) * info["cache_bytes_per_position"], "arena": line["arena_bytes"]}
    print(f"{a.model.name}: peak {peak / 1e6:.1f} MB, {peak / sum(parts.values()):.3f} of " + ", ".join(f"{k} {v / 1e6:.1f}" for k, v in parts.items()))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--make", choices=["gpt2", "llama"])
    p.add_argument("--work", type=Path)
    p.add_argument("--engine")
    p.add_argument("--model", type=Path)
    p.add_argument("--dtype", help="of Ocelli's weights (as the file has them, which is what PyTorch does too)")
    p.add_argument("--memory", action="store_true")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    if a.make:
        return make(a.make, a.work)
    if a.memory:
        return memory(a)
    theirs, ours = Torch(a.model, a.threads), Ocelli(a)
    figures = {}
    for _ in range(a.rounds):
        for name, take in [("read GB/s", lambda: ours.ask("read")["machine_gb_s"]), ("torch decode 1", lambda: theirs.decode(1)), ("ocelli decode 1", lambda: ours.decode(1)),
                           ("torch decode 8", lambda: theirs.decode(8)), ("ocelli decode 8", lambda: ours.decode(8)), ("torch prefill", theirs.prefill),
                           ("ocelli prefill", ours.prefill)]:
            figures.setdefault(name, []).append(take())
            print(name, f"{figures[name][-1]:.2f}", flush=True, file=sys.stderr)
    middle = {k: statistics.median(v) for k, v in figures.items()}
    for what in ["decode 1", "decode 8", "prefill"]:
        ratio = middle["ocelli " + what] / middle["torch " + what]
        print(f"{a.model.name} {what}: torch {middle['torch ' + what]:.1f}, ocelli {middle['ocelli ' + what]:.1f} tokens/s, {ratio:.2f}x")
    rate = middle["ocelli decode 1"] * ours.ask("decode 1 4")["weights_read_bytes"] / 1e9
    print(f"{a.model.name} reads {rate:.1f} GB/s of weights while it decodes one text, of {middle['read GB/s']:.1f} that can be read: {rate / middle['read GB/s']:.2f}")


main()
