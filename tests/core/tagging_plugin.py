"""A plug-in for the tests: a task whose rows are the tokens of sentences, with a data set and a network."""

from __future__ import annotations

from pydantic import Field

from core.catalog import DATASETS, METRICS, MODELS, TASKS, DatasetEntry, DatasetFacts, Metric, ModelEntry, TaskEntry
from core.catalog.datasets import SplitParams
from core.catalog.registry import Params
from core.catalog.taps import FEATURES

CLASSES = 4


class SentenceParams(SplitParams):
    """Parameters of the sentences."""

    train_size: int = Field(42, ge=4, le=10_000, description="Training sentences.")
    test_size: int = Field(20, ge=1, le=10_000, description="Test sentences.")


class TaggerParams(Params):
    """Parameters of the tagger."""

    width: int = Field(8, ge=1, le=256, description="Width of the embedding and of the layer above it.")


def _facts(params: SentenceParams) -> DatasetFacts:
    return params.facts(CLASSES, 1, 1, params.train_size, params.test_size)


if "test_tagging" not in TASKS:
    TASKS.add(
        TaskEntry(
            name="test_tagging",
            title="Tagging",
            summary="Each token of a sentence has a tag.",
            target="tests.core.tagging_task:TaggingTask",
            headline="test/tagged",
            validation="val/tagged",
            metrics=(
                Metric("test/tagged", "Test tokens tagged right", "%", "higher", panel="Tags"),
                Metric("oracle/tagged", "Best share of test tokens tagged right (oracle)", "%", "higher"),
                Metric("val/tagged", "Validation tokens tagged right", "%", "higher", panel="Tags"),
                Metric("test_ema/tagged", "Test tokens tagged right by averaged weights", "%", "higher", panel="Tags"),
                Metric("val_ema/tagged", "Validation tokens tagged right by averaged weights", "%", "higher"),
                METRICS["train/loss"],
                METRICS["lr"],
                METRICS["grad/norm"],
            ),
        )
    )
    DATASETS.add(
        DatasetEntry(
            name="test_sentences",
            title="Sentences",
            summary="Random sentences of different lengths; a tag depends on a token and on the one before it.",
            target="tests.core.tagging_task:load",
            params=SentenceParams,
            facts=_facts,
            task="test_tagging",
        )
    )
    MODELS.add(
        ModelEntry(
            name="test_tagger",
            title="Tagger",
            summary="An embedding, a convolution over three tokens, and a linear layer.",
            target="tests.core.tagging_task:Tagger",
            params=TaggerParams,
            min_image_size=1,
            tasks=("test_tagging",),
            taps=(FEATURES,),
        )
    )
