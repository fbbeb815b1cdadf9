"""CLIP's real vocabulary: thousands of lines tokenized as Hugging Face's `tokenizers` does it (tests/tokenizer_parity.py).

Both come from PyPI, the wheel of `tokenizers` and, for its vocabulary file, that of `open_clip_torch`, without anything they depend on, into a
folder of the build. Where they cannot be had, the case says that it did not run."""
import re
import subprocess
import sys
from pathlib import Path

import tap

here, engine, build = Path(__file__).resolve().parent, sys.argv[1], Path(sys.argv[2])
venv = build / "venv-tokenizers"


def quiet(*args):
    return subprocess.run([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)


def fetch():
    """The wheel with the vocabulary; None and a reason when something is missing."""
    wheels = sorted(venv.glob("open_clip_torch-*.whl"))
    if wheels:
        return wheels[0], ""
    for args in ([sys.executable, "-m", "venv", venv], [venv / "bin/pip", "install", "-q", "--no-deps", "tokenizers==0.23.3"],
                 [venv / "bin/pip", "download", "-q", "--no-deps", "-d", venv, "open_clip_torch"]):
        got = quiet(*args)
        if got.returncode:
            return None, (got.stdout.strip().splitlines() or ["no reason given"])[-1]
    return sorted(venv.glob("open_clip_torch-*.whl"))[0], ""


def main():
    wheel, why = fetch()
    if wheel is None:
        tap.skip("CLIP's real vocabulary, line by line", why)
        tap.finish()
    got = quiet(venv / "bin/python", here / "tokenizer_parity.py", "--engine", engine, "--openclip", wheel, "--lines", "4000")
    lines = sum(int(n) for n in re.findall(r"(\d+) lines", got.stdout))
    tap.ok("CLIP's real vocabulary, line by line as tokenizers", got.returncode == 0 and lines >= 4000, got.stdout[-2000:])
    tap.say(got.stdout.strip()[-300:])
    tap.finish()


main()
