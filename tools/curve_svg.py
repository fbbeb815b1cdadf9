#!/usr/bin/env python3
"""curve_svg.py METRICS.jsonl [POINTS.tsv] > curve.svg - the loss of a training run (mean of 25 steps), and beside it scores measured on the way.

POINTS.tsv: a header line `step NAME NAME ...`, then numbers; scores are shares of one."""
import json
import sys

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 360, 56, 16, 56, 40
COLORS = ("#0a6cbd", "#c2410c", "#15803d", "#7e22ce")


def losses(path, window=25):
    by_step = {}
    for line in open(path, encoding="utf-8"):
        row = json.loads(line)
        by_step[row["step"]] = row["loss"]  # a resumed run says some steps again: the last word counts
    steps = sorted(by_step)
    out = []
    for i in range(0, len(steps) - window + 1, window):
        part = steps[i:i + window]
        out.append((part[-1], sum(by_step[s] for s in part) / window))
    return out


def points(path):
    lines = [line.split() for line in open(path, encoding="utf-8") if line.strip()]
    names = lines[0][1:]
    return {name: [(int(row[0]), float(row[i + 1])) for row in lines[1:]] for i, name in enumerate(names)}


def path_of(series, x, y):
    return " ".join(f"{'M' if i == 0 else 'L'}{x(s):.1f},{y(v):.1f}" for i, (s, v) in enumerate(series))


def main():
    loss = losses(sys.argv[1])
    scores = points(sys.argv[2]) if len(sys.argv) > 2 else {}
    last, top = loss[-1][0], max(v for _, v in loss)
    x = lambda s: LEFT + (WIDTH - LEFT - RIGHT) * s / last
    y = lambda v: TOP + (HEIGHT - TOP - BOTTOM) * (1 - v / top)
    z = lambda v: TOP + (HEIGHT - TOP - BOTTOM) * (1 - v)
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">')
    print(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
    for k in range(6):
        v = top * k / 5
        print(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#ddd"/>')
        print(f'<text x="{LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.1f}</text>')
        print(f'<text x="{WIDTH - RIGHT + 6}" y="{y(v) + 4:.1f}">{20 * k}%</text>' if scores else "")
        print(f'<text x="{x(last * k / 5):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{round(last * k / 5)}</text>')
    print(f'<path d="{path_of(loss, x, y)}" fill="none" stroke="#555" stroke-width="1.5"/><text x="{WIDTH * 0.62:.0f}" y="{TOP + 12}">loss (left)</text>')
    for i, (name, series) in enumerate(scores.items()):
        color = COLORS[i % len(COLORS)]
        print(f'<path d="{path_of(series, x, z)}" fill="none" stroke="{color}" stroke-width="2"/>')
        for s, v in series:
            print(f'<circle cx="{x(s):.1f}" cy="{z(v):.1f}" r="3" fill="{color}"/>')
        print(f'<text x="{WIDTH * 0.62:.0f}" y="{TOP + 28 + 16 * i}" fill="{color}">{name} (right)</text>')
    print(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">step</text></svg>')


if __name__ == "__main__":
    main()
