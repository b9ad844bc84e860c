"""A run against a server that misbehaves, killed at ten random moments and started again.

5,000 texts, 32 at a time; 429 storms, 500s, resets, hangs, half a JSON, empty answers, replies of another
form, slow drips. Counted as a violation: a text neither labelled nor reported as failed, one labelled
wrongly or twice, a request or a token over the budget.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figure import Figure
from tests.servers import free_port, requests_in, serving


def chaos(folder: Path, texts: int, kills: int, seed: int, max_calls: int, max_tokens: int) -> dict[str, int]:
    """What went wrong, and the numbers of the last run."""
    draw = random.Random(seed)
    log = folder / "requests.log"
    with serving("tests.servers", free_port(), seed, log, 0.04) as url:
        command = [
            sys.executable,
            "-m",
            "tests.chaos",
            str(folder),
            url,
            *map(str, (texts, max_calls, max_tokens)),
        ]
        killed = 0
        while True:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            if killed < kills:
                before = len(requests_in(log))
                share = texts // (kills + 2)
                goal = before + draw.randint(share // 3, share)
                while process.poll() is None and len(requests_in(log)) < goal:
                    time.sleep(0.02)
                time.sleep(draw.random() * 0.1)
                process.send_signal(signal.SIGKILL)
                process.communicate()
                killed += 1
                continue
            out, _ = process.communicate(timeout=400)
            break
    last = json.loads(out)
    requests = requests_in(log)
    rows = sqlite3.connect(folder / "predictions.sqlite").execute("SELECT count(*) FROM item").fetchone()[0]
    violations = {
        "lost": texts - last["labelled"] - last["failed"] - last["left"],
        "wrong": len(last["wrong"]),
        "twice": abs(rows - last["labelled"]),
        "calls over the budget": max(0, len(requests) - max_calls),
        "tokens over the budget": max(0, sum(tokens for _, tokens in requests) - max_tokens),
        "requests that the ledger missed": max(0, len(requests) - last["calls"]),
    }
    print(
        f"{last | {'wrong': len(last['wrong'])}}; {len(requests):,} requests at the server", file=sys.stderr
    )
    return {**violations, "labelled": last["labelled"], "left": last["left"], "killed": killed}


def measure(name: str) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        found = chaos(Path(folder), 5000, 10, 1, 12_000, 5_000_000)
    counted = {key: n for key, n in found.items() if key not in ("labelled", "left", "killed")}
    print(counted, file=sys.stderr)
    return Figure(name, sum(counted.values()), "violations", 0, "lower")
