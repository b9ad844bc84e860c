"""`python -m benchmarks NAME` prints one JSON line last; `--list` lists the names."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from benchmarks.figure import Figure

# name → (module, what it measures)
FIGURES = {
    "import-time": ("benchmarks.import_time", "seconds of `import fute`"),
    "label-plain": (
        "benchmarks.label_plain",
        "prompt tokens per second, one prompt on SmolLM2, 1,000 short texts",
    ),
    "runner-overhead": (
        "benchmarks.runner",
        "% that the runner adds to a model of 1 ms an item, 10,000 items",
    ),
    "runner-cached": ("benchmarks.runner", "seconds of a second run over 100,000 items, all cached"),
    "runner-memory": ("benchmarks.runner", "MiB that 100,000 items of 500 characters take, texts included"),
    "runner-chaos": (
        "benchmarks.runner_chaos",
        "violations in 5,000 texts through a misbehaving server, killed ten times",
    ),
    "label-shared-long": (
        "benchmarks.label_shared",
        "× of prompts one by one: the paper's 10 over 200 imdb texts",
    ),
    "label-shared-short": ("benchmarks.label_shared", "the same over 500 short reviews"),
    "label-shared-text-first": ("benchmarks.label_shared", "the same, 12 prompts that begin with the text"),
    "label-shared-examples": (
        "benchmarks.label_shared",
        "the same, one prompt with 8 examples before the text",
    ),
    "label-bound": ("benchmarks.label_bound", "× the time of the matrix products alone, on long texts"),
    "label-vs-lm-eval": ("benchmarks.label_vs_lm_eval", "× the throughput of lm-eval at its best batch size"),
    "demo-first": ("benchmarks.demo", "seconds of a first `fute demo`, weights not yet converted"),
    "demo-again": ("benchmarks.demo", "seconds of a second `fute demo`"),
    "demo-memory": ("benchmarks.demo", "GiB of memory that `fute demo` needs at its peak"),
    "prompt-selection": (
        "benchmarks.real_grids",
        "how far fute's prompts are ahead of the best baseline's, on the saved grids",
    ),
    "model-selection": (
        "benchmarks.real_grids",
        "how far fute's order of source models is ahead of the best baseline's, on the saved grid",
    ),
    "cross-domain": ("benchmarks.real_grids", "the same for targets of other domains"),
    "racing": (
        "benchmarks.real_grids",
        "performance rate of a race that may evaluate a third, on the saved grids",
    ),
    "tupate-vs-peft": ("benchmarks.embedding", "× PEFT and a plain loop: TuPaTE on T5-base, decoder prefix"),
    "tupate-vs-peft-float32": ("benchmarks.embedding", "the same in float32"),
    "tupate-further": ("benchmarks.embedding", "× the first model: a further one on the same texts"),
    "fisher-vs-loop-minilm": (
        "benchmarks.embedding",
        "× a loop over single examples: exact Fisher of MiniLM",
    ),
    "fisher-vs-loop-t5": ("benchmarks.embedding", "the same of T5-base"),
    "fisher-further": (
        "benchmarks.embedding",
        "% of the first model's time: a further one's Fisher at one start, MiniLM",
    ),
    "probe-further": ("benchmarks.embedding", "ms of a further LinearProbe on 10,000 texts"),
    "features-vs-st": ("benchmarks.embedding", "× sentence-transformers: features of 10,000 short texts"),
    "rank-1000": ("benchmarks.selection", "seconds to rank 1,000 candidates with 200 replicates each"),
    "rank-100k": ("benchmarks.selection", "seconds to rank 100,000 candidates without replicates"),
    "interval-coverage": (
        "benchmarks.selection",
        "points from 90 %: how many 90 % intervals hold the score of all rows (needs FUTE_DATA)",
    ),
    "task-identity": (
        "benchmarks.task_identity",
        "mean rank of a dataset's own model among 14, by linear-probe (needs FUTE_DATA)",
    ),
    "task-identity-loo": ("benchmarks.task_identity", "the same, λ chosen by leave-one-out"),
    "task-identity-anonymous": (
        "benchmarks.task_identity",
        "the same, labels called class A, class B, …, by similarity of inputs",
    ),
    "task-identity-relation": ("benchmarks.task_identity", "the same, by how the texts of pairs are related"),
    "task-identity-text-emb": ("benchmarks.task_identity", "the same with the method text-emb"),
    "task-identity-tupate": ("benchmarks.task_identity", "the same with the method tupate"),
    "task-identity-bitfit": ("benchmarks.task_identity", "the same with tupate and BitFit"),
    "task-identity-lora": ("benchmarks.task_identity", "the same with tupate and LoRA"),
    "task-identity-task-emb": ("benchmarks.task_identity", "the same with the method task-emb"),
    "task-identity-task-emb-outputs": ("benchmarks.task_identity", "the same, of layer outputs"),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=FIGURES)
    parser.add_argument("--list", action="store_true", help="list the names")
    arguments = parser.parse_args()
    if arguments.list or arguments.name is None:
        for name, (_, what) in FIGURES.items():
            print(f"{name:<24} {what}")
        return 0
    figure: Figure = importlib.import_module(FIGURES[arguments.name][0]).measure(arguments.name)
    print(json.dumps(figure.as_dict()))
    return 0 if figure.ok else 1


if __name__ == "__main__":
    sys.exit(main())
