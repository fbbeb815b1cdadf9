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
PATIENCE = 90  # seconds to wait for other programs
HERTZ = os.sysconf("SC_CLK_TCK")
SIZES = {"b32": {"vision": (768, 3072, 12, 12, 32), "text": (512, 2048, 12, 8), "projection": 512, "batches": (1, 8, 32), "rows": 32},
         "l14": {"vision": (1024, 4096, 24, 16, 14), "text": (768, 3072, 12, 12), "projection": 768, "batches": (1, 8), "rows": 8}}

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


def filled_up(rng, ids, most, end):
    """Texts of 6 to `most` ids in place of ids' rows, filled up with the end token."""
    import numpy as np
    rows = len(ids)
    own = rng.permutation(np.arange(rows) * (most - 5) // rows + 5)
    return np.where(np.arange(ids.shape[1]) < own[:, None], ids, end)


def inputs(size):
    """Rows of pixels; texts of 77 tokens; and captions of 6 to 24, filled up to 77 with the end token, as CLIP's own tokenizer does."""
    import numpy as np
    rng, rows = np.random.default_rng(1), SIZES[size]["rows"]
    ids = rng.integers(0, EOS - 1, (32, 77))
    ids[:, -1] = EOS
    captions = filled_up(rng, ids, 24, EOS)
    return {"image": rng.standard_normal((rows, 3, 224, 224), dtype=np.float32), "text": ids, "caption": captions}


def write_inputs(size, folder):
    """in.npz for the peers, a safetensors of each kind for Ocelli."""
    import numpy as np
    from safetensors.numpy import save_file
    x = inputs(size)
    np.savez(folder / "in.npz", **x)
    for kind, rows in x.items():
        save_file({"pixel_values" if kind == "image" else "input_ids": rows}, folder / f"in.{kind}.safetensors")


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
    """work/SIZE: the Hugging Face folder, the inputs, image.onnx, text.onnx, and both quantised."""
    folder = work / size
    if not (folder / "in.caption.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_inputs(size, folder)
    if (folder / "ready").exists():
        return folder
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    model, x = clip(size), inputs(size)
    model.save_pretrained(folder)
    for name, module in towers(model).items():
        export(module, torch.from_numpy(x[name][:2]), folder / f"{name}.onnx")
        quantize_dynamic(folder / f"{name}.onnx", folder / f"{name}.int8.onnx", weight_type=QuantType.QInt8, per_channel=True,
                         op_types_to_quantize=["MatMul", "Gemm"])
    (folder / "ready").touch()
    return folder


# ---- small CLIPs, to train ---------------------------------------------------------------------------------------------------

# Width, depth, heads, side, patch; width, depth, heads, tokens, vocabulary; projection. `starter` is the shape of the model that ships.
TRAINED = {"starter": ((192, 6, 3, 48, 8), (128, 3, 2, 32, 4096), 128), "small": ((256, 6, 4, 64, 8), (256, 4, 4, 32, 8192), 256)}
PAIRS = 128


def trained_clip(size):
    from transformers import CLIPConfig, CLIPModel
    vision, text, projection = TRAINED[size]
    shape = lambda width, depth, heads: {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": depth,
                                         "num_attention_heads": heads, "hidden_act": "gelu"}
    v = {**shape(*vision[:3]), "image_size": vision[3], "patch_size": vision[4]}
    t = {**shape(*text[:3]), "max_position_embeddings": text[3], "vocab_size": text[4], "bos_token_id": text[4] - 2, "eos_token_id": text[4] - 1}
    return CLIPModel(CLIPConfig(vision_config=v, text_config=t, projection_dim=projection))


def make_trained(size, work, captions):
    """work/train-SIZE: a model folder with random weights, and a batch of pairs; or of captions of 6 to 24 tokens, filled up to the longest."""
    folder = work / f"train-{'caption-' if captions else ''}{size}"
    if (folder / "in.safetensors").exists():
        return folder
    import numpy as np
    import torch
    from safetensors.numpy import save_file
    torch.manual_seed(0)
    trained_clip(size).save_pretrained(folder)
    rng, (vision, text, _) = np.random.default_rng(2), TRAINED[size]
    ids = rng.integers(0, text[4] - 2, (PAIRS, text[3]))
    ids[:, -1] = text[4] - 1
    if captions:
        ids = np.ascontiguousarray(filled_up(rng, ids, 24, text[4] - 1)[:, :24])
    pixels = rng.standard_normal((PAIRS, 3, vision[3], vision[3]), dtype=np.float32)
    save_file({"pixel_values": pixels, "input_ids": ids}, folder / "in.safetensors")
    return folder


# ---- peers: each a process of this script ----------------------------------------------------------------------------------


def tower_of(kind):
    return "image" if kind == "image" else "text"


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
        module, t = self.towers[tower_of(what)], self.tensor(x)
        return lambda: module(t).numpy()


class TorchCut(Torch):
    """Texts as transformers' own padding to the longest gives them: no longer than the longest of the batch."""

    def prepare(self, what, x):
        return super().prepare(what, x[:, :int((x != EOS).sum(axis=1).max()) + 1].copy() if tower_of(what) == "text" else x)


class OnnxRuntime:
    def __init__(self, folder, threads, mode):
        import onnxruntime
        self.runtime, self.folder, self.suffix, self.sessions = onnxruntime, folder, {"fp32": "", "int8": ".int8"}[mode], {}
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.log_severity_level = 3
        self.version = f"ONNX Runtime {onnxruntime.__version__}"

    def prepare(self, what, x):
        what = tower_of(what)
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
        what = tower_of(what)
        if what not in self.requests:
            self.requests[what] = self.core.compile_model(str(self.folder / f"{what}.onnx"), "CPU", self.settings).create_infer_request()
        return lambda: self.requests[what].infer({0: x})[0]


class TorchTrain:
    """A step as PyTorch's examples write it; AdamW without weight decay, its fused form."""

    def __init__(self, folder, threads, mode):
        import torch
        import transformers
        from safetensors.torch import load_file
        torch.set_num_threads(threads)
        self.model = transformers.CLIPModel.from_pretrained(folder).train()
        self.x, self.torch = load_file(folder / "in.safetensors"), torch
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0, fused=True)
        self.loss = torch.compile(self.loss_of) if mode == "compile" else self.loss_of
        self.version = f"torch {torch.__version__}, transformers {transformers.__version__}"

    def loss_of(self, pixels, ids):
        m, f = self.model, self.torch.nn.functional
        image = f.normalize(m.visual_projection(m.vision_model(pixel_values=pixels).pooler_output), dim=-1)
        text = f.normalize(m.text_projection(m.text_model(input_ids=ids).pooler_output), dim=-1)
        logits, target = m.logit_scale.exp() * text @ image.t(), self.torch.arange(len(ids))
        return (f.cross_entropy(logits, target) + f.cross_entropy(logits.t(), target)) / 2

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.x["pixel_values"], self.x["input_ids"])
        loss.backward()
        self.optimizer.step()
        return loss.item()


PEERS = {"torch-train": (TorchTrain, "eager"), "torch.compile-train": (TorchTrain, "compile"),
         "torch": (Torch, "fp32"), "torch-cut": (TorchCut, "fp32"),
         "ort": (OnnxRuntime, "fp32"), "openvino": (OpenVino, "fp32"), "ort-int8": (OnnxRuntime, "int8")}


def answer(**fields):
    print(json.dumps(fields), flush=True)


def timed(run):
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def worker(name, folder, threads):
    """Lines in, lines out: `KIND ROWS PASSES` gives milliseconds; `outputs FILE KIND` writes what comes out of all rows of this kind."""
    import numpy as np
    kind, mode = PEERS[name]
    if kind is TorchTrain:
        return train_worker(kind(folder, threads, mode))
    engine, x = kind(folder, threads, mode), dict(np.load(folder / "in.npz"))
    answer(version=engine.version)
    for line in sys.stdin:
        what, *rest = line.split()
        if what == "outputs":
            np.savez(rest[0], version=engine.version, y=np.array(engine.prepare(rest[1], x[rest[1]])()))
            answer(done=True)
        else:
            run = engine.prepare(what, x[what][:int(rest[0])])
            answer(ms=[timed(run) for _ in range(int(rest[1]))])


def train_worker(engine):
    """A line `train STEPS` gives milliseconds and loss of each."""
    answer(version=engine.version)
    for line in sys.stdin:
        loss = []
        answer(ms=[timed(lambda: loss.append(engine.step())) for _ in range(int(line.split()[1]))], loss=loss)


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
    def __init__(self, a, name, folder, kind):
        super().__init__([sys.executable, HERE, "--worker", name, folder, a.threads], clean_env(QUIET))
        self.name, self.kind, self.path = name, kind, folder / f"out.{name}.{kind}.npz"

    def start(self):
        """All rows of the kind; those that an earlier call wrote, if they are of the same version."""
        import numpy as np
        self.version = self.hear()["version"]
        if not self.path.exists() or str(np.load(self.path)["version"]) != self.version:
            self.ask(f"outputs {self.path} {self.kind}")
        return np.load(self.path)["y"]

    def line(self, rows, passes):
        return f"{self.kind} {rows} {passes}"


class Ocelli(Process):
    """ocelli, or ocelli-DTYPE, or ocelli-whole, which computes what nobody reads as well."""

    def __init__(self, a, name, folder, kind):
        self.path = folder / f"out.{name}.{kind}.safetensors"
        self.name, self.kind, form = name, kind, name.partition("-")[2]
        self.path.unlink(missing_ok=True)
        more = ["--whole"] if form == "whole" else ["--dtype", form] if form else []
        super().__init__([a.engine, "bench", "model", "--model", folder, "--in", folder / f"in.{kind}.safetensors", "--out", self.path, "--stdin",
                          "--threads", a.threads, "--batch", 32, *more], clean_env())

    def start(self):
        from safetensors.numpy import load_file
        self.ask(self.line(1, 1))
        return load_file(self.path)[f"{tower_of(self.kind)}_embeds"]

    def line(self, rows, passes):
        return f"{tower_of(self.kind)} {rows} {passes}"


# ---- clip-image, clip-text ----------------------------------------------------------------------------------------------------


def difference(ours, theirs):
    import numpy as np
    return float((np.abs(ours - theirs).max(axis=1) / np.linalg.norm(theirs, axis=1)).max())


def centred_cosine(ours, theirs):
    """Of rows after their mean is taken off: what is left of the order of similarities."""
    import numpy as np
    a, b = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    return float(((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())


def agree(results, section, engines):
    """Outputs against those of the first, Ocelli's fp32."""
    for e in engines:
        gap, cosine = difference(e.outputs, engines[0].outputs), centred_cosine(e.outputs, engines[0].outputs)
        results.setdefault("differences", {}).setdefault(section, {})[e.name] = {"max": gap, "cosine": cosine}
        if "int8" not in e.name and gap > 1e-4:
            sys.exit(f"{section}: {e.name} differs from {engines[0].name} by {gap:.1e} of the norm: nothing is timed")
        print(f"{section:24} {e.name:14} differs by {gap:.1e} of the norm, centred cosine {cosine:.6f}", flush=True)


def passes_for(ms):
    """Enough for 0.4 s; where passes are short one more, which warms up and is not counted."""
    return (1, 0) if ms > 700 else (max(2, int(400 / ms) + 1), 1)


def used():
    """Ticks of all CPUs: that programs here used, that a hypervisor took for others, and in all."""
    n = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(n) - n[3] - n[4] - n[7], n[7], sum(n)


def used_by(pid):
    return sum(int(x) for x in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])


class Watch:
    """Who else worked meanwhile, as shares of all CPUs: programs that are no engine of ours (nor this script, nor its children that have ended), and
    the hypervisor, which nobody here can keep from it."""

    def __init__(self, *pids):
        self.pids = pids
        self.start = self.now()

    def now(self):
        return (*used(), sum(map(used_by, self.pids)) + sum(os.times()[:4]) * HERTZ)

    def shares(self):
        busy, stolen, ticks, own = (b - a for a, b in zip(self.start, self.now()))
        return max(0, busy - own) / max(1, ticks), stolen / max(1, ticks)


def settle():
    """Waits until nobody works: whoever spun a while after its work sleeps now, and other programs are done."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        watch = Watch()
        time.sleep(0.2)
        if watch.shares()[0] <= 0.1:
            return
    sys.exit("other programs keep this machine busy: what was measured so far is kept, try again")


def alone(work, *pids):
    """What work() gives, from a time when it had the machine for itself, and the share that was stolen all the same."""
    for _ in range(5):
        settle()
        watch = Watch(*pids)
        got = work()
        others, stolen = watch.shares()
        if others <= 0.08:
            return got, stolen
    sys.exit("other programs disturb every measurement: what was measured so far is kept, try again")


def keep(results, key, name, ms, stolen):
    results["times"].setdefault(key, {}).setdefault(name, []).append(ms)
    results["stolen"].setdefault(key, []).append(stolen)


def known(results, key, name):
    return results["times"].get(key, {}).get(name, [])


def in_turn(a, results, key, names, turn):
    """Those of the names that have not had this turn, a different one first each time; nobody after the budget. What came before is saved."""
    for name in names[turn % len(names):] + names[:turn % len(names)]:
        if not a.over() and len(known(results, key, name)) <= turn:
            yield name
            save(a, results)


def one_round(a, results, key, engines, rows, turn):
    for name in in_turn(a, results, key, list(engines), turn):
        e, before = engines[name], known(results, key, name)
        n, drop = passes_for(median(before) if before else e.ask(e.line(rows, 1))["ms"][0])
        got, stolen = alone(lambda: e.ask(e.line(rows, n)), e.process.pid)
        keep(results, key, name, median(got["ms"][drop:]), stolen)


def clip_section(a, results, section, kind, size, batches, names):
    folder = make_model(size, a.work)
    results["engines"][section] = names
    engines = [(Ocelli if n.startswith("ocelli") else Peer)(a, n, folder, kind) for n in names]
    for e in engines:
        e.outputs = e.start()
        results["versions"][e.name] = getattr(e, "version", results["ocelli"])
    agree(results, section, engines)
    for turn in range(a.rounds):
        for rows in batches:
            one_round(a, results, f"{section}/n{rows}", {e.name: e for e in engines}, rows, turn)
    for e in engines:
        e.close()


# ---- train-step ---------------------------------------------------------------------------------------------------------------


class OcelliTrain(Process):
    def __init__(self, a, folder):
        super().__init__([a.engine, "bench", "train", "--model", folder, "--in", folder / "in.safetensors", "--stdin", "--threads", a.threads], clean_env())
        self.name = "ocelli"


class PeerTrain(Process):
    def __init__(self, a, name, folder):
        super().__init__([sys.executable, HERE, "--worker", f"{name}-train", folder, a.threads], clean_env(QUIET))
        self.name = name


def train_section(a, results, section, size, captions=False):
    """The first three losses of every engine, and then one step at a time in turn."""
    folder = make_trained(size, a.work, captions)
    engines = [OcelliTrain(a, folder), PeerTrain(a, "torch", folder), PeerTrain(a, "torch.compile", folder)]
    for e in engines:
        results["versions"][e.name] = e.hear()["version"] if e.name != "ocelli" else results["ocelli"]
        e.first = e.ask("train 3")["loss"]
        gap = max(abs(x - y) for x, y in zip(e.first, engines[0].first))
        print(f"{section:24} {e.name:14} losses differ by {gap:.1e}: {e.first}", flush=True)
        results["differences"].setdefault(section, {})[e.name] = {"loss": gap}
        if gap > 1e-4:
            sys.exit(f"{section}: {e.name} learns something else: nothing is timed")
    by_name = {e.name: e for e in engines}
    results["engines"][section] = list(by_name)
    for turn in range(a.rounds):
        for name in in_turn(a, results, section, list(by_name), turn):
            e = by_name[name]
            got, stolen = alone(lambda: e.ask("train 3"), e.process.pid)
            keep(results, section, name, median(got["ms"]), stolen)
    for e in engines:
        e.close()


# ---- cold-start ---------------------------------------------------------------------------------------------------------------

# The peers' shortest programs: pixels as CLIP's processor makes them, one session, one row.
PIXELS = """
import numpy as np
from PIL import Image
im = Image.open($PICTURE).convert("RGB")
w, h = im.size
w, h = (int(224 * w / h), 224) if h <= w else (224, int(224 * h / w))
im = im.resize((w, h), Image.BICUBIC).crop(((w - 224) // 2, (h - 224) // 2, (w - 224) // 2 + 224, (h - 224) // 2 + 224))
x = np.asarray(im, dtype=np.float32) / 255
x = ((x - np.array([0.48145466, 0.4578275, 0.40821073], "f")) / np.array([0.26862954, 0.26130258, 0.27577711], "f")).transpose(2, 0, 1)[None].copy()
"""
COLD = {
    "torch": """
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel
torch.set_num_threads($THREADS)
m = CLIPModel.from_pretrained($MODEL).eval()
with torch.no_grad():
    x = CLIPImageProcessor.from_pretrained($MODEL)(images=Image.open($PICTURE), return_tensors="pt")["pixel_values"]
    y = m.visual_projection(m.vision_model(pixel_values=x).pooler_output)[0].numpy()
""",
    "ort": PIXELS + """
import onnxruntime as o
s = o.SessionOptions()
s.intra_op_num_threads, s.log_severity_level = $THREADS, 3
y = o.InferenceSession($MODEL + "/image.onnx", s, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0][0]
""",
    "openvino": PIXELS + """
import openvino as ov
y = ov.Core().compile_model($MODEL + "/image.onnx", "CPU", {"INFERENCE_NUM_THREADS": $THREADS, "INFERENCE_PRECISION_HINT": "f32"})(x)[0][0]
""",
    "openvino-cache": PIXELS + """
import openvino as ov
settings = {"INFERENCE_NUM_THREADS": $THREADS, "INFERENCE_PRECISION_HINT": "f32", "CACHE_DIR": $MODEL + "/openvino-cache"}
y = ov.Core().compile_model($MODEL + "/image.onnx", "CPU", settings)(x)[0][0]
""",
}


def make_cold(folder):
    """A picture of one megapixel, and what else a folder of CLIP holds: a vocabulary of its size, the processor's settings."""
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(3)
    smooth = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).resize((1152, 864), Image.BICUBIC)
    noisy = np.asarray(smooth).astype(int) + rng.integers(-8, 9, (864, 1152, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "picture.jpg", quality=90)
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    merges = [(x, y) for x in letters for y in letters][:EOS - 1 - 512]
    words = [*letters, *(x + "</w>" for x in letters), *(x + y for x, y in merges), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{x} {y}\n" for x, y in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": words[-1],
                                                              "bos_token": words[-2], "eos_token": words[-1], "unk_token": words[-1]}))
    (folder / "preprocessor_config.json").write_text(json.dumps(
        {"image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True,
         "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True,
         "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}))


def cold_words(a, name, folder):
    if name == "ocelli":
        return [a.engine, "embed", "--model", folder, "--threads", a.threads, folder / "picture.jpg"], clean_env()
    code = COLD[name].replace("$MODEL", repr(str(folder))).replace("$PICTURE", repr(str(folder / "picture.jpg"))).replace("$THREADS", str(a.threads))
    return [sys.executable, "-c", code + "\nprint('x\\t' + ' '.join(map(str, y.tolist())), flush=True)"], clean_env({"HF_HUB_OFFLINE": "1"})


def from_start(words, env):
    """Milliseconds until the first line is there and until the process has ended, its row, and its largest memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen([str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    line = process.stdout.readline()
    first = time.perf_counter() - start
    process.stdout.read()
    _, status, use = os.wait4(process.pid, 0)
    end = time.perf_counter() - start
    process.returncode = status
    if status or not line:
        sys.exit(f"{' '.join(map(str, words))[:200]}: failed")
    return first * 1e3, end * 1e3, [float(v) for v in line.split("\t")[1].split()], use.ru_maxrss / 1024


def cold_section(a, results, section, size):
    import numpy as np
    folder, names = make_model(size, a.work), ["ocelli", *COLD]
    results["engines"][section] = names
    if not (folder / "picture.jpg").exists():
        make_cold(folder)
    truth = None
    for name in names if section not in results["differences"] else []:  # also warms the page cache
        _, _, row, _ = from_start(*cold_words(a, name, folder))
        truth = truth or row
        gap = difference(np.array([truth]), np.array([row]))
        print(f"{section:24} {name:14} differs by {gap:.1e} of the norm", flush=True)
        if gap > 1e-3:
            sys.exit(f"{section}: {name} embeds something else: nothing is timed")
        results["differences"].setdefault(section, {})[name] = {"max": gap}
    for turn in range(a.rounds):
        for name in in_turn(a, results, section, names, turn):
            (first, end, _, memory), stolen = alone(lambda: from_start(*cold_words(a, name, folder)))
            keep(results, section, name, first, stolen)
            keep(results, f"{section} to the end", name, end, stolen)
            results["memory"].setdefault(section, {})[name] = memory


# ---- gemm ---------------------------------------------------------------------------------------------------------------------

LAYERS = ((768, 768), (768, 2304), (768, 3072), (3072, 768))  # K x N of ViT-B/32


def products():
    """(name, M, N, K, is A turned, is B turned): y = x W^T of m rows, dX = dY W, dW = dY^T X."""
    for k, n in LAYERS:
        for m in (50, 400, 1600):
            yield f"M {m} K {k} N {n}", m, n, k, False, True
        for m in (400, 1600):
            yield f"M {m} K {n} N {k} dX", m, k, n, False, False
            yield f"M {n} K {m} N {k} dW", n, k, m, True, False


def gemm_worker(name, threads):
    """One round: the milliseconds of every product, each the median of a tenth of a second."""
    import numpy as np
    rng, times = np.random.default_rng(0), {}
    if name == "torch":
        import torch
        torch.set_num_threads(threads)
    for what, m, n, k, ta, tb in products():
        a, b, c = (rng.random(shape, dtype=np.float32) for shape in ((k, m) if ta else (m, k), (n, k) if tb else (k, n), (m, n)))
        if name == "torch":
            a, b, c = map(torch.from_numpy, (a, b, c))
        a, b = a.T if ta else a, b.T if tb else b
        multiply = (lambda: torch.mm(a, b, out=c)) if name == "torch" else (lambda: np.matmul(a, b, out=c))
        ms, start = [timed(multiply)][:0], time.monotonic()
        while len(ms) < 3 or time.monotonic() - start < 0.1:
            ms.append(timed(multiply))
        times[what] = median(ms)
    answer(version=f"torch {torch.__version__}" if name == "torch" else f"NumPy {np.__version__}", times=times)


def gemm_round(a, name, threads):
    if name != "ocelli":
        env = clean_env({**QUIET, "OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)})
        return json.loads(subprocess.run([sys.executable, HERE, "--gemm", name, str(threads)], capture_output=True, text=True, check=True, env=env).stdout)
    words = [a.engine, "bench", "kernels", "gemm", "backward", "--threads", threads, "--seconds", 0.1, "--json"]
    lines = [json.loads(x) for x in subprocess.run([str(w) for w in words], capture_output=True, text=True, check=True, env=clean_env()).stdout.splitlines()]
    rows = [(x["what"].replace(" packed fp32", ""), x) for x in lines if x["kernel"] == "gemm" and not x["what"].endswith("as it lies")]
    return {"times": {what: x["ms"] for what, x in rows}, "shares": {what: x["share"] for what, x in rows}}


def gemm_section(a, results, section, threads):
    names = results["engines"][section] = ["ocelli", "numpy", "torch"]
    for turn in range(a.rounds):
        for name in in_turn(a, results, f"{section} M 50 K 768 N 768", names, turn):
            got, stolen = alone(lambda: gemm_round(a, name, threads))
            if "version" in got:
                results["versions"][f"gemm-{name}"] = got["version"]
            for what, ms in got["times"].items():
                keep(results, f"{section} {what}", name, ms, stolen)
            for what, share in got.get("shares", {}).items():
                results["shares"].setdefault(f"{section} {what}", []).append(share)


# ---- results ---------------------------------------------------------------------------------------------------------------------

FP32, INT8 = ["ocelli", "torch", "ort", "openvino"], ["ocelli", "ocelli-int8", "ort-int8"]
WHOLE = ["ocelli", "ocelli-whole", *FP32[1:]]


def clip_of(kind, size, batches, names):
    return lambda a, results, section: clip_section(a, results, section, kind, size, a.batches or batches, names)


SECTIONS = {
    "clip-image/b32": clip_of("image", "b32", (1, 8, 32), FP32),
    "clip-image/l14": clip_of("image", "l14", (1, 8), FP32),
    "clip-text/b32": clip_of("text", "b32", (1, 32), WHOLE),
    "clip-caption/b32": clip_of("caption", "b32", (1, 32), [*WHOLE, "torch-cut"]),
    "clip-image-int8/b32": clip_of("image", "b32", (1, 8, 32), INT8),
    "clip-image-int8/l14": clip_of("image", "l14", (1, 8), INT8),
    "train-step/starter": lambda a, r, s: train_section(a, r, s, "starter"),
    "train-step/small": lambda a, r, s: train_section(a, r, s, "small"),
    "train-caption/starter": lambda a, r, s: train_section(a, r, s, "starter", captions=True),
    "train-caption/small": lambda a, r, s: train_section(a, r, s, "small", captions=True),
    "cold-start/b32": lambda a, r, s: cold_section(a, r, s, "b32"),
    "gemm/t1": lambda a, r, s: gemm_section(a, r, s, 1),
    "gemm/t2": lambda a, r, s: gemm_section(a, r, s, 2),
}
# The least ratio to the fastest peer that is aimed at.
FLOORS = {"clip-image/b32/n1": 1.05, "clip-image/b32/n8": 1.1, "clip-image/b32/n32": 1.15, "clip-image/l14/n1": 1.0, "clip-image/l14/n8": 1.05,
          "clip-image-int8/b32": 1.1, "clip-image-int8/l14": 1.0, "clip-text/b32": 1.25, "train-step": 1.25, "cold-start": 5}


def cpu_name():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor() or platform.machine())


def read_results(a):
    """What is there already, if it is of the same machine and the same Ocelli."""
    version = a.version or subprocess.run(["git", "-C", HERE.parent, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    now = {"cpu": cpu_name(), "threads": a.threads, "ocelli": version}
    path = a.work / "results.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    empty = {"times": {}, "stolen": {}, "differences": {}, "versions": {}, "memory": {}, "shares": {}, "engines": {}}
    if {k: old.get(k) for k in now} == now:
        return {**empty, **old}
    if path.exists():
        path.rename(a.work / f"results.{old.get('ocelli', 'old')}.json")
    return {**now, **empty}


def save(a, results):
    (a.work / "results.json").write_text(json.dumps(results, indent=1))


def named(mid):
    return ", ".join(f"{k} {v:.4g}" for k, v in sorted(mid.items(), key=lambda kv: kv[1]))


def table(results):
    lines = ["| work | Ocelli | peers | ratio to the fastest | floor | rounds | stolen |", "|---|---|---|---|---|---|---|"]
    for key, by_engine in sorted(results["times"].items()):
        mid = {name: median(ms) for name, ms in by_engine.items()}
        best = "ocelli-int8" if "ocelli-int8" in mid else "ocelli"
        ours = {k: v for k, v in mid.items() if k.startswith("ocelli") and k != best}
        peers = {k: v for k, v in mid.items() if not k.startswith("ocelli")}
        if best not in mid or not peers:
            continue
        all_of_them = next((v for k, v in results["engines"].items() if key.startswith(k)), [])
        later = "".join(f", {k} not yet" for k in all_of_them if k not in mid)
        floor = next((f"{v:g}x" for k, v in FLOORS.items() if key.startswith(k)), "")
        lines.append(f"| {key} | {mid[best]:.4g} ms{f' ({named(ours)})' if ours else ''} | {named(peers)}{later} | {min(peers.values()) / mid[best]:.2f}x | {floor} | "
                     f"{min(map(len, by_engine.values()))} | {median(results['stolen'][key]):.0%} |")
    return "\n".join(lines)


def report(results):
    versions = "; ".join(sorted({v for k, v in results["versions"].items() if not k.startswith("ocelli")}))
    return (f"# {results['cpu']}, {results['threads']} threads\n\nOcelli {results['ocelli']}; {versions}. Milliseconds, medians of interleaved "
            f"rounds; stolen: the share of the CPUs that a hypervisor took meanwhile for others, median. Written by bench/peers.py.\n\n{table(results)}\n")


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
    if sys.argv[1:2] == ["--gemm"]:
        return gemm_worker(sys.argv[2], int(sys.argv[3]))
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
    try:
        for section in a.only or SECTIONS:
            if not a.over():
                SECTIONS[section](a, results, section)
    finally:
        save(a, results)
    print(report(results))
    if a.table:
        a.table.write_text(report(results))


if __name__ == "__main__":
    main()
