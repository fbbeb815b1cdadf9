"""The documents tell the truth: runs every `$ docs/show.py ...` in them and compares its output, looks up every function and file they name, and
every link between them.

    docs.py PROGRAM      prints TAP
    docs.py --write      puts the output of build/ocelli into the documents"""
import os
import re
import subprocess
import sys
from pathlib import Path

import tap

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md"))
BLOCK = re.compile(r"```\n\$ docs/show\.py (\w+)\n(.*?)```", re.S)


def output(name, program):
    return subprocess.run([sys.executable, ROOT / "docs" / "show.py", name], capture_output=True, text=True, check=True, env={**os.environ, "OCELLI": program}).stdout


def write():
    for path in DOCUMENTS:
        text = path.read_text()
        path.write_text(BLOCK.sub(lambda m: f"```\n$ docs/show.py {m[1]}\n{output(m[1], os.environ.get('OCELLI', str(ROOT / 'build' / 'ocelli')))}```", text))


def compare(name, shown, program):
    got = output(name, program)
    assert got == shown, f"now it prints\n{got}"


def anchor(title):
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def links(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, part = target.partition("#")
        to = path.parent / file if file else path
        if not to.exists() or (part and part not in [anchor(x) for x in re.findall(r"(?m)^#+ (.*)$", to.read_text())]):
            yield target


def names(path, sources):
    """Functions and files that a document names and the tree does not have. (NAME stands for any, toy.c is CONTRIBUTING's example.)"""
    text = path.read_text()
    for name in set(re.findall(r"`((?:bs|kn|tn|ck|im|tx|bl|md|rn|dt|tr|ev|ix|cl|oc)_\w+)`", text)):
        if not re.search(rf"\b{name}\b", sources):
            yield name
    for file in set(re.findall(r"\b((?:src|tests|docs|include|recipes|tools|fuzz)/[\w./-]*\w)", text)):
        if not (ROOT / file).exists() and "NAME" not in file and not file.endswith(("_", "toy.c")):
            yield file


def main():
    program = str(Path(sys.argv[1]).resolve())
    sources = "\n".join(p.read_text(errors="replace") for f in ("src", "include", "tests") for p in (ROOT / f).rglob("*.[ch]"))
    for path in DOCUMENTS:
        short = path.relative_to(ROOT)
        for name, shown in BLOCK.findall(path.read_text()):
            tap.check(f"{short}: show.py {name} prints what it says", compare, name, shown, program)
        bad = sorted(set(links(path)))
        tap.ok(f"{short}: links lead somewhere", not bad, "\n".join(bad))
        bad = sorted(names(path, sources))
        tap.ok(f"{short}: functions and files it names are there", not bad, "\n".join(bad))
    tap.finish()


if sys.argv[1:] == ["--write"]:
    write()
else:
    main()
