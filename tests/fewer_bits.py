"""Folders that `quantize` wrote, with every command that computes: what they say is what the original says with --dtype, number for number.

    fewer_bits.py PROGRAM      prints TAP"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import tap
import tiny_data
from ocelli_run import CASES, Program, load, save

program = Program(sys.argv[1])
tmp = Path(tempfile.mkdtemp(prefix="ocelli-fewer-bits-"))
data = tiny_data.write(tmp / "photos")
photos, some = data.parent, [CASES / "images" / x for x in ("wide.png", "photo.jpg")]
TEXTS = ["a red disc", "the cat on the table", "two dogs"]


def lines(*args, **more):
    return [json.loads(x) for x in program.good(args[0], "--json", *args[1:], **more).out.splitlines()]


# ---- what each kind of model is asked; `how` is --model and, for the original, --dtype -----------------------------------


def found(*how):
    """By a fresh index: pictures by a text, by a picture, and a few by another text."""
    db = Path(tempfile.mkdtemp(dir=tmp)) / "library.db"
    program.good("index", "--quiet", *how, "--db", db, photos)
    return [lines("search", *how, "--db", db, *more) for more in (["--top", 50, TEXTS[0]], ["--top", 50, "--image", some[0]], ["--top", 3, TEXTS[1]])]


def named(*how):
    return lines("classify", *how, "--labels", ",".join(TEXTS), "--template", "a picture of a {}", "the {}", "--top", 3, *some, photos)


def judged(*how):
    return [lines("eval", *more, *how, "--data", data) for more in (["retrieval"], ["zeroshot"], ["zeroshot", "--language", "text_zh", "--templates", "photo_zh"])]


def matched(*how):
    return [lines("match", *how, p, *TEXTS) for p in some]


def told(*how):
    """More tokens than a head is wide, so that keys and values are made of whichever weights: fewer look at the rows themselves where weights are floats, to other last digits."""
    return [lines("caption", *how, *more, *some, photos) for more in (["--max-new-tokens", 13], ["--num-beams", 3, "--max-new-tokens", 12, "--prompt", "a photo of"])]


def told_and_judged(*how):
    return lines("eval", "caption", *how, "--data", data, "--max-new-tokens", 5)


def answered(*how):
    return [lines("ask", *how, "--image", photos, *more, "what color is it?") for more in ([], ["--num-beams", 2], ["--choices", "red,blue,two dogs"])]


def ordered(*how):
    return lines("eval", "retrieval", *how, "--data", data, "--rerank", "--rerank-top", 5)


def written(*how):
    got = [lines("generate", *how, *more, "--prompt", "the small red cat") for more in (["--max-new-tokens", 12], ["--num-beams", 3, "--max-new-tokens", 6])]
    return got + [lines("generate", *how, "--prompt", "the", "--answer", " cat", "--answer", " two dogs")]


def foretold(*how):
    (tmp / "text.txt").write_text("the old clock in a small red house stands still and nobody winds it any more\n" * 3)
    return lines("eval", "perplexity", *how, "--data", tmp / "text.txt", "--context", 16)


def lines_found(*how):
    (tmp / "lines.txt").write_text("a photo of a cat\ntwo dogs run\na tree\ncats and dogs\n")
    return lines("search", *how, "--lines", tmp / "lines.txt", "two dogs run")


ASKED = [(["clip"], [found, named, judged, matched]), (["siglip", "chinese_clip"], [found, named]), (["blip_caption"], [told, told_and_judged]), (["blip_vqa"], [answered]),
         (["blip_retrieval"], [matched, ordered]), (["gpt2", "llama", "llama_gqa", "mistral", "opt", "phi3"], [written, foretold]), (["t5"], [written]), (["minilm"], [lines_found])]


# ---- the folders --------------------------------------------------------------------------------------------------------


def bf16(x):
    """Rounded to bf16, to even in the middle, and as fp32 again."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def rounded(case):
    """The folder with each weight in fp32, rounded here: what `quantize` writes in bf16, while --dtype rounds those of linear layers alone."""
    folder = Path(shutil.copytree(CASES / case / "model", tmp / f"{case}-rounded"))
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
        save({k: bf16(v) if v.dtype.kind == "f" else v for k, v in load(file).items()}, file)
    return folder


def in_floats(small, case):
    """The folder with each weight in fp32, as the package compressed-tensors would read its integers; GPT-2's lie turned, as linear layers do."""
    folder, out, held = Path(shutil.copytree(CASES / case / "model", tmp / f"{small.name}-in-floats")), {}, load(small / "model.safetensors")
    turned = case == "gpt2"
    for name in [x[:-6] for x in held if x.endswith(".weight_scale")]:
        scale = held.pop(name + "_scale")
        if name + "_packed" in held:
            words, shape = held.pop(name + "_packed"), held.pop(name + "_shape")
            q = (words.view(np.uint32)[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(len(words), -1)[:, :shape[1]].astype(np.float32) - 8
        else:
            q = held.pop(name).astype(np.float32)
        group = q.shape[1] if scale.shape[1] == 1 else 32
        w = np.repeat(scale, group, axis=1)[:, :q.shape[1]] * q
        out[name] = w.T if turned else w
    assert out and {k: v.shape for k, v in out.items()}.items() <= shapes(case).items(), "integers of other shapes"
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        file.unlink()
    save({**held, **out}, folder / "model.safetensors")
    return folder


def shapes(case):
    return {k: v.shape for file in (CASES / case / "model").glob("*.safetensors") for k, v in load(file).items()}


def loses(case):
    """Does rounding to bf16 change a weight?"""
    return any(not np.array_equal(bf16(v), v) for file in (CASES / case / "model").glob("*.safetensors") for v in load(file).values() if v.dtype.kind == "f")


def the_same(case, dtype, asks):
    model, small = CASES / case / "model", tmp / f"{case}-{dtype}"
    program.good("quantize", "--model", model, "--dtype", dtype, "--out", small)
    near = rounded(case) if dtype == "bf16" else in_floats(small, case)
    pairs = [(("--model", model, "--dtype", dtype), ("--model", small))] if dtype != "bf16" else [(("--model", near, *x), ("--model", small, *x)) for x in ((), ("--dtype", "bf16"))]
    for ask in asks:
        for a, b in pairs:
            want, got = ask(*a), ask(*b)
            assert got == want, f"{ask.__name__}, {b[2:]}: {str(got)[:400]} instead of {str(want)[:400]}"
    ask, want = asks[0], asks[0](*pairs[0][0])
    if dtype != "bf16" or loses(case):  # a checkpoint may be in bf16 already
        assert ask("--model", model) != want, "nothing was rounded"
    want, got = ask("--model", near), ask("--model", small, "--dtype", "fp32")
    assert got == want, f"{ask.__name__}, in floats: {str(got)[:400]} instead of {str(want)[:400]}"


def some_in_floats():
    """A captioner whose folder keeps integers but for what looks at the picture: short captions come of the same numbers, whichever dtype is said."""
    case = "blip_caption"
    small = tmp / f"{case}-int8"
    floats = Path(shutil.rmtree(tmp / f"{small.name}-in-floats") or in_floats(small, case))
    mixed, floats, held = Path(shutil.copytree(small, tmp / "mixed")), load(floats / "model.safetensors"), load(small / "model.safetensors")
    looks = {k: v for k, v in floats.items() if ".crossattention." in k}
    assert looks, "no crossattention"
    save({**{k: v for k, v in held.items() if ".crossattention." not in k}, **looks}, mixed / "model.safetensors")
    short = ["--model", mixed, "--max-new-tokens", 6, photos]
    for dtype in [(), ("--dtype", "fp32")]:
        got, want = lines("caption", *short, *dtype), lines("caption", "--model", small, *short[2:], *dtype)
        assert [x["text"] for x in got] == [x["text"] for x in want], f"{dtype}: {got} instead of {want}"


def main():
    for cases, asks in ASKED:
        for case in cases:
            for dtype in ("bf16", "int8", "int4"):
                tap.check(f"{case} in {dtype}: the folder says what --dtype does ({', '.join(x.__name__ for x in asks)})", the_same, case, dtype, asks)
    tap.check("integers beside floats", some_in_floats)
    shutil.rmtree(tmp)
    tap.finish()


main()
