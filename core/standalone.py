"""Train a whole experiment in this process, one run after another, and print what came of it."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core import models
from core.catalog import DATASETS
from core.catalog.models import TIMM
from core.events import IMAGES_KEY, JOURNAL_NAME, Failed, Finished, Log, Started, read_journal
from core.launch import launch
from core.spec import ExperimentSpec, PlannedRun, Problem, SpecError, warnings_of
from core.training import Options, TeacherSource, run_training, stop_on_sigterm
from core.training.checkpoint import CHECKPOINT_NAME
from core.wire.numbers import mean_text, value_text


@dataclass(frozen=True)
class Several:
    """How one training is run as several processes.

    Attributes:
        ranks: processes that share out each batch.
        plugins: modules that add to the catalog, for the processes to import too.
    """

    ranks: int = 1
    plugins: tuple[str, ...] = ()


def run_experiment(spec: ExperimentSpec, out: Path, several: Several = Several()) -> int:
    """Train every run into ``out/LABEL-seedN``; a run that has finished there before is kept.

    Raises SpecError for a network that cannot be built here, before the teacher is trained for it.
    Returns 0, 1 where a run failed, 130 where it was interrupted (the run under way keeps a checkpoint and goes on from
    there the next time).
    """
    _refuse_networks(spec)
    for warning in warnings_of(spec):
        _say(f"warning: {warning}", error=True)
    teacher: TeacherSource | None = None
    accuracies: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    failed = 0
    told: set[str] = set()
    with stop_on_sigterm(Options()) as options:
        for planned in spec.plan():
            folder = out / _folder_name(planned)
            done = _finished(folder, planned)
            if not done:
                _train(planned, folder, teacher, options, several)
                _say_warnings(planned, folder, told)
                done = _finished(folder, planned)
            if options.stop_asked():
                _say("interrupted; the same command goes on from here", error=True)
                return 130
            if not done:
                failed += 1
                _say(f"{planned.label} seed {planned.spec.seed}: {_reason(folder)}", error=True)
                if planned.spec.role == "teacher":
                    return 1
                continue
            top1, oracle = done.summary["test/top1"], done.summary.get("oracle/top1")
            # A given teacher was not trained, so it has no best epoch.
            best = "" if oracle is None else f" (best epoch, an oracle: {value_text(oracle, '%', 2)})"
            accuracy = value_text(top1, "%", 2)
            _say(f"{planned.label:<24} seed {planned.spec.seed:<4} test accuracy {accuracy}{best}")
            accuracies[planned.label, _images(folder)].append(top1)
            if planned.spec.role == "teacher":
                teacher = TeacherSource(planned.spec, folder / done.weights)
    _summarise(accuracies)
    return 1 if failed else 0


def _summarise(accuracies: Mapping[tuple[str, str], Sequence[float]]) -> None:
    """A line a method, over the runs of one data set: the images of a folder may have changed between two runs.

    Args:
        accuracies: test accuracies by label and by the hash of the images, "" where it was not recorded.
    """
    _say("")
    several = len({images for _, images in accuracies}) > 1
    if several:
        _say(
            "warning: the data changed between these runs (a run that had finished before is kept), so runs of "
            "different images are neither averaged nor comparable; give --out another folder to train all of them on "
            "the images of now",
            error=True,
        )
    for (label, images), values in accuracies.items():
        sd = statistics.stdev(values) if len(values) > 1 else None
        named = f", images {images[:8] or 'not recorded'}" if several else ""
        mean = mean_text(statistics.mean(values), sd)
        _say(f"{label:<24} {mean} %  (n = {len(values)}, last epoch, ± sd{named})")


def _refuse_networks(spec: ExperimentSpec) -> None:
    """Build the networks that a spec names outside the catalog (timm's), which nobody could look up before."""
    facts = DATASETS[spec.dataset.name].facts(spec.dataset.typed_params)
    if facts is None:  # a folder: each run checks its own network when it has read the images
        return
    named = {"student.model": spec.student.model} | ({"teacher.model": spec.teacher.model} if spec.teacher else {})
    problems = []
    for path, choice in named.items():
        if choice.name.startswith(TIMM):
            size = {"num_classes": facts.num_classes, "image_size": facts.image_size, "in_channels": facts.channels}
            try:
                models.build(choice.name, **size, **choice.params)
            except (ValueError, ImportError) as error:
                problems.append(Problem(path, str(error)))
    if problems:
        raise SpecError(problems)


def _train(
    planned: PlannedRun, folder: Path, teacher: TeacherSource | None, options: Options, several: Several
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / "run.json"
    run.write_text(planned.spec.model_dump_json(indent=2))
    earlier = folder / CHECKPOINT_NAME
    same = earlier.exists() and _fingerprint(folder) == planned.spec.fingerprint()
    (folder / "fingerprint.json").write_text(json.dumps(planned.spec.fingerprint()))
    source = teacher if planned.spec.teacher else None
    resume = earlier if same else None
    if several.ranks == 1:
        run_training(planned.spec, folder, source, resume, options)
        return
    arguments = ["train", "--run", str(run), "--out", str(folder), "--ranks", str(several.ranks)]
    if source:
        (folder / "teacher.json").write_text(source.spec.model_dump_json(indent=2))
        arguments += ["--teacher", str(folder / "teacher.json"), "--teacher-weights", str(source.weights)]
    if resume:
        arguments += ["--resume", str(resume)]
    plugins = [word for plugin in several.plugins for word in ("--plugin", plugin)]
    launch(several.ranks, [*plugins, *arguments], folder, options.interruption.ask)


def _finished(folder: Path, planned: PlannedRun) -> Finished | None:
    """The last event of a run that finished in this folder with the same spec."""
    if _fingerprint(folder) != planned.spec.fingerprint():
        return None
    events = [record.event for record in read_journal(folder / JOURNAL_NAME)]
    return events[-1] if events and isinstance(events[-1], Finished) else None


def _images(folder: Path) -> str:
    """What the run in this folder was trained and tested on; "" where it did not record it."""
    begun = [record.event for record in read_journal(folder / JOURNAL_NAME) if isinstance(record.event, Started)]
    return begun[-1].environment.get(IMAGES_KEY, "") if begun else ""


def _fingerprint(folder: Path) -> str | None:
    path = folder / "fingerprint.json"
    return str(json.loads(path.read_text())) if path.exists() else None


def _say_warnings(planned: PlannedRun, folder: Path, told: set[str]) -> None:
    """Print a run's warnings; one that an earlier run of the experiment gave too is not repeated."""
    for record in read_journal(folder / JOURNAL_NAME):
        event = record.event
        if isinstance(event, Log) and event.level == "warning" and event.message not in told:
            told.add(event.message)
            _say(f"warning: {planned.label} seed {planned.spec.seed}: {event.message}", error=True)


def _reason(folder: Path) -> str:
    said = [record.event for record in read_journal(folder / JOURNAL_NAME)]
    reasons = [event.reason for event in said if isinstance(event, Failed)]
    # A rank that was ended from outside is no failure of the run; what happened is in its log.
    reasons = reasons or [event.message for event in said if isinstance(event, Log) and event.level == "error"]
    return reasons[-1] if reasons else "it ended without a reason"


def _folder_name(planned: PlannedRun) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", planned.label).strip("-") + f"-seed{planned.spec.seed}"


def _say(text: str, *, error: bool = False) -> None:
    print(text, file=sys.stderr if error else sys.stdout, flush=True)
