"""What real_size.py and files_both_ways.py share: running the engine with its peak memory, safetensors, one section of docs/parity.md."""
import json
import subprocess
import sys
from pathlib import Path

# A small process starts the engine, since a child counts its parent's memory as its own until it becomes another program.
LAUNCH = """import os, sys
pid = os.fork()
if not pid:
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss * 1024, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def engine(program, *words):
    """Standard output and the peak resident bytes (mapped pages count)."""
    run = subprocess.run([sys.executable, "-S", "-c", LAUNCH, str(program), *map(str, words)], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{words[0]}: {run.stderr.strip()}")
    return run.stdout, int(run.stderr.strip().splitlines()[-1])


def engine_json(program, *words):
    return json.loads(engine(program, *words, "--json")[0])


def put_section(path, name, text):
    """Replaces what stands between <!-- NAME --> and <!-- /NAME -->, or adds it at the end."""
    path = Path(path)
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    old = path.read_text() if path.exists() else "# Parity with PyTorch\n\nWritten by bench/real_size.py and bench/files_both_ways.py.\n\n"
    if begin in old:
        before, rest = old.split(begin)
        old = before + rest.split(end)[1]
    path.parent.mkdir(exist_ok=True)
    path.write_text(old + begin + text.rstrip() + "\n" + end)
