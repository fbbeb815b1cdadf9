#!/usr/bin/env python3
"""mean.py A B OUT - the model whose weights lie half way between those of A and of B, which learned on from A: it keeps of what B learned and forgets less of what A could, most of all
about pictures unlike those of training (WiSE-FT, Wortsman 2022). OUT has B's other files."""
import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

DTYPES = {"F16": np.float16, "F32": np.float32}


def read(folder):
    """(header as it lies, its tensors, the data) of model.safetensors."""
    data = (Path(folder) / "model.safetensors").read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return data[:end], {name: x for name, x in json.loads(data[8:end]).items() if name != "__metadata__"}, data[end:]


def main():
    first, second, out = sys.argv[1:]
    (_, tensors, a), (header, same, b) = read(first), read(second)
    if tensors != same:
        sys.exit(f"{first} and {second} do not hold the same tensors")
    mean = bytearray(b)
    for x in tensors.values():
        begin, end = x["data_offsets"]
        dtype = DTYPES[x["dtype"]]
        half = [np.frombuffer(part[begin:end], dtype).astype(np.float64) for part in (a, b)]
        mean[begin:end] = ((half[0] + half[1]) / 2).astype(dtype).tobytes()
    shutil.copytree(second, out, ignore=shutil.ignore_patterns("checkpoint.safetensors", "model.safetensors", "vocab.json", "merges.txt"), dirs_exist_ok=True)
    (Path(out) / "model.safetensors").write_bytes(header + bytes(mean))


if __name__ == "__main__":
    main()
