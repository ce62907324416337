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

from common.formatting import mean_text, value_text
from core import models
from core.catalog import DATASETS
from core.catalog.models import TIMM
from core.events import IMAGES_KEY, JOURNAL_NAME, Event, Failed, Finished, Log, Started, read_journal
from core.launch import launch
from core.specs import ExperimentSpec, PlannedRun, Problem, SpecError, warnings_of
from core.training import TeacherSource, TrainOptions, run_training, stop_on_sigterm
from core.training.checkpoint import CHECKPOINT_NAME

_NAMED = 3


@dataclass(frozen=True)
class Parallelism:
    """How one training is run as several processes.

    Attributes:
        ranks: processes that share out each batch.
        plugins: modules that add to the catalog, for the processes to import too.
    """

    ranks: int = 1
    plugins: tuple[str, ...] = ()


def run_experiment(spec: ExperimentSpec, out: Path, several: Parallelism = Parallelism()) -> int:
    """Train every run into ``out/LABEL-seedN``; a run that has finished there before is kept.

    Raises:
        SpecError: a network cannot be built here; found before the teacher is trained for it.
        OSError: ``out`` cannot be written to.

    Returns 0, 1 where a run failed, 130 where it was interrupted (the run under way keeps a checkpoint and goes on from
    there the next time).
    """
    _refuse_networks(spec)
    for warning in warnings_of(spec):
        _say(f"warning: {warning}", error=True)
    teacher: TeacherSource | None = None
    accuracies: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    warned: defaultdict[str, list[str]] = defaultdict(list)
    failed = 0
    folders = _folders(spec.plan())
    with stop_on_sigterm(TrainOptions()) as options:
        for planned in spec.plan():
            folder = out / folders[planned.label, planned.spec.seed]
            name = f"{planned.label} seed {planned.spec.seed}"
            done = _finished(folder, planned)
            if not done:
                _train(planned, folder, teacher, options, several)
                done = _finished(folder, planned)
            for text in _warnings(folder):
                if text not in warned:
                    _say(f"warning: {name}: {text}", error=True)
                warned[text].append(name)
            if options.stop_requested():
                _say("interrupted; the same command goes on from here", error=True)
                return 130
            if not done:
                failed += 1
                _say(f"{name}: {_reason(folder)}", error=True)
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
    for text, names in warned.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        _say(f"warning: {text} ({', '.join(names[:_NAMED])}{more})")
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
    facts = DATASETS[spec.dataset.name].facts(spec.dataset.parsed_params)
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
    planned: PlannedRun, folder: Path, teacher: TeacherSource | None, options: TrainOptions, several: Parallelism
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / "run.json"
    run.write_text(planned.spec.model_dump_json(indent=2), encoding="utf-8")
    earlier = folder / CHECKPOINT_NAME
    same = earlier.exists() and _fingerprint(folder) == planned.spec.fingerprint()
    (folder / "fingerprint.json").write_text(json.dumps(planned.spec.fingerprint()), encoding="utf-8")
    source = teacher if planned.spec.teacher else None
    resume = earlier if same else None
    if several.ranks == 1:
        run_training(planned.spec, folder, source, resume, options)
        return
    arguments = ["train", "--run", str(run), "--out", str(folder), "--ranks", str(several.ranks)]
    if source:
        (folder / "teacher.json").write_text(source.spec.model_dump_json(indent=2), encoding="utf-8")
        arguments += ["--teacher", str(folder / "teacher.json"), "--teacher-weights", str(source.weights)]
    if resume:
        arguments += ["--resume", str(resume)]
    plugins = [word for plugin in several.plugins for word in ("--plugin", plugin)]
    launch(several.ranks, [*plugins, *arguments], folder, options.interruption.request)


def _finished(folder: Path, planned: PlannedRun) -> Finished | None:
    """The last event of a run that finished in this folder with the same spec."""
    if _fingerprint(folder) != planned.spec.fingerprint():
        return None
    events = _events(folder)
    return events[-1] if events and isinstance(events[-1], Finished) else None


def _images(folder: Path) -> str:
    """What the run in this folder was trained and tested on; "" where it did not record it."""
    begun = [event for event in _events(folder) if isinstance(event, Started)]
    return begun[-1].environment.get(IMAGES_KEY, "") if begun else ""


def _fingerprint(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / "fingerprint.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):  # not there, or half written by a process that was killed
        return None


def _events(folder: Path) -> list[Event]:
    return [record.event for record in read_journal(folder / JOURNAL_NAME)]


def _warnings(folder: Path) -> list[str]:
    """What the run's log warns of, each once."""
    said = (event.message for event in _events(folder) if isinstance(event, Log) and event.level == "warning")
    return list(dict.fromkeys(" ".join(message.split()) for message in said))


def _reason(folder: Path) -> str:
    said = _events(folder)
    reasons = [event.reason for event in said if isinstance(event, Failed)]
    # A rank that was ended from outside is no failure of the run; what happened is in its log.
    reasons = reasons or [event.message for event in said if isinstance(event, Log) and event.level == "error"]
    return reasons[-1] if reasons else "it ended without a reason"


def _as_folder(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", label).strip("-")


def _folders(plan: Sequence[PlannedRun]) -> dict[tuple[str, int], str]:
    """A folder's name for each label and seed; labels that differ in other characters alone get a number as well."""
    labels = list(dict.fromkeys(planned.label for planned in plan))
    plain: dict[str, str] = {}
    # A label that is a folder's name as it is has that name, whatever is written before it.
    for label in sorted(labels, key=lambda label: _as_folder(label) != label):
        wanted = name = _as_folder(label)
        number = 1
        # Names that differ in their case alone are one folder where the file system says so.
        while name.lower() in {taken.lower() for taken in plain.values()}:
            number += 1
            name = f"{wanted}-{number}"
        plain[label] = name
    return {(planned.label, planned.spec.seed): f"{plain[planned.label]}-seed{planned.spec.seed}" for planned in plan}


def _say(text: str, *, error: bool = False) -> None:
    print(text, file=sys.stderr if error else sys.stdout, flush=True)
