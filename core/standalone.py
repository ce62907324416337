"""Train a whole experiment, or a sweep, in this process, one run after another, and print the results."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.atomic_write import atomic_write
from common.formatting import mean_text, value_text, within_sentence
from core import growing_seeds
from core.catalog import DATASETS, METRICS, Metric
from core.catalog.models import TIMM
from core.events import IMAGES_KEY, JOURNAL_NAME, Event, Failed, Finished, Log, Started, read_journal
from core.launch import launch
from core.settings import TrainingSettings
from core.specs import ExperimentSpec, PlannedRun, Problem, SpecError, warnings_of
from core.tasks.classification import models
from core.train import TeacherSource, TrainOptions, run_training, stop_on_sigterm
from core.train.checkpoint import CHECKPOINT_NAME
from core.train.rehearsal import kind_of, rehearse
from core.tuning.choice import Choice, ChoiceError, TrialRun, choose
from core.tuning.trials import trials_of, with_settings

INTERRUPTED = 130
"""Exit status of a command that a signal has interrupted."""
TRIALS_FOLDER, CHOICE_NAME, SPEC_NAME = "trials", "choice.json", "experiment.json"
_MAX_NAMES = 3
"""Runs that are named after a warning that several of them have."""


@dataclass(frozen=True)
class Parallelism:
    """How one training is shared by several processes.

    Attributes:
        ranks: The number of processes that share each batch.
        plugins: Modules that add to the catalog, which the processes import too.
    """

    ranks: int = 1
    plugins: tuple[str, ...] = ()


@dataclass
class _Trained:
    """An experiment while it is trained.

    Attributes:
        out: The folder of its runs.
        folders: Beginnings of the runs' folders, by label.
        values: The headline metric by label and by what identifies the images.
        students: The results that decide how many seeds it takes.
        written: The spec as it was before trials chose settings; None for the trials themselves.
    """

    spec: ExperimentSpec
    out: Path
    folders: Mapping[str, str]
    values: defaultdict[tuple[str, str], list[float]]
    students: growing_seeds.Results
    written: ExperimentSpec | None = None

    @classmethod
    def of(cls, spec: ExperimentSpec, out: Path) -> _Trained:
        folders = _folder_names(planned.label for planned in spec.plan())
        return cls(spec, out, folders, defaultdict(list), growing_seeds.Results())

    def folder_of(self, planned: PlannedRun) -> Path:
        """Return the folder of a run."""
        return self.out / f"{self.folders[planned.label]}-seed{planned.spec.seed}"

    def keep_spec(self) -> None:
        """Write the spec into the folder, which then says by itself what was trained in it."""
        if self.written is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            atomic_write(self.out / SPEC_NAME, self.written.model_dump_json(indent=2) + "\n")

    @property
    def headline(self) -> Metric:
        return METRICS[self.spec.dataset.headline]


def run_experiment(
    spec: ExperimentSpec,
    out: Path,
    parallelism: Parallelism = Parallelism(),
    settings: TrainingSettings | None = None,
) -> int:
    """Train every run into ``out/LABEL-seedN``, beside the spec. A run that has finished there before is kept.

    Args:
        spec: The experiment.
        out: The folder for all runs.
        parallelism: The processes of each training.
        settings: What the trainings take from their environment; None reads it from the environment.

    Returns:
        0; 1 if a run failed; 130 if a signal interrupted it. The interrupted run keeps a checkpoint and continues
        from there the next time.

    With ``tune``, the trials are trained into ``out/trials`` first, and what they choose is frozen in
    ``out/choice.json``.

    Raises:
        SpecError: A network cannot be built here, or a method cannot be trained on the images or with these networks;
            this is checked before a teacher is trained. Or Optuna is not installed, which draws settings.
        SettingsError: ``settings`` is None, and a variable of the environment cannot be used.
        OSError: ``out`` cannot be written to.
    """
    return _run_all([(spec, out)], parallelism, settings)


def run_sweep(
    specs: Sequence[ExperimentSpec],
    out: Path,
    parallelism: Parallelism = Parallelism(),
    settings: TrainingSettings | None = None,
) -> int:
    """Train the experiments of a sweep into ``out/EXPERIMENT/LABEL-seedN``, as ``run_experiment`` does.

    A teacher that several experiments share is trained once. The experiments take turns seed by seed if seeds are added
    until their comparisons are decided.
    """
    names = _folder_names(spec.name for spec in specs)
    return _run_all([(spec, out / names[spec.name]) for spec in specs], parallelism, settings)


def _run_all(
    places: Sequence[tuple[ExperimentSpec, Path]], parallelism: Parallelism, settings: TrainingSettings | None
) -> int:
    """Train experiments into their folders, after the trials of those that choose settings."""
    settings = settings or TrainingSettings.from_environment()
    experiments, sentences = [], []
    for spec, out in places:
        chosen = spec
        if spec.tune:
            trials = _Trained.of(trials_of(spec), out / TRIALS_FOLDER)
            if (status := _run([trials], parallelism, settings)) == INTERRUPTED:
                return status
            try:
                choice = _choose(spec, trials)
            except ChoiceError as error:
                _print(f"{spec.name}: {error}", error=True)
                return 1
            chosen = with_settings(spec, choice.settings)
            sentences += choice.sentences()
            _print("\n".join(["", *choice.sentences(), ""]))
        experiments.append(replace(_Trained.of(chosen, out), written=spec))
    return _run(experiments, parallelism, settings, sentences)


def _choose(spec: ExperimentSpec, trials: _Trained) -> Choice:
    """Choose the settings of an experiment from its trials, and freeze them.

    Raises:
        ChoiceError: They cannot be chosen, or others were frozen here before.
    """
    runs, images = [], 0
    for planned in trials.spec.plan():
        if planned.spec.role == "student":
            folder = trials.folder_of(planned)
            result = _finished(folder, planned)
            runs.append(TrialRun(planned.label, planned.spec, result.summary if result else None))
            images = next((event.test_size for event in _events(folder) if isinstance(event, Started)), images)
    choice = choose(spec, runs, images)
    frozen = trials.out.parent / CHOICE_NAME
    if not frozen.exists():
        frozen.write_text(json.dumps(choice.as_json(), indent=2) + "\n", encoding="utf-8")
    elif (known := json.loads(frozen.read_text(encoding="utf-8"))["hash"]) != choice.digest:
        text = f"{frozen} has frozen another choice ({known[:12]}, not {choice.digest[:12]})"
        raise ChoiceError(f"{text}; give --out another folder, so that no result decides between them")
    return choice


def _run(
    experiments: Sequence[_Trained],
    parallelism: Parallelism,
    settings: TrainingSettings,
    sentences: Sequence[str] = (),
) -> int:
    """Train experiments, and print their results after sentences about them."""
    specs = [experiment.spec for experiment in experiments]
    for experiment in experiments:
        _check_networks(experiment.spec)
        _check_students(experiment, settings)
    for experiment in experiments:
        experiment.keep_spec()
    for warning in dict.fromkeys(str(warning) for spec in specs for warning in warnings_of(spec)):
        _print(f"warning: {warning}", error=True)
    teachers: dict[str, TeacherSource] = {}
    warned: defaultdict[str, list[str]] = defaultdict(list)
    failed = False
    with stop_on_sigterm(TrainOptions()) as options:
        for place, planned in growing_seeds.runs(specs, [experiment.students for experiment in experiments]):
            if planned.spec.role == "teacher" and planned.spec.fingerprint() in teachers:
                continue  # another experiment has trained it
            experiment = experiments[place]
            folder = experiment.folder_of(planned)
            prefix = f"{experiment.spec.name}: " if len(experiments) > 1 else ""
            name = f"{prefix}{planned.label} seed {planned.spec.seed}"
            result = _finished(folder, planned)
            if not result:
                sources = [teachers[fingerprint] for fingerprint in planned.spec.teachers]
                _train(planned, folder, sources, options, parallelism, settings)
                result = _finished(folder, planned)
            for text in _warnings(folder):
                if text not in warned:
                    _print(f"warning: {name}: {text}", error=True)
                warned[text].append(name)
            if options.stop_requested():
                _print("interrupted; the same command continues from here", error=True)
                return INTERRUPTED
            if not result:
                failed = True
                _print(f"{name}: {_failure_reason(folder)}", error=True)
                if planned.spec.role == "teacher":
                    return 1
                continue
            _print_result(planned, result, experiment.headline, prefix)
            value, images = result.summary[experiment.headline.name], _image_identity(folder)
            experiment.values[planned.label, images].append(value)
            if planned.spec.role == "student":
                experiment.students.add(planned.label, planned.spec.seed, value, images)
            else:
                teachers[planned.spec.fingerprint()] = TeacherSource(planned.spec, folder / result.weights)
    if sentences:
        _print("\n".join(["", *sentences]))
    for experiment in experiments:
        _print("" if len(experiments) == 1 else f"\n{experiment.spec.name}")
        _print_summary(experiment.values, experiment.headline)
        for text in growing_seeds.sentences(experiment.spec, experiment.students):
            _print(text)
    for text, names in warned.items():
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        _print(f"warning: {text} ({', '.join(names[:_MAX_NAMES])}{more})")
    return 1 if failed else 0


def _print_result(planned: PlannedRun, result: Finished, headline: Metric, prefix: str) -> None:
    oracle = result.summary.get(f"oracle/{headline.name.partition('/')[2]}")
    # A supplied teacher was not trained here, so it has no best epoch.
    best = "" if oracle is None else f" (best epoch, an oracle: {value_text(oracle, headline.unit, 2)})"
    value = value_text(result.summary[headline.name], headline.unit, 2)
    title = within_sentence(headline.title)
    _print(f"{prefix}{planned.label:<24} seed {planned.spec.seed:<4} {title} {value}{best}")


def _print_summary(results: Mapping[tuple[str, str], Sequence[float]], headline: Metric) -> None:
    """Print one line per method and data set: the images of a folder may have changed between two runs.

    Args:
        results: Values of the headline metric by label and by the hash of the images ("" if not recorded).
    """
    images_differ = len({images for _, images in results}) > 1
    if images_differ:
        _print(
            "warning: the data changed between these runs (a run that had finished before is kept), so runs of "
            "different images are neither averaged nor comparable; give --out another folder to train all of them on "
            "the images of now",
            error=True,
        )
    for (label, images), values in results.items():
        sd = statistics.stdev(values) if len(values) > 1 else None
        identity = f", images {images[:8] or 'not recorded'}" if images_differ else ""
        mean = " ".join(filter(None, (mean_text(statistics.mean(values), sd), headline.unit)))
        _print(f"{label:<24} {mean}  (n = {len(values)}, last epoch, ± sd{identity})")


def _check_networks(spec: ExperimentSpec) -> None:
    """Build the networks that are not in the catalog (timm's), because nothing has checked their names yet."""
    facts = DATASETS[spec.dataset.name].facts(spec.dataset.parsed_params)
    if facts is None:  # a folder: each run checks its own network when it has read the images
        return
    choices = {"student.model": spec.student.model}
    choices |= {".".join(map(str, (*path, "model"))): teacher.model for path, teacher in spec.all_teachers()}
    problems = []
    for path, choice in choices.items():
        if choice.name.startswith(TIMM):
            size = {"num_classes": facts.num_classes, "image_size": facts.image_size, "in_channels": facts.channels}
            try:
                models.build(choice.name, **size, **choice.params)
            except (ValueError, ImportError) as error:
                problems.append(Problem(path, str(error)))
    if problems:
        raise SpecError(problems)


def _check_students(experiment: _Trained, settings: TrainingSettings) -> None:
    """Check what only the images and the networks show, as long as a teacher has still to be trained.

    Raises:
        SpecError: A run cannot be trained.
    """
    plan = experiment.spec.plan()
    trained = [run for run in plan if run.spec.role == "teacher" and not run.spec.uses_weights_unchanged]
    if all(_finished(experiment.folder_of(run), run) for run in trained):
        return
    labels = {kind_of(run.spec): run.label for run in plan}
    waiting = [run.spec for run in plan if run.spec.teachers]
    places = {choice.label: f"methods.{number}" for number, choice in enumerate(experiment.spec.methods)}
    found = rehearse(waiting, [run.spec for run in plan if run.spec.role == "teacher"], settings)
    problems = []
    for spec, reason in found.refused:
        label = labels[kind_of(spec)]
        place, _, text = reason.partition(": ")
        if label in places and place.partition(".")[0] == "method":
            problems.append(Problem(places[label] + place.removeprefix("method"), text))
        else:
            problems.append(Problem(places.get(label, ""), reason))
    if problems:
        raise SpecError(problems)


def _train(
    planned: PlannedRun,
    folder: Path,
    teachers: Sequence[TeacherSource],
    options: TrainOptions,
    parallelism: Parallelism,
    settings: TrainingSettings,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / "run.json"
    run.write_text(planned.spec.model_dump_json(indent=2), encoding="utf-8")
    checkpoint = folder / CHECKPOINT_NAME
    is_same_run = checkpoint.exists() and _fingerprint(folder) == planned.spec.fingerprint()
    (folder / "fingerprint.json").write_text(json.dumps(planned.spec.fingerprint()), encoding="utf-8")
    resume = checkpoint if is_same_run else None
    if parallelism.ranks == 1:
        run_training(planned.spec, folder, teachers, resume, options, settings=settings)
        return
    arguments = ["train", "--run", str(run), "--out", str(folder), "--ranks", str(parallelism.ranks)]
    for number, source in enumerate(teachers, start=1):
        described = folder / ("teacher.json" if number == 1 else f"teacher-{number}.json")
        described.write_text(source.spec.model_dump_json(indent=2), encoding="utf-8")
        arguments += ["--teacher", str(described), "--teacher-weights", str(source.weights)]
    if resume:
        arguments += ["--resume", str(resume)]
    plugins = [word for plugin in parallelism.plugins for word in ("--plugin", plugin)]
    launch(parallelism.ranks, [*plugins, *arguments], folder, settings, options.interruption.request)


def _finished(folder: Path, planned: PlannedRun) -> Finished | None:
    """Return the last event of a run that finished in this folder with the same spec."""
    if _fingerprint(folder) != planned.spec.fingerprint():
        return None
    events = _events(folder)
    return events[-1] if events and isinstance(events[-1], Finished) else None


def _image_identity(folder: Path) -> str:
    """Return the identity of the images of the run in this folder; "" if the run did not record it."""
    started = [event for event in _events(folder) if isinstance(event, Started)]
    return started[-1].environment.get(IMAGES_KEY, "") if started else ""


def _fingerprint(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / "fingerprint.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):  # missing, or half written by a process that was killed
        return None


def _events(folder: Path) -> list[Event]:
    return [record.event for record in read_journal(folder / JOURNAL_NAME)]


def _warnings(folder: Path) -> list[str]:
    """Return the warnings of the run's log, each once."""
    messages = (event.message for event in _events(folder) if isinstance(event, Log) and event.level == "warning")
    return list(dict.fromkeys(" ".join(message.split()) for message in messages))


def _failure_reason(folder: Path) -> str:
    events = _events(folder)
    reasons = [event.reason for event in events if isinstance(event, Failed)]
    # A rank that was ended from outside is not a failure of the run; its log says what happened.
    reasons = reasons or [event.message for event in events if isinstance(event, Log) and event.level == "error"]
    return reasons[-1] if reasons else "it ended without a reason"


def _as_folder_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", label).strip("-")


def _folder_names(labels: Iterable[str]) -> dict[str, str]:
    """Return the beginning of the folders' names by label; labels that differ in special characters get a number."""
    by_label: dict[str, str] = {}
    # A label that is a valid folder name keeps it, whatever its position.
    for label in sorted(dict.fromkeys(labels), key=lambda label: _as_folder_name(label) != label):
        base = name = _as_folder_name(label)
        number = 1
        # Names that differ in their case alone are the same folder on some file systems.
        while name.lower() in {used.lower() for used in by_label.values()}:
            number += 1
            name = f"{base}-{number}"
        by_label[label] = name
    return by_label


def _print(text: str, *, error: bool = False) -> None:
    print(text, file=sys.stderr if error else sys.stdout, flush=True)
