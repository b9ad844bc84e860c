"""fute: one vector space for datasets, models and prompts.

Everything public is here; it is imported when first used, so that `import fute` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "BlackBox": "fute.models.base",
    "CallableModel": "fute.models.callable",
    "Corpus": "fute.data.corpus",
    "Dataset": "fute.data.dataset",
    "Embedder": "fute.api",
    "FuteError": "fute.core.errors",
    "Input": "fute.core.types",
    "Project": "fute.project",
    "PromptedLLM": "fute.models.prompted",
    "Ranking": "fute.selection.rank",
    "SklearnModel": "fute.models.sklearn",
    "Space": "fute.space.space",
    "SpaceSpec": "fute.core.types",
    "TaskEmbedding": "fute.core.types",
    "embed_dataset": "fute.api",
    "embed_model": "fute.api",
    "embed_models": "fute.api",
    "rank": "fute.api",
}

if TYPE_CHECKING:
    from fute.api import Embedder, embed_dataset, embed_model, embed_models, rank
    from fute.core.errors import FuteError
    from fute.core.types import Input, SpaceSpec, TaskEmbedding
    from fute.data.corpus import Corpus
    from fute.data.dataset import Dataset
    from fute.models.base import BlackBox
    from fute.models.callable import CallableModel
    from fute.models.prompted import PromptedLLM
    from fute.models.sklearn import SklearnModel
    from fute.project import Project
    from fute.selection.rank import Ranking
    from fute.space.space import Space

__all__ = [
    "BlackBox",
    "CallableModel",
    "Corpus",
    "Dataset",
    "Embedder",
    "FuteError",
    "Input",
    "Project",
    "PromptedLLM",
    "Ranking",
    "SklearnModel",
    "Space",
    "SpaceSpec",
    "TaskEmbedding",
    "__version__",
    "embed_dataset",
    "embed_model",
    "embed_models",
    "rank",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fute' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
