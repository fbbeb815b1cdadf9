"""Do the reference cases notice a wrong op? Seeds each fault of mutants.txt into a copy of the sources, builds it (-O1; cases are run by the portable kernels), and
demands that every case it names fails; one that ends with .py is a script of this folder.

    mutants.py PROGRAM            some of them, spread over the ops: prints TAP (PROGRAM is not used: this one builds its own)
    mutants.py --all [TEXT]       all, or those whose text holds TEXT"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tap
from ocelli_run import CASES, HERE

ROOT = HERE.parent
SAMPLE = 8
tmp = Path(tempfile.mkdtemp(prefix="ocelli-mutants-"))
tree, build = tmp / "tree", tmp / "build"


def faults():
    lines = [x for x in (HERE / "mutants.txt").read_text().splitlines() if not x.startswith("#")]
    blocks = [b.splitlines() for b in "\n".join(lines).split("\n\n") if b.strip()]
    for b in blocks:
        b = [x for x in b if x]
        assert len(b) == 4, f"a fault has four lines: {b}"
        yield b[0], b[1].split(), b[2].replace("\\n", "\n"), b[3].replace("\\n", "\n")


def shell(*args):
    got = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    assert got.returncode == 0, got.stdout[-1500:] + got.stderr[-500:]


def prepare():
    for name in ["src", "include"]:
        shutil.copytree(ROOT / name, tree / name)
    shutil.copy(ROOT / "meson.build", tree)
    (tree / "tests").mkdir()
    (tree / "tests" / "meson.build").write_text("")
    shell("meson", "setup", build, tree, "-Dbuildtype=plain", "-Doptimization=1", "-Dwarning_level=0")
    shell("ninja", "-C", build, "ocelli")


def passes(case):
    if case.endswith(".py"):
        got = subprocess.run([sys.executable, HERE / case, build / "ocelli"], capture_output=True, text=True)  # by any kernels: these faults are not in them
        return got.returncode == 0, [x for x in got.stdout.splitlines() if x.startswith("not ok")]
    got = subprocess.run([sys.executable, CASES / "check.py", "--engine", build / "ocelli", "--cases", CASES, "--only", case, "--kind", "forward"],
                         capture_output=True, text=True, env={**os.environ, "OCELLI_CPU": "generic"})
    return got.returncode == 0, got.stdout.strip().splitlines()[-1:]


def places(text, old):
    return re.findall(r"\s+".join(map(re.escape, old.split())), text)  # however the lines are broken


def all_are_there():
    """Also of those faults that are not tried now: code that moved takes its fault along."""
    gone = [f"{path}: {old.strip()}" for path, _, old, _ in faults() if len(places((ROOT / path).read_text(), old)) != 1]
    assert not gone, "not there exactly once: " + "; ".join(gone)


def noticed(path, cases, old, new):
    file = tree / path
    text = file.read_text()
    there = places(text, old)
    assert len(there) == 1, f"the old text is found {len(there)} times"
    file.write_text(text.replace(there[0], new))
    try:
        shell("ninja", "-C", build, "ocelli")
        blind = [c for c in cases if passes(c)[0]]
    finally:
        file.write_text(text)
    assert not blind, f"not noticed by {' '.join(blind)}"


def main():
    every, only = "--all" in sys.argv, sys.argv[2] if len(sys.argv) > 2 and sys.argv[1] == "--all" else ""
    chosen = [f for f in faults() if only in "\n".join([f[0], f[2]])]
    if not every:
        step = max(1, len(chosen) // SAMPLE)
        chosen = chosen[step // 2::step][:SAMPLE]
    tap.check("every fault's text is in its file", all_are_there)
    if tap.check("the copy builds", prepare):
        for case in ["blocks", "clip", "clip_gelu", "lora_clip", "lora_dora", "lora_gpt2", "grounded_values.py"]:
            good, said = passes(case)
            tap.ok(f"{case} passes without a fault", good, said)
        for path, cases, old, new in chosen:
            tap.check(f"{path}: {new.strip().splitlines()[0] if new.strip(' ;') else 'without ' + old.strip()}", noticed, path, cases, old, new)
    shutil.rmtree(tmp)
    tap.finish()


main()
