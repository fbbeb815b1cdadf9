"""What is broken, missing, full or forbidden gives one clear line and the right exit code, and leaves nothing half-written.

    faults.py PROGRAM      prints TAP"""
import ctypes
import json
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np

import tap
import tiny_data
from ocelli_run import CASES, Program, load, save

MODEL, ADAPTER = CASES / "clip" / "model", CASES / "lora_clip" / "adapter"
LORA_MODEL = CASES / "lora_clip" / "model"
IMAGES = CASES / "images"
program = Program(sys.argv[1])
tmp = Path(tempfile.mkdtemp(prefix="ocelli-faults-"))
os.chmod(tmp, 0o755)
number = 0


def fresh(name="x"):
    global number
    number += 1
    return tmp / f"{name}{number}"


def copy_of(folder=MODEL):
    return Path(shutil.copytree(folder, fresh("model")))


def embeds(model, *more):
    return ["embed", "--model", model, "--text", "a cat", *more]


# ---- weights ---------------------------------------------------------------------------------------------------------


def refused(change, *says, file="model.safetensors"):
    """A copy of the model, with its weights file changed as bytes."""
    model = copy_of()
    path = model / file
    path.write_bytes(change(path.read_bytes()))
    program.fails(*embeds(model), says=[file, *says])
    program.fails("info", model, says=[file, *says])


def header_of(raw):
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:8 + size]), raw[8 + size:]


def with_header(head, body):
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + body


def lying(edit):
    def change(raw):
        head, body = header_of(raw)
        name = next(k for k in head if "token_embedding" in k)
        edit(head[name])
        return with_header(head, body)
    return change


def changed_weights(edit, *says, command=embeds, code=1):
    model = copy_of()
    tensors = {k: v.copy() for k, v in load(model / "model.safetensors").items()}
    edit(tensors)
    save(tensors, model / "model.safetensors")
    program.fails(*command(model), says=says, code=code)


def weights():
    for cut in [0, 4, 8, 50, 2000]:
        tap.check(f"weights cut to {cut} bytes", refused, lambda raw, n=cut: raw[:n])
    tap.check("weights whose last byte is missing", refused, lambda raw: raw[:-1])
    tap.check("weights with a byte too many", refused, lambda raw: raw + b"x")
    tap.check("a header of 2^60 bytes", refused, lambda raw: struct.pack("<Q", 1 << 60) + raw[8:])
    tap.check("a header of 2^64 - 1 bytes", refused, lambda raw: b"\xff" * 8 + raw[8:])
    tap.check("a header that is not JSON", refused, lambda raw: raw[:8] + b"x" + raw[9:])
    tap.check("offsets beyond the file", refused, lying(lambda t: t.update(data_offsets=[t["data_offsets"][0], 1 << 50])))
    tap.check("offsets the wrong way round", refused, lying(lambda t: t.update(data_offsets=t["data_offsets"][::-1])))
    tap.check("negative offsets", refused, lying(lambda t: t.update(data_offsets=[-8, 8])))
    tap.check("a shape larger than its bytes", refused, lying(lambda t: t.update(shape=[1 << 40, 1 << 40])))
    tap.check("an unknown type of numbers", refused, lying(lambda t: t.update(dtype="F7")))
    tap.check("a missing tensor", changed_weights, lambda t: t.pop("visual_projection.weight"), "visual_projection.weight", "missing")
    tap.check("a tensor of another shape", changed_weights, lambda t: t.update({"visual_projection.weight": t["visual_projection.weight"].T[:, :3].copy()}),
              "visual_projection.weight", "[")
    tap.check("integers instead of weights", changed_weights, lambda t: t.update({"logit_scale": np.array(1, np.int64)}), "logit_scale")
    for bad in [np.nan, np.inf]:
        def poison(t, bad=bad):
            t["text_model.encoder.layers.0.mlp.fc1.weight"].reshape(-1)[7] = bad
        tap.check(f"a weight that is {bad}", changed_weights, poison, "text_model.encoder.layers.0.mlp.fc1.weight")
    tap.check("an absent folder", program.fails, *embeds(tmp / "nowhere"), )
    tap.check("a file instead of a folder", program.fails, *embeds(MODEL / "config.json"))
    tap.check("an empty folder", program.fails, *embeds(empty_folder()), )
    tap.check("an index whose shard is missing", missing_shard)


def empty_folder():
    path = fresh("empty")
    path.mkdir()
    return path


def missing_shard():
    model = copy_of()
    names = list(load(model / "model.safetensors"))
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {k: "model-00001-of-00001.safetensors" for k in names}}))
    program.fails(*embeds(model), says="model-00001-of-00001.safetensors")


# ---- the other files of a model -----------------------------------------------------------------------------------------


def changed_config(edit, *says, file="config.json"):
    model = copy_of()
    config = json.loads((model / file).read_text())
    edit(config)
    (model / file).write_text(json.dumps(config))
    program.fails(*embeds(model, IMAGES / "photo.jpg"), says=[file, *says])


def set_at(*path, to):
    def edit(config):
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = to
    return edit


def replaced_file(file, text, *says):
    program.fails(*embeds(with_file(file, text), IMAGES / "photo.jpg"), says=says)


def with_file(file, text):
    model = copy_of()
    if text is None:
        (model / file).unlink()
    else:
        (model / file).write_text(text)
    return model


def broken_tokenizer(text, *says):
    model = with_file("tokenizer.json", text)
    program.fails(*embeds(model), says=says)
    program.good("embed", "--model", model, IMAGES / "photo.jpg")  # pictures need none


def configs():
    for text in ["", "{", "[]", '{"model_type": "clip"', '{"a": NaN}', "\x00\x01"]:
        tap.check(f"config.json is {text!r}", replaced_file, "config.json", text, "config.json")
    tap.check("config.json is missing", replaced_file, "config.json", None, "config.json")
    tap.check("an unknown family", changed_config, lambda c: (c.update(model_type="zebra"), c.update(architectures=["ZebraModel"])))
    for key, bad in [("hidden_size", "wide"), ("hidden_size", -4), ("hidden_size", 1 << 40), ("num_attention_heads", 0), ("num_attention_heads", 7),
                     ("num_hidden_layers", 1.5), ("hidden_act", "wobble")]:
        tap.check(f"text_config.{key} is {bad!r}", changed_config, set_at("text_config", key, to=bad), key)
    tap.check("a patch larger than the picture", changed_config, set_at("vision_config", "patch_size", to=4096), "patch_size")
    tap.check("tokenizer.json is missing", broken_tokenizer, None, "tokenizer")
    tap.check("tokenizer.json is cut", broken_tokenizer, (MODEL / "tokenizer.json").read_text()[:500], "tokenizer.json")
    tap.check("preprocessor_config.json is no JSON", replaced_file, "preprocessor_config.json", "{]", "preprocessor_config.json")


# ---- pictures, adapters, inputs ----------------------------------------------------------------------------------------------


def broken_pictures():
    bad = {"empty.png": b"", "text.jpg": b"hello, I am a text\n" * 20, "cut.jpg": (IMAGES / "photo.jpg").read_bytes()[:300],
           "cut.png": (IMAGES / "photo.jpg").read_bytes()[:4], "iphone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100}
    folder = fresh("pictures")
    folder.mkdir()
    for name, raw in bad.items():
        (folder / name).write_bytes(raw)
    good = str(IMAGES / "square.png")
    for name in [*bad, "absent.png"]:
        got = program.run("embed", "--model", MODEL, "--json", folder / name, good)
        tap.ok(f"picture {name}: the other is still done, and it is named",
               got.returncode == 1 and [json.loads(x)["image"] for x in got.out.splitlines()] == [good] and len(got.err.splitlines()) == 1 and
               name in got.err, f"exit {got.returncode}: {got.err}")
    tap.check("a bomb is refused by the limit", program.fails, "preprocess", "--model", MODEL, "--max-pixels", 10, "--out", fresh(), good, says="square.png")
    tap.check("a HEIC file is named as one", lambda: program.fails("embed", "--model", MODEL, folder / "iphone.heic", says="HEI"))


def changed_adapter(edit, *says, config=None):
    folder = Path(shutil.copytree(ADAPTER, fresh("adapter")))
    tensors = {k: v.copy() for k, v in load(folder / "adapter_model.safetensors").items()}
    edit(tensors)
    save(tensors, folder / "adapter_model.safetensors")
    if config:
        settings = json.loads((folder / "adapter_config.json").read_text())
        settings.update(config)
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    program.fails("forward", "--model", LORA_MODEL, "--lora", folder, "--in", CASES / "lora_clip" / "in.safetensors", "--out", fresh(), says=says)


def adapters():
    def rename(t):
        key = next(iter(t))
        t[key.replace("layers.0", "layers.99").replace("layers.1", "layers.99")] = t.pop(key)

    def narrow(t):
        key = next(k for k in t if "lora_A" in k)
        t[key] = t[key][:, :-1].copy()
    tap.check("an adapter for a layer that is not there", changed_adapter, rename, "adapter_model.safetensors")
    tap.check("an adapter of another width", changed_adapter, narrow, "factors", "the model wants")
    tap.check("an adapter without one of its factors", changed_adapter, lambda t: t.pop(next(k for k in t if "lora_B" in k)), "one factor B")
    tap.check("an adapter of another kind", changed_adapter, lambda t: None, "adapter_config.json", config={"peft_type": "IA3"})
    tap.check("an absent adapter", program.fails, *embeds(LORA_MODEL, "--lora", tmp / "nowhere"), says="nowhere")
    tap.check("a scale that is no number", program.fails, *embeds(LORA_MODEL, "--lora", f"{ADAPTER}:loud"), says="loud")


def changed_inputs(edit, *says):
    tensors = {k: v.copy() for k, v in load(CASES / "clip" / "in.safetensors").items()}
    edit(tensors)
    path, out = fresh("in"), fresh("out")
    save(tensors, path)
    program.fails("forward", "--model", MODEL, "--in", path, "--out", out, "--grad", says=says)
    assert not out.exists(), "an output of a run that failed"


def inputs():
    tap.check("no inputs at all", changed_inputs, lambda t: t.clear(), "pixel_values")
    tap.check("a token that is not in the vocabulary", changed_inputs, lambda t: t["input_ids"].__setitem__((0, 1), 10 ** 6), "1000000")
    tap.check("a negative token", changed_inputs, lambda t: t["input_ids"].__setitem__((0, 1), -1), "-1")
    tap.check("pictures of another size", changed_inputs, lambda t: t.update(pixel_values=t["pixel_values"][..., :-1].copy()), "pixel_values")
    tap.check("a mask of another shape", changed_inputs, lambda t: t.update(attention_mask=t["attention_mask"][:, :-1].copy()), "attention_mask")
    tap.check("texts without pictures, and gradients wanted", changed_inputs, lambda t: t.pop("pixel_values"), "")
    tap.check("more texts than pictures", changed_inputs, lambda t: t.update(pixel_values=t["pixel_values"][:-1].copy()), "pairs")
    tap.check("integers that do not fit", changed_inputs, lambda t: t["input_ids"].__setitem__((0, 1), 1 << 40), "input_ids")


def usage():
    for args in [["nonsense"], ["embed", "--model"], ["embed", "--model", MODEL], ["info", "--nonsense"], ["forward", "--in", "x"], ["embed", "--threads", "0", "x"],
                 ["embed", "--batch", "many", "x"], ["train", "--data", data, "--out", "x"], ["info", "a", "b"], ["embed", "--dtype", "fp7", "x"],
                 ["preprocess", "--model", MODEL], ["merge", "--model", MODEL]]:
        tap.check("wrong usage: " + " ".join(str(a).rsplit("/", 1)[-1] for a in args), program.fails, *args, code=2)
    tap.check("an unknown tier", program.fails, *embeds(MODEL), env={"OCELLI_CPU": "abacus"}, says="abacus")
    tap.ok("no command explains itself, exit 2", program.run().returncode == 2)
    for command in ["info", "embed", "classify", "index", "search", "eval", "train", "finetune", "merge", "tokenize", "tokenizer", "preprocess", "forward"]:
        got = program.run(command, "--help")
        tap.ok(f"{command} --help has examples", got.returncode == 0 and "examples:" in got.out and f"ocelli {command}" in got.out, got.out + got.err)


# ---- places one cannot write or read -----------------------------------------------------------------------------------------------


def writers(out):
    """Every command that writes, with its output in the folder `out`; (arguments, words that the error says)."""
    return {
        "forward": ["forward", "--model", MODEL, "--in", CASES / "clip" / "in.safetensors", "--grad", "--out", out / "o.safetensors"],
        "preprocess": ["preprocess", "--model", MODEL, "--out", out / "o.safetensors", *[IMAGES / "photo.jpg"] * 20],
        "embed --npy": ["embed", "--model", MODEL, "--npy", out / "o.npy", "--text", *["a cat"] * 4000],
        "merge": ["merge", "--model", LORA_MODEL, "--lora", ADAPTER, "--out", out / "merged"],
        "tokenizer": ["tokenizer", "--size", 2000, "--out", out / "tokenizer", corpus()],
        "train": ["train", "--config", MODEL, "--data", data, "--out", out / "run", "--steps", 2, "--batch", 4, "--quiet", "--metrics", fresh("metrics")],
        "finetune": ["finetune", "--model", MODEL, "--data", data, "--out", out / "lora", "--steps", 2, "--batch", 4, "--quiet", "--rank", 64, "--metrics", fresh("metrics")],
    }


def corpus():
    path = tmp / "corpus.txt"
    if not path.exists():
        words = np.random.default_rng(1).integers(97, 123, (6000, 7), dtype=np.uint8)
        path.write_bytes(b"\n".join(w.tobytes() for w in words))
    return path


def left_in(folder):
    """What a failed command must not leave: its output, temporary files, a JSON file that is not whole."""
    outputs = {"o.safetensors", "o.npy", "model.safetensors", "adapter_model.safetensors", "checkpoint.safetensors", "tokenizer.json"}
    copied = {p.parent for p in folder.rglob("preprocessor_config.json")}  # beside it tokenizer.json is a copy of the model's
    bad = []
    for p in folder.rglob("*"):
        if p.is_file() and p.suffix == ".json":
            json.loads(p.read_text())
        if p.is_file() and (".tmp" in p.name or p.name in outputs) and not (p.name == "tokenizer.json" and p.parent in copied):
            bad.append(str(p.relative_to(folder)))
    return bad


def nothing_left(args, out, **how):
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(exist_ok=True)
    program.fails(*args, **how)
    assert not left_in(out), f"left behind: {left_in(out)}"


def limit_files():
    """A disk that is full after 20 kB, for the child alone."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))


def full_disk():
    out = tmp / "full"
    for name, args in writers(out).items():
        tap.check(f"{name}: a file grows no further", nothing_left, args, out, preexec_fn=limit_files)
    for name in ["embed", "tokenize", "info", "forward", "--help"]:
        args = {"embed": embeds(MODEL, "--json"), "tokenize": ["tokenize", "--model", MODEL], "info": ["info", MODEL],
                "forward": writers(empty_folder())["forward"], "--help": ["embed", "--help"]}[name]
        with open("/dev/full", "w") as full:
            tap.check(f"{name} > /dev/full", to_full, args, full)


def to_full(args, full):
    import subprocess
    got = subprocess.run([program.path, *map(str, args)], input=b"a\n" * 5000, stdout=full, stderr=subprocess.PIPE, timeout=300)
    lines = got.stderr.decode().splitlines()
    assert got.returncode == 1 and len(lines) == 1 and "standard output" in lines[0], f"exit {got.returncode}: {lines}"


def through_link(args, name):
    """What a symbolic link points to is written, whether it is there or not, and the link stays."""
    for there in [True, False]:
        out, real = fresh("links"), fresh("real")
        out.mkdir()
        real.mkdir()
        if there:
            (real / "target").write_bytes(b"old")
        (out / "hop").symlink_to(os.path.relpath(real, out) + "/target")
        (out / name).symlink_to("hop")
        program.good(*args(out))
        assert (out / name).is_symlink() and (out / "hop").is_symlink(), "the link was replaced"
        assert (real / "target").stat().st_size > 100 and sorted(os.listdir(real)) == ["target"]
    (out / "hop").unlink()
    (out / "hop").symlink_to(name)
    program.fails(*args(out), says="levels of symbolic links")


def open_clip_variant(part, key, value, *says):
    model = copy_of(CASES / "open_clip" / "model")
    path = model / "open_clip_config.json"
    config = json.loads(path.read_text())
    (config["model_cfg"][part] if part else config["model_cfg"])[key] = value
    path.write_text(json.dumps(config))
    program.fails(*embeds(model, IMAGES / "photo.jpg"), says=says)


def open_clip():
    """Variants that open_clip knows and Ocelli does not are refused instead of run as something else."""
    for part, key, value, says in [("vision_cfg", "timm_model_name", "vit_base", "timm_model_name"), ("text_cfg", "hf_model_name", "bert", "hf_model_name"),
                                   ("vision_cfg", "pool_type", "avg", "pool_type"), ("", "custom_text", True, "custom_text"), ("vision_cfg", "layers", [3, 4], "layers"),
                                   ("vision_cfg", "width", 20, "20"), ("text_cfg", "heads", 5, "width"), ("vision_cfg", "head_width", 64, "width")]:
        tap.check(f"open_clip: {part} {key} {value}", open_clip_variant, part, key, value, "open_clip", says)
    model = copy_of(CASES / "open_clip" / "model")
    path = model / "open_clip_model.safetensors"
    raw = path.read_bytes()
    head, body = header_of(raw)
    name = "transformer.resblocks.0.attn.in_proj_bias"
    head[name]["shape"] = [2, 36]
    path.write_bytes(with_header(head, body))
    tap.check("open_clip: in_proj that is no three parts", lambda: program.fails(*embeds(model, IMAGES / "photo.jpg"), says=[name, "cut in three"]))


def links():
    for command, name in [("forward", "o.safetensors"), ("preprocess", "o.safetensors"), ("embed --npy", "o.npy")]:
        tap.check(f"{command}: through a symbolic link", through_link, lambda out: writers(out)[command], name)


def small_tokenizer():
    for style, least in [("clip", 514), ("gpt2", 257)]:
        args = ["tokenizer", "--style", style, "--out", tmp / ("tok-" + style), corpus()]
        program.fails(*args, "--size", least - 1, says=f"expected {least}")
        assert not (tmp / ("tok-" + style)).exists(), "a folder is left behind"
        program.good(*args, "--size", least)


def small_disk():
    disk = tmp / "disk"
    disk.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.mount(b"tmpfs", str(disk).encode(), b"tmpfs", 0, b"size=64k"):
        tap.skip("a small disk that is full", "mounting one takes root")
        return
    try:
        for name, args in writers(disk / "out").items():
            tap.check(f"{name}: the disk is full", nothing_left, args, disk / "out", says="No space left")
        old = disk / "out" / "o.safetensors"
        old.write_bytes(b"the old one")
        program.fails(*writers(disk / "out")["forward"])
        tap.ok("what was there stays when the new one does not fit", old.read_bytes() == b"the old one")
    finally:
        libc.umount2(str(disk).encode(), 2)


def as_nobody():
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def forbidden():
    model, locked, out = copy_of(), copy_of(), fresh("locked")
    out.mkdir()
    os.chmod(locked, 0)
    os.chmod(out, 0o555)
    os.chmod(model / "model.safetensors", 0)
    mine = Path(shutil.copy(program.path, tmp / "ocelli"))
    stranger = Program(mine)
    pairs = Path(shutil.copytree(data.parent, fresh("pairs"))) / "pairs.jsonl"
    how = {"preexec_fn": as_nobody}
    tap.check("weights one may not read", stranger.fails, *embeds(model), says=["model.safetensors", "denied"], **how)
    tap.check("a folder one may not enter", stranger.fails, *embeds(locked), says=locked.name, **how)
    shared = copy_of()
    tap.check("an output where one may not write", stranger.fails, "preprocess", "--model", shared, "--out", out / "o", pairs.parent / "red-disc.png", says=["denied"],
              **how)
    tap.check("a run where one may not write", stranger.fails, "train", "--config", shared, "--data", pairs, "--out", out / "run", "--steps", 1, "--batch", 4,
              "--quiet", says=["denied"], **how)
    os.chmod(locked, 0o755)


def bad_data(name, raw, *says):
    path = data.parent / name
    path.write_bytes(raw)
    program.fails("train", "--config", MODEL, "--data", path, "--out", fresh("run"), "--steps", 1, "--batch", 4, "--quiet", says=[name, *says])


def pairs_files():
    tap.check("pairs that are missing", program.fails, "train", "--config", MODEL, "--data", tmp / "no.jsonl", "--out", fresh(), "--steps", 1, says="no.jsonl")
    for name, raw, says in [("empty.jsonl", b"", ""), ("cut.jsonl", b'{"image": "a.png", "text"', "1"), ("list.jsonl", b"[1, 2]\n", "1"),
                            ("no-text.jsonl", b'{"image": "red-disc.png"}\n', "1"), ("number.jsonl", b'{"image": 3, "text": "x"}\n', "1"),
                            ("bytes.jsonl", b'{"image": "red-disc.png", "text": "\xff\xfe"}\n', "1"), ("one.tsv", b"red-disc.png\n", "1")]:
        tap.check(f"pairs: {name}", bad_data, name, raw, says)


data = tiny_data.write(tmp / "data")
weights()
configs()
broken_pictures()
adapters()
inputs()
usage()
pairs_files()
full_disk()
links()
small_tokenizer()
open_clip()
small_disk()
forbidden()
shutil.rmtree(tmp, ignore_errors=True)
tap.finish()
