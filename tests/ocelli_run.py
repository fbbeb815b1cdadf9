"""What the Python tests share: the program under test, the tiers of this CPU, and small safetensors files."""
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
CASES = HERE / "reference"
sys.path.insert(0, str(CASES))
from check import load  # noqa: E402  (one reader of safetensors is enough)

NAMES = {"float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int8": "I8", "uint8": "U8"}


def save(tensors, path):
    """Writes numpy arrays as a safetensors file."""
    head, blobs, at = {}, [], 0
    for name, t in tensors.items():
        blob = np.ascontiguousarray(t).tobytes()
        head[name] = {"dtype": NAMES[str(t.dtype)], "shape": list(t.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


class Program:
    """Runs `ocelli` with a time limit; under sanitizers a report is a failure wherever it appears. A program for another machine runs through
    the emulator that meson was told of."""

    def __init__(self, path, timeout=300):
        self.path, self.timeout = str(Path(path).resolve()), timeout
        self.machine = {62: "x86_64", 183: "aarch64"}.get(struct.unpack_from("<H", Path(path).read_bytes(), 18)[0])  # e_machine of ELF
        emulator = os.environ.get("MESON_EXE_WRAPPER")
        if emulator:
            self.folder = tempfile.TemporaryDirectory()
            self.path = str(Path(self.folder.name, "ocelli"))
            Path(self.path).write_text(f'#!/bin/sh\nexec {emulator} "{Path(path).resolve()}" "$@"\n')
            os.chmod(self.path, 0o755)

    def run(self, *args, text=None, env=None, cwd=None, **more):
        stdin = {} if text is None else {"input": text.encode() if isinstance(text, str) else text}
        if text is None:
            stdin = {"stdin": subprocess.DEVNULL}
        got = subprocess.run([self.path, *map(str, args)], capture_output=True, timeout=self.timeout, cwd=cwd,
                             env={**os.environ, **(env or {})}, **stdin, **more)
        got.out, got.err = got.stdout.decode("utf-8", "replace"), got.stderr.decode("utf-8", "replace")
        if "Sanitizer" in got.err or "runtime error:" in got.err:
            raise AssertionError("a sanitizer reports: " + got.err[:2000])
        if got.returncode < 0:
            raise AssertionError(f"killed by signal {-got.returncode}: {' '.join(map(str, args))[:200]}: {got.err[-300:]}")
        return got

    def good(self, *args, **more):
        got = self.run(*args, **more)
        if got.returncode:
            raise AssertionError(f"exit {got.returncode}: {' '.join(map(str, args))[:200]}: {got.err.strip()[-300:]}")
        return got

    def fails(self, *args, code=1, says=(), **more):
        """Exit code `code`, and one line on stderr that holds every word of `says`."""
        got = self.run(*args, **more)
        lines = got.err.strip().splitlines()
        what = f"{' '.join(map(str, args))[:200]}: "
        if got.returncode != code:
            raise AssertionError(what + f"exit {got.returncode} instead of {code}: {got.err.strip()[-300:]}")
        if len(lines) != 1 or not lines[0].startswith("ocelli"):
            raise AssertionError(what + f"expected one line of ocelli on stderr: {got.err.strip()[-600:]!r}")
        for word in [says] if isinstance(says, str) else says:
            if word not in lines[0]:
                raise AssertionError(what + f"'{word}' is not said: {lines[0]}")
        return got


AVX2 = ["avx2", "fma", "f16c"]
AVX512 = [*AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl"]
AMX = [*AVX512, "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"]
TIERS = {"x86_64": {"generic": [], "avx2": AVX2, "avx512": AVX512, "amx": AMX},
         "aarch64": {"generic": [], "neon": []}}


def tiers(program):
    """(tiers of the program that this CPU must be able to run, the others)."""
    try:
        flags = next(x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("flags")).split()
    except (OSError, StopIteration):
        flags = []
    all_tiers = TIERS.get(program.machine, {"generic": []})
    can = [t for t, need in all_tiers.items() if all(f in flags for f in need)]
    return can, [t for t in all_tiers if t not in can]
