"""A few lines that let a Python script report its cases as TAP, which meson counts one by one."""
import sys

_done = [0, 0]


def say(text):
    """A comment line."""
    for line in str(text).splitlines():
        print(f"# {line}", flush=True)


def ok(name, passed, why=""):
    """One case. `why` is shown when it failed."""
    _done[0] += 1
    _done[1] += not passed
    name = name.replace("#", "no.").replace("\n", " ")
    print(f"{'ok' if passed else 'not ok'} {_done[0]} - {name}", flush=True)
    if not passed:
        say(why or "failed")
    return bool(passed)


def skip(name, why):
    _done[0] += 1
    print(f"ok {_done[0]} - {name} # SKIP {why}", flush=True)


def check(name, function, *args, **more):
    """One case that passes unless the function raises."""
    try:
        function(*args, **more)
    except Exception as e:  # whatever it is, it is this case's failure and not the script's
        return ok(name, False, f"{type(e).__name__}: {e}")
    return ok(name, True)


def finish():
    print(f"1..{_done[0]}", flush=True)
    sys.exit(1 if _done[1] or not _done[0] else 0)
