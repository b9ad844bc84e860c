"""Loading weights with transformers. GGUF files are converted once and kept as safetensors."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import json
import logging
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from fute.core.errors import MissingError, ModelError
from fute.core.files import cache_dir, making
from fute.core.native import has_compiler
from fute.core.runtime import DType, require
from fute.weights import amx
from fute.weights.gguf import read_head
from fute.weights.locate import Weights

log = logging.getLogger("fute")

Quantize = Literal["8bit", "4bit"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def _quiet_transformers() -> None:
    """Its bars and warnings, and those of what it imports, would garble our progress; errors still show."""
    for name in ("torchao", "bitsandbytes", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as its

    its.set_verbosity_error()
    its.disable_progress_bar()


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors (up to 2 GiB) for the next ones.

    glibc gives each block of more than some hundred KiB back to the system, which then clears every page of
    the next layer's tensors anew: a third of an LLM's time on a fast CPU. Does nothing without glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def device() -> str:
    """`cuda` where there is one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_causal_lm(weights: Weights, dtype: DType, quantize: Quantize | None = None) -> Any:
    """A decoder-only LLM, in evaluation mode, without gradients.

    Raises:
        ModelError: transformers can't load it, or the file holds no language model head; says why.
        MissingError: torch, transformers or what `quantize` needs isn't installed.
    """
    require_local(weights)
    from transformers import AutoModelForCausalLM

    model = _greedy(_load(weights, dtype, AutoModelForCausalLM, quantize))
    model.get_output_embeddings().register_forward_pre_hook(_in_one_piece)
    return model


def _in_one_piece(head: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
    """Else, of the last states of n texts, PyTorch multiplies n copies of the head, each with one."""
    return (states[0].contiguous(), *states[1:])


def compile_layers(model: Any) -> None:
    """Let the layers run as amx.cpp where they can. Else let `torch.compile` fuse what lies between the
    matrix products of each, once for all layers and lengths, when they first run.

    Raises:
        ModelError: transformers doesn't say which modules are the model's layers.
        MissingError: there is no C++ compiler, which `torch.compile` needs on a CPU.
    """
    import torch._dynamo

    if device() == "cpu" and not has_compiler():
        raise MissingError(
            "`compile: true` needs a C++ compiler, which isn't installed",
            fix="install g++ (Debian: `apt install g++`), or leave `compile` out",
        )
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        raise ModelError(
            f"this architecture ({model.config.model_type}) can't be compiled layer by layer",
            fix="leave `compile` out",
        )
    if amx.takes(layers):
        amx.replace_layers(layers)
        return
    # Else a layer's number would be part of its code, and each compiled on its own.
    torch._dynamo.config.allow_unspec_int_on_nn_module = True
    for layer in layers:
        layer.compile(dynamic=True)


def load_seq2seq_lm(weights: Weights, dtype: DType, quantize: Quantize | None = None) -> Any:
    """An encoder-decoder LLM, in evaluation mode, without gradients; raises like `load_causal_lm`."""
    require_local(weights)
    from transformers import AutoModelForSeq2SeqLM

    return _greedy(_load(weights, dtype, AutoModelForSeq2SeqLM, quantize))


def _greedy(model: Any) -> Any:
    """The model, less the generation settings that come with its weights (no repeats, a least length, an end
    that is forced at the limit): with them it would not write its most probable next token.
    """
    from transformers import GenerationConfig

    kept = ("bos", "eos", "pad", "decoder_start", "forced_bos")
    own = model.generation_config
    model.generation_config = GenerationConfig(
        **{f"{name}_token_id": getattr(own, f"{name}_token_id", None) for name in kept}
    )
    return model


def is_encoder_decoder(weights: Weights) -> bool:
    """Whether the weights are of an encoder-decoder (T5, BART): their config says so."""
    return bool(_config(weights).get("is_encoder_decoder", False))


def model_type(weights: Weights) -> str | None:
    """The architecture's name, such as "bert"; None where it isn't said (a GGUF file not yet loaded)."""
    return _config(weights).get("model_type")


def tells_halves(weights: Weights) -> bool:
    """Whether the model was taught to tell the two texts of a pair by `token_type_ids`: BERT, ALBERT."""
    return (_config(weights).get("type_vocab_size") or 0) > 1


# Their first place is that behind the one of padding.
_BEHIND_PADDING = {"roberta", "xlm-roberta", "camembert", "mpnet"}


def room(weights: Weights) -> int | None:
    """How many tokens the weights have places for; None where their architecture sets no limit. Loads only
    what describes them.

    Raises:
        ModelError: transformers doesn't know the architecture.
    """
    if weights.gguf:
        head = read_head(weights.folder / weights.gguf)
        return head.get(f"{head.get('general.architecture')}.context_length")
    require_local(weights)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(weights.folder, trust_remote_code=False)
    except (ValueError, KeyError) as error:
        raise _unloadable(weights, error) from error
    config = config.get_text_config()
    places: int | None = getattr(config, "max_position_embeddings", None)
    if not getattr(config, "position_biased_input", True):
        return None  # a DeBERTa that knows how far tokens are apart, not where they are
    if places is None or config.model_type not in _BEHIND_PADDING:
        return places
    return places - int(config.pad_token_id) - 1


def _config(weights: Weights) -> dict[str, Any]:
    config = _converted_folder(weights) / "config.json"
    if not config.is_file():
        return {}
    content: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    return content


def quantiser(quantize: Quantize | None) -> str | None:
    """What quantises here, for fingerprints: on a GPU bitsandbytes; on a CPU torchao for 8 bit (weights
    only; closer to the original and faster there than bitsandbytes) and bitsandbytes for 4 bit (NF4; torchao
    has none there).

    Raises:
        MissingError: the package isn't installed.
    """
    if quantize is None:
        return None
    engine = "torchao" if quantize == "8bit" and device() == "cpu" else "bitsandbytes"
    require(engine, "quantize", f"`quantize: {quantize}` on this machine")
    return f"{engine}-{'int8' if quantize == '8bit' else 'nf4'}"


def _quantisation(quantize: Quantize | None, dtype: DType) -> Any:
    """transformers' configuration for it. The output head stays as it is."""
    import torch
    from transformers import BitsAndBytesConfig, TorchAoConfig

    engine = quantiser(quantize)
    if engine is None:
        return None
    if engine == "torchao-int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype)
    )


def load_headed(weights: Weights, dtype: DType, auto_class: str) -> Any:
    """A model with a trained head (`auto_class`, such as "AutoModelForQuestionAnswering"); as
    `load_causal_lm`.

    Raises:
        ModelError: the file holds no such head: transformers would draw one at random.
    """
    require_local(weights)
    import transformers

    return _load(weights, dtype, getattr(transformers, auto_class))


def load_empty(weights: Weights, auto_class: str) -> Any:
    """The model that `load_headed` loads, without its weights: what modules it has, and their sizes.

    Raises:
        ModelError: transformers doesn't know the architecture.
    """
    require_local(weights)
    import torch
    import transformers

    _quiet_transformers()
    try:
        with torch.device("meta"):
            config = transformers.AutoConfig.from_pretrained(weights.folder, trust_remote_code=False)
            return getattr(transformers, auto_class).from_config(config, trust_remote_code=False)
    except (ValueError, KeyError) as error:
        raise _unloadable(weights, error) from error


def load_base(weights: Weights, dtype: DType) -> Any:
    """A model without its head, in evaluation mode, without gradients; raises like `load_causal_lm`."""
    require_local(weights)
    from transformers import AutoModel

    return _load(weights, dtype, AutoModel, holds="body")


def _names_of_body(weights: Weights) -> dict[str, str]:
    """Regular expression → what stands for it in the names of the file's tensors: question answering models
    of decoders keep their body where `AutoModel` doesn't look for it (transformers 5.23).
    """
    import transformers

    name = next(iter(_config(weights).get("architectures") or ()), "")
    if not name.endswith("ForQuestionAnswering") or not hasattr(transformers, name):
        return {}
    prefix = getattr(transformers, name).base_model_prefix
    expected = load_empty(weights, "AutoModel").base_model_prefix
    return {} if prefix == expected else {rf"^{re.escape(prefix)}\.": ""}


def load_writer(weights: Weights, dtype: DType, encoder_decoder: bool) -> Any:
    """A model with its own language model head; raises like `load_headed`."""
    return load_headed(weights, dtype, f"AutoModelFor{'Seq2Seq' if encoder_decoder else 'Causal'}LM")


def load_tokenizer(weights: Weights) -> Any:
    """The tokenizer that belongs to the weights; writes nothing."""
    require_local(weights)
    from transformers import AutoTokenizer

    _quiet_transformers()
    folder = _converted_folder(weights)
    if weights.gguf and not folder.is_dir():
        return AutoTokenizer.from_pretrained(weights.folder, gguf_file=weights.gguf)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def require_local(weights: Weights) -> None:
    for module in ("torch", "transformers", *(["gguf", "accelerate"] if weights.gguf else [])):
        require(module, "local", f"loading {weights.id}")


def _load(
    weights: Weights,
    dtype: DType,
    auto_class: Any,
    quantize: Quantize | None = None,
    holds: Literal["all", "body"] = "all",
) -> Any:
    """Raises ModelError where the file lacks some of the weights that it should hold, all or those of the
    body: transformers would draw them at random.
    """
    import torch

    _quiet_transformers()
    from fute.weights.attention import install

    keep_freed_memory()
    try:
        folder = _converted(weights)
        model, loading = auto_class.from_pretrained(
            folder,
            output_loading_info=True,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            quantization_config=_quantisation(quantize, dtype),
            key_mapping=(_names_of_body(weights) if holds == "body" else {}) or None,
        )
    except (ValueError, KeyError, RuntimeError, ImportError) as error:
        raise _unloadable(weights, error) from error
    # No head of ours reads a body's pooler.
    missing = [name for name in loading["missing_keys"] if holds == "all" or "pooler" not in name]
    _refuse_missing(weights, type(model).__name__, missing)
    if quantize and all(type(tensor) is torch.nn.Parameter for tensor in model.parameters()):
        raise ModelError(
            f"{weights.id}: nothing in this architecture ({model.config.model_type}) can be quantised here",
            expected=f"linear layers, for {quantiser(quantize)}",
            fix="leave `quantize` out",
        )
    model.requires_grad_(False)
    model = model.eval() if quantize and device() == "cuda" else model.eval().to(device())
    install(model)
    return model


def _refuse_missing(weights: Weights, model: str, missing: Iterable[str]) -> None:
    if missing := sorted(missing):
        raise ModelError(
            f"{weights.id} lacks weights of {model}, which transformers would draw at random",
            found=f"without {', '.join(missing[:5])}",
            fix="name weights that were trained for this, or another `head`, or save the whole model",
        )


def _unloadable(weights: Weights, error: Exception) -> ModelError:
    said = next(iter(str(error).strip().splitlines()), "")
    return ModelError(
        f"transformers can't load {weights.id} from {weights.folder}",
        found=f"{type(error).__name__}: {said}"[:300],
    )


def _converted_folder(weights: Weights) -> Path:
    return cache_dir() / "converted" / weights.digest[:32] if weights.gguf else weights.folder


def _converted(weights: Weights) -> Path:
    """The folder with safetensors; a GGUF file is converted to bfloat16, whole, at its first use (some
    15 s).

    Raises:
        ModelError: the file lacks weights.
    """
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        GgufConfig,
    )

    target = _converted_folder(weights)
    if target.is_dir():
        return target
    log.info("converting %s to safetensors, once …", weights.id)
    file = {"pretrained_model_name_or_path": weights.folder, "gguf_file": weights.gguf}
    # transformers draws a bar of its own here, across ours.
    with making(target) as made, contextlib.redirect_stderr(io.StringIO()):
        AutoTokenizer.from_pretrained(**file).save_pretrained(made)
        is_seq2seq = AutoConfig.from_pretrained(**file).is_encoder_decoder
        model, loading = (AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM).from_pretrained(
            **file,
            output_loading_info=True,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        _refuse_missing(weights, type(model).__name__, loading["missing_keys"])
        model.save_pretrained(made)
    return target
