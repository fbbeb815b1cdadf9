"""The law of the folders: who may include whom, file names that are unique, names that start with their folder's prefix.

    layers.py PROGRAM BUILD_FOLDER      prints TAP"""
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import tap

SRC = Path(__file__).resolve().parent.parent / "src"
PREFIX = {"base": "bs_", "kernel": "kn_", "tensor": "tn_", "checkpoint": "ck_", "image": "im_", "text": "tx_", "block": "bl_", "model": "md_", "run": "rn_",
          "data": "dt_", "train": "tr_", "eval": "ev_", "index": "ix_", "serve": "sv_", "cli": "cl_"}
MAY = {"base": "", "kernel": "base", "checkpoint": "base", "text": "base", "tensor": "kernel", "image": "base kernel", "block": "tensor",
       "model": "block checkpoint image text", "run": "model", "data": "run", "eval": "run data", "index": "run", "train": "model data", "serve": "run index",
       "cli": " ".join(k for k in PREFIX if k != "cli")}
OTHER = {"cli": {"main"}}  # beside commands, which are cmd_NAME


def allowed(folder):
    """`folder`, what it may use, and what those may use in turn."""
    seen, todo = set(), [folder]
    while todo:
        f = todo.pop()
        if f not in seen:
            seen.add(f)
            todo += MAY[f].split()
    return seen


def included(path):
    """Folders below src/ that a file includes; a bare name is a file of its own folder, or one of base (an include path of the build)."""
    for line, name in re.findall(r'(?m)^(\s*#\s*include\s+"([^"]+)")', path.read_text()):
        found = [p for p in (path.parent / name, SRC / name, SRC / "base" / name) if p.exists()]
        if found:
            yield name, found[0].resolve().relative_to(SRC).parts[0]
        elif name != "ocelli.h":
            yield name, "?"


def directions():
    for folder in sorted(p.name for p in SRC.iterdir() if p.is_dir()):
        if not tap.ok(f"folder {folder} is in the table", folder in MAY):
            continue
        bad = [f"{path.relative_to(SRC)} includes {name}" for path in sorted((SRC / folder).rglob("*.[ch]")) for name, to in included(path)
               if to not in allowed(folder)]
        tap.ok(f"{folder} includes only {' '.join(sorted(allowed(folder)))}", not bad, "\n".join(bad))


def unique_names():
    count = Counter(p.name for p in SRC.rglob("*.[ch]"))
    same = [str(p.relative_to(SRC)) for p in sorted(SRC.rglob("*.[ch]")) if count[p.name] > 1]
    tap.ok("file names are unique", not same, "\n".join(same))


def symbols(obj):
    for line in subprocess.run(["nm", "--defined-only", "--extern-only", obj], capture_output=True, text=True, check=True).stdout.splitlines():
        yield line.split()[-1]


def folder_of(obj):
    """build/libocelli.a.p/src_base_error.c.o, build/src/kernel/libX.a.p/avx2.c.o"""
    found = re.search(r"src[_/]([a-z]+)[_/]", str(obj))
    return found.group(1) if found else None


def prefixes(build):
    bad, seen = [], 0
    for obj in sorted(p for p in build.rglob("*.o") if ".a.p" in str(p) or "ocelli.p" in str(p)):
        folder = folder_of(obj.relative_to(build))
        if folder not in PREFIX:
            continue
        seen += 1
        starts = (PREFIX[folder], "oc_") + (("cmd_",) if folder == "cli" else ())
        bad += [f"{obj.name}: {s}" for s in symbols(obj)
                if not s.startswith(starts) and s not in OTHER.get(folder, ()) and not s.startswith(("__asan", "__odr_asan", "__tsan", "DW.ref"))]
    tap.ok("objects were looked at", seen > 40, f"{seen} objects")
    tap.ok("every outer name starts with its folder's prefix", not bad, "\n".join(bad))


directions()
unique_names()
prefixes(Path(sys.argv[2]))
tap.finish()
