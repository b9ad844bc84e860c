"""The kinds of black box that `fute.yaml` knows: a new one is a file of its own and a line here."""

from __future__ import annotations

from fute.models.callable import PythonSection
from fute.models.hf import HFSection
from fute.models.http import HTTPSection
from fute.models.openai import ServerSection
from fute.models.process import ProcessSection
from fute.models.prompted import LLMSection
from fute.models.section import ModelSection
from fute.models.sklearn import SklearnSection

KINDS: dict[str, type[ModelSection]] = {
    section.KEY: section
    for section in (
        LLMSection,
        ServerSection,
        HFSection,
        SklearnSection,
        PythonSection,
        ProcessSection,
        HTTPSection,
    )
}
