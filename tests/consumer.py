"""What is installed is enough to write a program against it, in C and in C++: docs/example.c, built with pkg-config alone.

    consumer.py PROGRAM BUILD_FOLDER      prints TAP"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import tap
from ocelli_run import CASES, HERE, Program

program, build = Program(sys.argv[1]), Path(sys.argv[2])
tmp = Path(tempfile.mkdtemp(prefix="ocelli-consumer-"))
MODEL, PICTURE, TEXTS = CASES / "clip" / "model", CASES / "images" / "photo.jpg", ["a red square", "一只猫"]


def shell(*args, **more):
    got = subprocess.run([str(a) for a in args], capture_output=True, text=True, cwd=tmp, **more)
    assert got.returncode == 0, f"{' '.join(map(str, args))}: {got.stdout[-500:]}{got.stderr[-800:]}"
    return got.stdout


def install():
    shell("meson", "install", "-C", build, "--no-rebuild", "--destdir", tmp / "root")
    assert list((tmp / "root").rglob("ocelli.pc")) and list((tmp / "root").rglob("ocelli.h"))


def flags():
    pc = next((tmp / "root").rglob("ocelli.pc"))
    prefix = next(x.split("=", 1)[1] for x in pc.read_text().splitlines() if x.startswith("prefix="))
    return shell("pkg-config", "--cflags", "--libs", "--static", "ocelli", f"--define-variable=prefix={tmp}/root{prefix}",
                 env={**os.environ, "PKG_CONFIG_PATH": str(pc.parent)}).split()


def compiles():
    shell("cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", HERE.parent / "docs" / "example.c", "-o", "example", *flags())


def runs():
    lines = shell(tmp / "example", MODEL, PICTURE, *TEXTS).splitlines()
    rows = [json.loads(x)["embedding"] for x in
            program.good("embed", "--model", MODEL, "--json", "--normalize", PICTURE, "--text", *TEXTS).out.splitlines()]
    want = np.array(rows[1:]) @ np.array(rows[0])
    assert [x.split(" ", 1)[1] for x in lines] == TEXTS
    assert np.abs(np.array([float(x.split()[0]) for x in lines]) - want).max() < 1e-4, f"{lines} instead of {want}"


def fails_with_a_word():
    got = subprocess.run([tmp / "example", MODEL, "absent.jpg", "x"], capture_output=True, text=True)
    assert got.returncode == 1 and "absent.jpg" in got.stderr, got.stderr
    got = subprocess.run([tmp / "example", "/nowhere/model", PICTURE, "x"], capture_output=True, text=True)
    assert got.returncode == 1 and "/nowhere/model" in got.stderr, got.stderr


def header_is_c_plus_plus():
    if not shutil.which("c++"):
        return
    (tmp / "x.cc").write_text("#include <ocelli.h>\nint main() { oc_err err = {}; return err.text[0]; }\n")
    shell("c++", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "x.cc", *[x for x in flags() if x.startswith("-I")])


def only_public_symbols():
    lib = next((tmp / "root").rglob("libocelli.*"))
    if lib.suffix == ".a":
        return
    names = [x.split()[-1] for x in shell("nm", "-D", "--defined-only", lib).splitlines()]
    assert all(n.startswith("oc_") for n in names), names


tap.check("meson install gives header, library and ocelli.pc", install)
tap.check("docs/example.c compiles with pkg-config's flags alone", compiles)
tap.check("it says the cosines that `embed` says", runs)
tap.check("it says what fails", fails_with_a_word)
tap.check("the header is good C++", header_is_c_plus_plus)
tap.check("a shared library shows oc_ names alone", only_public_symbols)
shutil.rmtree(tmp)
tap.finish()
