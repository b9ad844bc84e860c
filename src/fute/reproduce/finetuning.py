"""Fine-tuning a transformer on a dataset, from one folder of weights to another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fute.core.errors import DataError, ModelError
from fute.core.files import making
from fute.core.runtime import choose_dtype
from fute.core.types import Failure, Floats, Span
from fute.data.dataset import Dataset
from fute.models.backends.heads import short_questions
from fute.models.hf import HFModel
from fute.reproduce.quality import quality
from fute.weights.load import device, load_base, load_tokenizer
from fute.weights.locate import Weights

LOSSES = "losses.json"
_CLASSES = {
    "class": "AutoModelForSequenceClassification",
    "score": "AutoModelForSequenceClassification",
    "span": "AutoModelForQuestionAnswering",
}


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: AdamW, a linear rise over a tenth of the steps, then a linear fall to 0.

    Attributes:
        rows: of the dataset, at most, as many of each class as there can be; None: all.
        epochs, batch_size, learning_rate: as usual.
        dropout: everywhere in the model; None leaves it as the weights' config says.
        max_tokens: longer inputs lose their end, a pair's longer half first, a question's context only; of a
            question a third of them is read, as `HFModel` reads it.
    """

    rows: int | None
    epochs: int
    learning_rate: float
    batch_size: int = 16
    dropout: float | None = None
    max_tokens: int = 192

    def takes(self, dataset: Dataset) -> tuple[int, int]:
        """How many steps, and how many tokens about (of 4 characters), learning a dataset takes."""
        tokens = np.minimum([len(item) / 4 for item in dataset.inputs], self.max_tokens).mean()
        return self.takes_at_most(len(dataset), float(tokens))

    def takes_at_most(self, rows: int, tokens: float | None = None) -> tuple[int, int]:
        """The same for so many rows of so many tokens each, or of as many as are read."""
        rows = rows if self.rows is None else min(self.rows, rows)
        each = self.max_tokens if tokens is None else tokens
        return self.epochs * -(-rows // self.batch_size), int(self.epochs * rows * each)


def fine_tune(
    start: Weights,
    dataset: Dataset,
    to: Path,
    schedule: Schedule,
    *,
    seed: int = 0,
) -> list[float]:
    """Train all weights and a new head on the dataset's first `schedule.rows` rows drawn with the seed.

    Args:
        start: weights of an encoder, a decoder or an encoder-decoder; a head among them is left out.
        dataset: of classes, scores or spans. Scores are learnt standardised, as a new head is near 0: their
            order is what counts.
        to: the folder that is written: a whole model with its tokenizer, for `HFModel`, and the losses as
            `LOSSES`. There is never a half of one.
        seed: of rows, head, order and dropout.

    Returns:
        The loss of each step.

    Raises:
        DataError: texts as targets.
        ModelError: the weights don't fit, or the loss is no number.
    """
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments, set_seed

    if dataset.output not in _CLASSES:
        raise DataError(f"dataset {dataset.name} can't be learnt by a head", found=f"output {dataset.output}")
    set_seed(seed)
    tokenizer = load_tokenizer(start)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = _with_new_head(start, dataset, tokenizer.pad_token_id, schedule.dropout)
    rows = _encoded(dataset.few(schedule.rows, seed), tokenizer, schedule.max_tokens)
    with making(to) as made:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(made),
                num_train_epochs=schedule.epochs,
                per_device_train_batch_size=schedule.batch_size,
                learning_rate=schedule.learning_rate,
                warmup_steps=0.1,
                train_sampling_strategy="group_by_length",
                bf16=choose_dtype("auto") == "bfloat16",
                use_cpu=device() == "cpu",
                save_strategy="no",
                logging_steps=1,
                report_to=[],
                disable_tqdm=True,
                log_level="error",
                dataloader_pin_memory=False,
                seed=seed,
            ),
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        if not np.isfinite(losses).all():
            raise ModelError(
                f"fine-tuning on {dataset.name}: the loss is no number", fix="lower the learning rate"
            )
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        (made / LOSSES).write_text(json.dumps(losses))
    return losses


class Evaluation(NamedTuple):
    """How good a model is on a dataset.

    Attributes:
        performance, rows: as of `quality`.
        labels: of classes, the probability of each for each row (n, C), NaN where it failed; else None.
    """

    performance: float
    rows: Floats
    labels: Floats | None


def evaluate(model: Path, dataset: Dataset, *, max_tokens: int = 192) -> Evaluation:
    """How good a fine-tuned model is on the dataset's rows."""
    box = tuned_model(model, dataset, name=dataset.name, max_tokens=max_tokens)
    answers, labels = box.predict(dataset.inputs), None
    if dataset.output == "class":
        none = np.full(len(dataset.labels), np.nan)
        labels = np.array([none if isinstance(a, Failure) else a for a in answers], dtype=np.float32)
    return Evaluation(*quality(dataset, answers), labels)


def tuned_model(folder: Path, dataset: Dataset, *, name: str, max_tokens: int = 192) -> HFModel:
    """The black box that `fine_tune` has written for such a dataset."""
    spans = dataset.output == "span"
    return HFModel(
        str(folder),
        name=name,
        pair=not spans and dataset.inputs[0].text_pair is not None,
        no_answer=spans and any(isinstance(t, Span) and t.start < 0 for t in _targets(dataset)),
        max_tokens=max_tokens,
    )


def _targets(dataset: Dataset) -> Sequence[Any]:
    return [] if dataset.targets is None else list(dataset.targets)


def keep_lowest(layers: int, start: Weights, to: Path) -> None:
    """Write the body of these weights to a folder, of whose layers only the lowest so many are left, and its
    tokenizer. There is never a half of it.
    """
    import torch
    from transformers import AutoModel

    whole, tokenizer = load_base(start, "float32"), load_tokenizer(start)
    whole.config.num_hidden_layers = layers
    model = AutoModel.from_config(whole.config, dtype=torch.float32)
    missing = model.load_state_dict(whole.state_dict(), strict=False).missing_keys
    if missing:
        raise ModelError(f"{start.id} has no weights for {', '.join(missing[:3])}")
    with making(to) as made:
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)


def _with_new_head(start: Weights, dataset: Dataset, pad: int, dropout: float | None) -> Any:
    import torch
    import transformers

    base = load_base(start, "float32")
    config = base.config
    config.pad_token_id = pad
    for name in [name for name in vars(config) if "dropout" in name and dropout is not None]:
        setattr(config, name, dropout)
    if dataset.output == "span":
        config.num_labels = 2  # its start and its end; the weights' own head may have had others
    else:
        names = dataset.labels
        config.num_labels = len(names)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}
        config.problem_type = "regression" if dataset.output == "score" else "single_label_classification"
    # The flash kernel's way back is slow in bfloat16 on a CPU: two fifths of a step.
    own = "eager" if device() == "cpu" else None
    model = getattr(transformers, _CLASSES[dataset.output]).from_config(
        config, dtype=torch.float32, attn_implementation=own
    )
    # T5's question answering has the head among the parts of the body.
    parts = {name for name, _ in base.named_children()}
    missing = model.base_model.load_state_dict(base.state_dict(), strict=False).missing_keys
    lacking = [key for key in missing if key.partition(".")[0] in parts]
    if lacking:
        raise ModelError(f"{start.id} has no weights for {', '.join(lacking[:3])}")
    return model


def _encoded(dataset: Dataset, tokenizer: Any, max_tokens: int) -> list[dict[str, Any]]:
    spans = dataset.output == "span"
    texts = [item.text for item in dataset.inputs]
    pairs = [item.text_pair for item in dataset.inputs]
    if spans:
        texts, _ = short_questions(tokenizer, texts, max_tokens)
    encoded = tokenizer(
        texts,
        pairs if pairs[0] is not None else None,
        truncation="only_second" if spans else True,
        max_length=max_tokens,
        return_offsets_mapping=spans,
    )
    rows = []
    targets = _targets(dataset)
    if dataset.output == "score":
        scores = np.asarray(targets, dtype=float)
        targets = ((scores - scores.mean()) / (scores.std() or 1)).tolist()
    for i, target in enumerate(targets):
        row = {key: encoded[key][i] for key in tokenizer.model_input_names if key in encoded}
        if spans:
            first, last = _tokens_of(target, encoded.sequence_ids(i), encoded["offset_mapping"][i])
            row |= {"start_positions": first, "end_positions": last}
        else:
            row["labels"] = int(target) if dataset.output == "class" else float(target)
        rows.append(row)
    return rows


def _tokens_of(
    span: Span, parts: Sequence[int | None], offsets: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """The first and the last token of an answer in the second text; (0, 0) where there is none, or where it
    was cut off.
    """
    end = span.start + len(span.text)
    inside = [
        i
        for i, (part, (a, b)) in enumerate(zip(parts, offsets, strict=True))
        if part == 1 and a < end and b > span.start >= 0
    ]
    whole = inside and offsets[inside[-1]][1] >= end
    return (inside[0], inside[-1]) if whole else (0, 0)
