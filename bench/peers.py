"""Ocelli and its peers side by side: the same weights, the same inputs, round by round in turn, one table of ratios.

    peers.py --engine build/ocelli --venv DIR --work DIR [--only clip-image/b32 --only ...] [--budget S] [--table bench/results/NAME.md]

Makes the environment DIR (PyPI: torch, transformers, onnxruntime, onnx, openvino, pillow; 6 GB), random CLIPs of true size and their ONNX files in --work, once.
Every engine is a process that stays alive and sleeps while it is not its turn. Before anything is timed all embed the same rows, and the largest
difference of any number, over the row's norm, is kept beside the times. A call goes on where an earlier one stopped (--work/results.json), as long as Ocelli's version
is the same: with --budget it stops after that many seconds, so that a quiet machine need not be held for long. Ratios are of the medians of all rounds.

Peers run as their makers advise for inference on a CPU; Python's have glibc's malloc thresholds raised, which helps torch much.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve()
PACKAGES = ["torch", "transformers", "onnxruntime", "onnx", "onnxscript", "openvino", "pillow", "safetensors", "numpy"]
QUIET = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(8 << 30), "MALLOC_TOP_PAD_": str(64 << 20), "HF_HUB_OFFLINE": "1",
         "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
NOT_OURS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OCELLI_CPU")
EOS = 49407
SIZES = {"b32": {"vision": (768, 3072, 12, 12, 32), "text": (512, 2048, 12, 8), "projection": 512, "batches": (1, 8, 32), "rows": 32},
         "l14": {"vision": (1024, 4096, 24, 16, 14), "text": (768, 3072, 12, 12), "projection": 768, "batches": (1, 8), "rows": 8}}
TEXT_BATCHES = (1, 32)

# ---- models and inputs, made once --------------------------------------------------------------------------------------


def widths(names, values):
    return dict(zip(names, values))


def clip(size):
    """A CLIP of true size with weights as transformers draws them."""
    import torch
    from transformers import CLIPConfig, CLIPModel
    torch.manual_seed(0)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision = widths(names + ("patch_size",), SIZES[size]["vision"])
    text = widths(names, SIZES[size]["text"])
    return CLIPModel(CLIPConfig(vision_config={"image_size": 224, **vision}, text_config={"bos_token_id": EOS - 1, "eos_token_id": EOS, **text},
                                projection_dim=SIZES[size]["projection"])).eval()


def towers(model):
    """The two functions that every engine is measured on: pixels or ids to projected rows, not normalised."""
    import torch

    class Image(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.visual_projection(self.model.vision_model(pixel_values=x).pooler_output)

    class Text(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.text_projection(self.model.text_model(input_ids=x).pooler_output)
    return {"image": Image().eval(), "text": Text().eval()}


def inputs(size):
    import numpy as np
    rng, rows = np.random.default_rng(1), SIZES[size]["rows"]
    ids = rng.integers(0, EOS - 1, (32, 77))
    ids[:, -1] = EOS
    return {"image": rng.standard_normal((rows, 3, 224, 224), dtype=np.float32), "text": ids}


def export(module, x, path):
    import torch
    names = {"input_names": ["x"], "output_names": ["y"]}
    with torch.no_grad():
        try:
            torch.onnx.export(module, (x,), str(path), dynamic_axes={"x": {0: "b"}, "y": {0: "b"}}, opset_version=17, dynamo=False, **names)
        except Exception as e:  # the older exporter goes with some version of torch
            print(f"{path.name}: {type(e).__name__}, trying the other exporter", file=sys.stderr)
            torch.onnx.export(module, (x,), str(path), dynamic_shapes=({0: torch.export.Dim("b", min=1, max=64)},), dynamo=True, **names)


def make_model(size, work):
    """work/SIZE: the Hugging Face folder, in.npz and in.safetensors, image.onnx, text.onnx, and both quantised."""
    folder = work / size
    if (folder / "ready").exists():
        return folder
    import numpy as np
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from safetensors.numpy import save_file
    model, x = clip(size), inputs(size)
    model.save_pretrained(folder)
    np.savez(folder / "in.npz", **x)
    save_file({"pixel_values": x["image"], "input_ids": x["text"]}, folder / "in.safetensors")
    for name, module in towers(model).items():
        export(module, torch.from_numpy(x[name][:2]), folder / f"{name}.onnx")
        quantize_dynamic(folder / f"{name}.onnx", folder / f"{name}.int8.onnx", weight_type=QuantType.QInt8, per_channel=True,
                         op_types_to_quantize=["MatMul", "Gemm"])
    (folder / "ready").touch()
    return folder


# ---- peers: each a process of this script ----------------------------------------------------------------------------------


class Torch:
    def __init__(self, folder, threads, mode):
        import torch
        import transformers
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.towers = towers(transformers.CLIPModel.from_pretrained(folder).eval())
        self.version = f"torch {torch.__version__}, transformers {transformers.__version__}"
        self.tensor = torch.from_numpy

    def prepare(self, what, x):
        module, t = self.towers[what], self.tensor(x)
        return lambda: module(t).numpy()


class OnnxRuntime:
    def __init__(self, folder, threads, mode):
        import onnxruntime
        self.runtime, self.folder, self.suffix, self.sessions = onnxruntime, folder, {"fp32": "", "int8": ".int8"}[mode], {}
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.log_severity_level = 3
        self.version = f"ONNX Runtime {onnxruntime.__version__}"

    def prepare(self, what, x):
        if what not in self.sessions:
            path = str(self.folder / f"{what}{self.suffix}.onnx")
            self.sessions[what] = self.runtime.InferenceSession(path, self.options, providers=["CPUExecutionProvider"])
        return lambda: self.sessions[what].run(None, {"x": x})[0]


class OpenVino:
    def __init__(self, folder, threads, mode):
        import openvino
        self.core, self.folder, self.requests = openvino.Core(), folder, {}
        self.settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self.version = f"OpenVINO {openvino.__version__.split('-')[0]}"

    def prepare(self, what, x):
        if what not in self.requests:
            self.requests[what] = self.core.compile_model(str(self.folder / f"{what}.onnx"), "CPU", self.settings).create_infer_request()
        return lambda: self.requests[what].infer({0: x})[0]


PEERS = {"torch": (Torch, "fp32"), "ort": (OnnxRuntime, "fp32"), "openvino": (OpenVino, "fp32"), "ort-int8": (OnnxRuntime, "int8")}


def answer(**fields):
    print(json.dumps(fields), flush=True)


def timed(run):
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def worker(name, folder, threads):
    """Lines in, lines out: `image ROWS PASSES`, `text ROWS PASSES` give milliseconds; `outputs FILE TOWER...` writes what comes out of all rows."""
    import numpy as np
    kind, mode = PEERS[name]
    engine, x = kind(folder, threads, mode), dict(np.load(folder / "in.npz"))
    answer(version=engine.version)
    for line in sys.stdin:
        what, *rest = line.split()
        if what == "outputs":
            np.savez(rest[0], **{tower: np.array(engine.prepare(tower, x[tower])()) for tower in rest[1:]})
            answer(done=True)
        else:
            run = engine.prepare(what, x[what][:int(rest[0])])
            answer(ms=[timed(run) for _ in range(int(rest[1]))])


# ---- the other side of the pipe ----------------------------------------------------------------------------------------------


def clean_env(more=()):
    return {k: v for k, v in os.environ.items() if k not in NOT_OURS} | dict(more)


class Process:
    """An engine that waits for lines."""

    def __init__(self, words, env):
        self.process = subprocess.Popen([str(w) for w in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(map(str, self.process.args))}: ended")
        return json.loads(line)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Peer(Process):
    def __init__(self, name, folder, threads):
        super().__init__([sys.executable, HERE, "--worker", name, folder, threads], clean_env(QUIET))
        self.name, self.folder = name, folder

    def start(self, towers_wanted):
        import numpy as np
        self.version = self.hear()["version"]
        path = self.folder / f"out.{self.name}.npz"
        self.ask(f"outputs {path} {' '.join(towers_wanted)}")
        return dict(np.load(path))


class Ocelli(Process):
    def __init__(self, a, name, folder, threads):
        self.path = folder / f"out.{name}.safetensors"
        dtype = name.partition("-")[2]
        self.path.unlink(missing_ok=True)
        super().__init__([a.engine, "bench", "model", "--model", folder, "--in", folder / "in.safetensors", "--out", self.path, "--stdin",
                          "--threads", threads, "--batch", TEXT_BATCHES[-1], *(["--dtype", dtype] if dtype else [])], clean_env())
        self.name = name

    def start(self, towers_wanted):
        from safetensors.numpy import load_file
        self.ask("image 1 1")
        out = load_file(self.path)
        return {"image": out["image_embeds"], "text": out["text_embeds"]}


# ---- clip-image, clip-text ----------------------------------------------------------------------------------------------------


def difference(ours, theirs):
    import numpy as np
    return float((np.abs(ours - theirs).max(axis=1) / np.linalg.norm(theirs, axis=1)).max())


def centred_cosine(ours, theirs):
    """Of rows after their mean is taken off: what is left of the order of similarities."""
    import numpy as np
    a, b = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    return float(((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())


def agree(results, section, engines, tower):
    """Outputs against Ocelli's fp32 (or, where that is not there, the first engine's)."""
    truth = next(e.outputs[tower] for e in engines)
    for e in engines:
        rows = min(len(truth), len(e.outputs[tower]))
        gap, cosine = difference(e.outputs[tower][:rows], truth[:rows]), centred_cosine(e.outputs[tower][:rows], truth[:rows])
        results.setdefault("differences", {}).setdefault(section, {})[e.name] = {"max": gap, "cosine": cosine}
        if "int8" not in e.name and gap > 1e-4:
            sys.exit(f"{section}: {e.name} differs from {engines[0].name} by {gap:.1e} of the norm: nothing is timed")
        print(f"{section:24} {e.name:14} differs by {gap:.1e} of the norm, centred cosine {cosine:.6f}", flush=True)


def passes_for(ms):
    """Enough for 0.4 s; where passes are short one more, which warms up and is not counted."""
    return (1, 0) if ms > 700 else (max(2, int(400 / ms) + 1), 1)


def used():
    """Ticks of all CPUs that somebody used, or that a hypervisor took, and ticks in all."""
    n = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(n) - n[3] - n[4], sum(n)


def used_by(pid):
    return sum(int(x) for x in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])


class Watch:
    """Who else worked meanwhile: the share of all CPUs that was used by no engine of ours."""

    def __init__(self, *pids):
        self.pids = pids
        self.start = used(), sum(map(used_by, pids))

    def others(self):
        (busy, ticks), own = used(), sum(map(used_by, self.pids))
        return (busy - self.start[0][0] - own + self.start[1]) / max(1, ticks - self.start[0][1])


def settle(limit=20):
    """Waits until nobody works: whoever spun a while after its work sleeps now, and other programs are done."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        watch = Watch()
        time.sleep(0.2)
        if watch.others() <= 0.1:
            return
    sys.exit("other programs keep this machine busy: what was measured so far is kept, try again")


def alone(engine, line):
    """The engine's answer to a line, from a time when it had the machine for itself."""
    for _ in range(5):
        settle()
        watch = Watch(engine.process.pid)
        got = engine.ask(line)
        if watch.others() <= 0.08:
            return got
    sys.exit("other programs disturb every measurement: what was measured so far is kept, try again")


def one_round(results, section, engines, tower, rows, turn):
    key = f"{section}/n{rows}"
    for e in engines[turn % len(engines):] + engines[:turn % len(engines)]:
        known = results["times"].get(key, {}).get(e.name)
        n, drop = passes_for(median(known) if known else e.ask(f"{tower} {rows} 1")["ms"][0])
        ms = alone(e, f"{tower} {rows} {n}")["ms"][drop:]
        results["times"].setdefault(key, {}).setdefault(e.name, []).append(median(ms))


def clip_section(a, results, section, tower, size, batches, names):
    folder = make_model(size, a.work)
    engines = [Ocelli(a, n, folder, a.threads) if n.startswith("ocelli") else Peer(n, folder, a.threads) for n in names]
    for e in engines:
        e.outputs = e.start([tower])
        results["versions"][e.name] = getattr(e, "version", results["ocelli"])
    agree(results, section, engines, tower)
    for turn in range(a.rounds):
        for rows in batches:
            one_round(results, section, engines, tower, rows, turn)
        if a.over():
            break
    for e in engines:
        e.close()


# ---- results ---------------------------------------------------------------------------------------------------------------------

FP32, INT8 = ["ocelli", "torch", "ort", "openvino"], ["ocelli", "ocelli-int8", "ort-int8"]
SECTIONS = {
    "clip-image/b32": lambda a, r, s: clip_section(a, r, s, "image", "b32", a.batches or (1, 8, 32), FP32),
    "clip-image/l14": lambda a, r, s: clip_section(a, r, s, "image", "l14", a.batches or (1, 8), FP32),
    "clip-text/b32": lambda a, r, s: clip_section(a, r, s, "text", "b32", a.batches or TEXT_BATCHES, FP32),
    "clip-image-int8/b32": lambda a, r, s: clip_section(a, r, s, "image", "b32", a.batches or (1, 8, 32), INT8),
    "clip-image-int8/l14": lambda a, r, s: clip_section(a, r, s, "image", "l14", a.batches or (1, 8), INT8),
}


def cpu_name():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor() or platform.machine())


def read_results(a):
    """What is there already, if it is of the same machine and the same Ocelli."""
    version = a.version or subprocess.run(["git", "-C", HERE.parent, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    now = {"cpu": cpu_name(), "threads": a.threads, "ocelli": version}
    path = a.work / "results.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    if {k: old.get(k) for k in now} == now:
        return old
    if path.exists():
        path.rename(a.work / f"results.{old.get('ocelli', 'old')}.json")
    return {**now, "times": {}, "differences": {}, "versions": {}}


def table(results):
    lines = ["| work | " + " | ".join(["Ocelli", "peers", "ratio to the fastest"]) + " |", "|---|---|---|---|"]
    for key, by_engine in sorted(results["times"].items()):
        mid = {name: median(ms) for name, ms in by_engine.items()}
        ours = mid.get("ocelli-int8", mid.get("ocelli"))
        peers = {k: v for k, v in mid.items() if not k.startswith("ocelli")}
        shown = ", ".join(f"{k} {v:.4g}" for k, v in sorted(peers.items(), key=lambda kv: kv[1]))
        lines.append(f"| {key} | {ours:.4g} ms | {shown} | {min(peers.values()) / ours:.2f}x |" if peers else f"| {key} | {ours:.4g} ms | | |")
    return "\n".join(lines)


def report(results):
    rounds = [len(ms) for by in results["times"].values() for ms in by.values()]
    versions = "; ".join(sorted({v for k, v in results["versions"].items() if not k.startswith("ocelli")}))
    return (f"# {results['cpu']}, {results['threads']} threads\n\nOcelli {results['ocelli']}; {versions}. Milliseconds, medians of {min(rounds)} to {max(rounds)} "
            f"interleaved rounds; written by bench/peers.py.\n\n{table(results)}\n")


# ---- start -------------------------------------------------------------------------------------------------------------------------


def enter_venv(a):
    """Goes on in the environment's own Python."""
    python = a.venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", a.venv], check=True)
    if subprocess.run([python, "-c", "import torch, transformers, onnxruntime, onnx, openvino"], capture_output=True).returncode:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    os.execve(python, [str(python), str(HERE), *sys.argv[1:], "--inside"], clean_env(QUIET))


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--engine", type=Path, default=Path("build/ocelli"))
    p.add_argument("--venv", type=Path, required=True)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--only", action="append", choices=SECTIONS, help="sections (all)")
    p.add_argument("--batches", type=lambda s: [int(x) for x in s.split(",")])
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--budget", type=float, default=1e9, help="stop after so many seconds; the next call goes on")
    p.add_argument("--prepare", action="store_true", help="only make environment and models")
    p.add_argument("--version", help="what Ocelli is called in the table (the commit of this tree)")
    p.add_argument("--table", type=Path)
    p.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return p.parse_args()


def main():
    if sys.argv[1:2] == ["--worker"]:
        return worker(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    start, a = time.monotonic(), arguments()
    if not a.inside:
        enter_venv(a)
    a.over = lambda: time.monotonic() - start > a.budget
    a.work.mkdir(parents=True, exist_ok=True)
    if a.prepare:
        for size in SIZES:
            make_model(size, a.work)
        return
    results = read_results(a)
    settle(40)
    try:
        for section in a.only or SECTIONS:
            if not a.over():
                SECTIONS[section](a, results, section)
    finally:
        (a.work / "results.json").write_text(json.dumps(results, indent=1))
    print(report(results))
    if a.table:
        a.table.write_text(report(results))


if __name__ == "__main__":
    main()
