"""The small scale's recipes of prompt grids: which prompts they hold, and the data that is made for them."""

import json
from pathlib import Path

import pytest

from fute.core.errors import ConfigError
from fute.reproduce import prompts
from fute.reproduce.prompts import GRIDS, open_grid
from fute.reproduce.subjects import SUBJECTS, write_subjects
from tests.helpers import refused, write


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A corpus of three texts of each source that is asked for, two others, and one of several texts."""
    monkeypatch.setattr(prompts, "_gemma", lambda: str(tmp_path / "gemma.gguf"))
    sources = [source for labels in SUBJECTS.values() for source in labels]
    rows = [{"text": f"{source} {i}", "source": source} for source in sources for i in range(3)]
    rows += [{"text": text, "source": "other"} for text in ("elsewhere", "far off")]
    rows += [{"texts": ["a", "b"], "source": "gsm8k"}]
    write(tmp_path / "data/unlabelled/corpus.jsonl", "\n".join(map(json.dumps, rows)))
    return tmp_path / "data"


@pytest.mark.parametrize("grid", GRIDS["small"])
def test_a_small_grid_has_prompts_enough_plain_and_chat(grid, data, tmp_path):
    project = open_grid(grid, data, tmp_path / "grid", scale="small")
    sections = {s.name: s for s in project.sections}
    own = [s for name, s in sections.items() if not name.startswith("paper")]
    chats = [s for s in own if s.chat or "<start_of_turn>" in s.template]
    assert len(own) >= 12
    assert len(chats) >= 2
    assert len(own) - len(chats) >= (10 if grid == "nli-smollm2" else 12)  # that one is saved as it is
    labels = {tuple(s.labels) for s in sections.values()}
    assert len(labels) == 1
    assert all(s.template.endswith("<start_of_turn>model\n") for s in chats if not s.chat)
    assert len(project.config.datasets) >= 2


def test_the_prompts_of_a_task_are_the_same_on_both_llms(data, tmp_path):
    """Word for word, chats too, but that NLI has three more on the second. Those alone that the paper's code
    turns into chats are on the first only.
    """
    for task in ("sentiment", "nli", "subject", "finance"):
        said = []
        for llm in ("smollm2", "gemma3"):
            sections = open_grid(f"{task}-{llm}", data, tmp_path / llm, scale="small").sections
            asked = [s for s in sections if not s.name.startswith("paper-chat")]
            said.append({(_plain(s), str(s.labels)) for s in asked})
        assert said[0] <= said[1]
        assert len(said[1] - said[0]) == (3 if task == "nli" else 0)


def _plain(section):
    text = section.template.removeprefix("<start_of_turn>user\n")
    for name, ours in section.columns.items():
        text = text.replace(f"{{{{ {name} }}}}", f"{{{{ {ours} }}}}")
    return text.removesuffix("<end_of_turn>\n<start_of_turn>model\n")


def test_subjects_are_told_by_sources_and_left_out_of_u(data, tmp_path):
    project = open_grid("subject-smollm2", data, tmp_path / "grid", scale="small")
    assert {item.text for item in project.corpus.inputs} == {"elsewhere", "far off"}
    for name, labels in SUBJECTS.items():
        (one,) = [d for d in project.config.datasets if d.name == name]
        rows = [json.loads(line) for line in Path(one.path).read_text(encoding="utf-8").splitlines()]
        assert len(rows) == 3 * len(labels)
        assert {row["text"].rpartition(" ")[0]: row["label"] for row in rows} == labels
        assert set(labels.values()) == set(project.sections[0].labels)


def test_a_corpus_that_lacks_them_is_refused(tmp_path):
    with refused(ConfigError, "there is no", "corpus.jsonl", "`--data DIR`"):
        write_subjects(tmp_path / "corpus.jsonl", tmp_path)
    write(tmp_path / "corpus.jsonl", json.dumps({"text": "a", "source": "other"}))
    with refused(ConfigError, "has no texts of", "gsm8k"):
        write_subjects(tmp_path / "corpus.jsonl", tmp_path)
