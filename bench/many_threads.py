"""How work would be shared out by more threads than this machine has.

    many_threads.py --work DIR --model CLIP [--train CLIP] [--threads 1,8,16,64] [--tree DIR] [--rounds 5]

The tree (this one, or another to compare with) is built in DIR with bench/many_threads.c in place of its pool of threads: one thread plays all of them in turn, and the clock runs as if they had
worked at once. So it shows what is serial, what is cut unevenly and what is done more than once, each with figures of this CPU. It does not show memory that all read at once, and the
threads share one core's caches in turn, which a real thread has for itself. Prints a table of milliseconds (the least of the rounds) and of how many times one thread takes as long."""
import argparse
import json
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent


def built(tree, work):
    copy, build = work / "tree", work / "build"
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("src", "include", "tests"):
        shutil.copytree(tree / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("reference"))
    shutil.copy(tree / "meson.build", copy)
    (copy / "tests" / "meson.build").write_text("")
    shutil.copy(HERE / "many_threads.c", copy / "src" / "base" / "pool.c")
    shutil.rmtree(build, ignore_errors=True)  # another tree's files may be older than what was built of the last
    subprocess.run(["meson", "setup", build, copy, "-Dbuildtype=release", "-Dc_link_args=-Wl,--wrap=bs_now"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", build, "ocelli"], check=True, stdout=subprocess.DEVNULL)
    return build / "ocelli"


def least(engine, kind, model, line, threads, rounds):
    """Milliseconds; the first two rounds pack weights and find pages."""
    got = subprocess.run([engine, "bench", kind, "--model", model, "--threads", str(threads), "--stdin", "--json"], input=f"{line}\n" * (rounds + 2), capture_output=True, text=True,
                         check=True).stdout
    lines = [json.loads(x)["ms"] for x in got.splitlines() if '"ms"' in x]
    return min(x[0] for x in lines[-rounds:])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--train", type=Path)
    p.add_argument("--threads", type=lambda s: [int(x) for x in s.split(",")], default=[1, 8, 16, 64])
    p.add_argument("--tree", type=Path, default=HERE.parent)
    p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    engine = built(a.tree, a.work)
    jobs = [("model", a.model, "image 1"), ("model", a.model, "image 8"), ("model", a.model, "image 32"), ("model", a.model, "text 32")]
    jobs += [("train", a.train, "train 1")] if a.train else []
    print("| work | " + " | ".join(f"{n} threads" if n > 1 else "1 thread" for n in a.threads) + " |")
    print("|---" * (len(a.threads) + 1) + "|")
    for kind, model, line in jobs:
        took = [least(engine, kind, model, line, n, a.rounds) for n in a.threads]
        print(f"| {line} | " + " | ".join(f"{t:.1f} ms" + (f" ({took[0] / t:.1f}x)" if t is not took[0] else "") for t in took) + " |", flush=True)


if __name__ == "__main__":
    main()
