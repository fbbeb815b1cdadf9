"""Runs the reference cases on every kernel tier of this CPU, and demands the same bytes from every number of threads.

    run_reference.py PROGRAM      prints TAP, one line a tensor that is compared"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tap
from ocelli_run import CASES, Program, tiers

ONLY = ["bert", "blip_caption", "blip_pretrain", "blip_pretrain_tied", "blip_retrieval", "blip_vqa", "blocks", "chinese_clip", "clip", "clip_gelu", "clip_text",
        "clip_text_projection", "clip_vision", "clip_vision_projection", "gpt2", "languages", "llama", "llama_gqa", "lora_blip", "lora_clip", "lora_dora",
        "lora_gpt2", "lora_llama", "lora_pattern", "lora_rslora", "minilm", "mistral", "open_clip", "opt", "phi3", "phi3_long", "siglip", "t5"]
SANITIZED = os.environ.get("SANITIZED", "")
THREADS = [1, 3] if SANITIZED else [1, 2, 3, 7]


def compare(program, tier):
    got = subprocess.run([sys.executable, str(CASES / "check.py"), "--engine", program.path, "--cases", str(CASES), "--only", ",".join(ONLY), "--json"],
                         capture_output=True, text=True, env={**os.environ, "OCELLI_CPU": tier})
    lines = [json.loads(x) for x in got.stdout.splitlines() if x.startswith("{")]
    for x in lines:
        if "check" in x:
            tap.ok(f"{tier}: {x['case']} {x['check']}", x["status"] == "PASS", f"{x['status']} {x['figure']}")
    tap.ok(f"{tier}: check.py agrees", got.returncode == 0 and bool(lines) and lines[-1].get("passed", 0) > 0, got.stderr[-500:])


def forward(program, case, tier, threads, out):
    spec = next(x for x in json.loads((CASES / case / "case.json").read_text())["checks"] if x["kind"] == "forward" and x.get("grad"))
    args = ["forward", "--model", CASES / case / spec["model"], "--in", CASES / case / spec["in"], "--out", out, "--grad", "--threads", threads]
    if spec.get("lora"):
        args += ["--lora", CASES / case / spec["lora"]]
    program.good(*args, env={"OCELLI_CPU": tier})
    return Path(out).read_bytes()


def same_bytes(program, tier, tmp):
    for case in ["blip_caption", "blip_pretrain", "blip_pretrain_tied", "blip_vqa", "blocks", "chinese_clip", "clip", "gpt2", "lora_clip", "lora_dora", "lora_gpt2", "mistral", "phi3_long", "siglip", "t5"]:
        first = forward(program, case, tier, THREADS[0], tmp / "one")
        for n in THREADS[1:]:
            tap.check(f"{tier}: {case} with {n} threads gives the bytes of 1", equal, first, program, case, tier, n, tmp / "more")


def equal(first, program, case, tier, threads, out):
    assert forward(program, case, tier, threads, out) == first, "the bytes differ"


def main():
    program = Program(sys.argv[1])
    can, cannot = tiers(program)
    if "thread" in SANITIZED:
        can = can[-1:]  # who shares what does not depend on the instructions
    with tempfile.TemporaryDirectory() as tmp:
        for tier in can:
            compare(program, tier)
            same_bytes(program, tier, Path(tmp))
    for tier in cannot:
        tap.say(f"TIER NOT RUN: this CPU lacks {tier}")
        tap.skip(f"{tier}: everything", f"this CPU lacks {tier}")
    tap.finish()


main()
