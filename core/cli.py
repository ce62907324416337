"""``python -m core``: train a spec without any service, train one run for a worker, or print the catalog.

Exit codes: 0 success (or stopped with a checkpoint); 1 a training failed; 2 the input cannot be used; 130 interrupted;
75 a fault of the machine, for example a full disk. For ``train`` and ``group``, 75 is also an environment that cannot
be used.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from common.terminal import printable_json
from core import catalog, launch, training_command
from core.deploy import arguments as deploy_arguments
from core.events import MACHINE_EXIT, is_full_disk
from core.settings import SettingsError, TrainingSettings
from core.specs import Problem, SpecError, load_file, parse_experiment, parse_sweep, problems_of
from core.specs.sweep import expand

if TYPE_CHECKING:
    from core.train.run import Result

# Not taken from the docstring, which ``python -OO`` (PYTHONOPTIMIZE=2) removes.
_DESCRIPTION = "Train a spec without any service, train one run for a worker, or print the catalog."


class UsageError(Exception):
    """A command-line argument cannot be used."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None for those of this process.

    Returns:
        The exit code.
    """
    launch.wait_briefly()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    try:
        options.settings = TrainingSettings.from_environment()
        catalog.load_plugins([*options.settings.plugins, *options.plugin])
    except (SettingsError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        # A worker's environment makes all runs fail that the worker claims, and another worker may train them.
        return MACHINE_EXIT if options.command in (_train, _group) else 2
    try:
        return int(options.command(options))
    except (UsageError, deploy_arguments.UsageError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except SpecError as error:
        for problem in error.problems:
            complete = not options.input or problem.message.startswith(f"cannot read {options.input}: ")
            print(problem if complete else f"{options.input}: {problem}", file=sys.stderr)  # noqa: T201
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m core", description=_DESCRIPTION)
    parser.add_argument("--plugin", action="append", default=[], help="a module that adds to the catalog; repeatable")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="train all runs of an experiment, or of a sweep, in this process")
    run.add_argument("input", type=Path, metavar="SPEC.yaml")
    run.add_argument(
        "--out", type=Path, required=True, help="the folder for weights and journals; finished runs in it are kept"
    )
    _add_ranks(run)
    run.set_defaults(command=_run)

    train = commands.add_parser("train", help="train one run; workers start this command")
    training_command.add_arguments(train)
    _add_ranks(train)
    train.set_defaults(command=_train)

    group = commands.add_parser("group", help="train several runs in one process; workers start this command")
    group.add_argument(
        "--control", type=int, required=True, metavar="FD", help="the inherited socket from which runs come"
    )
    group.set_defaults(command=_group, input=None)

    conversion = commands.add_parser("convert", help="convert a published checkpoint into a teacher's weights")
    conversion.add_argument(
        "input",
        type=Path,
        metavar="IN.pth",
        help="a file of torch.save, a pickle, or safetensors; code in it is never run",
    )
    conversion.add_argument(
        "out", type=Path, metavar="OUT.safetensors", help="the output, always in the safetensors format"
    )
    conversion.add_argument("--model", required=True, metavar="NAME", help="the network's name in the catalog")
    conversion.add_argument("--num-classes", type=int, required=True, metavar="C")
    conversion.add_argument("--image-size", type=int, metavar="PX", help="default: the network's usual size")
    conversion.add_argument("--channels", type=int, default=3, help="channels of an image; default: 3")
    conversion.add_argument("--params", type=_json_object, default={}, metavar="JSON", help="the network's parameters")
    conversion.add_argument(
        "--container",
        default="",
        metavar="NAME",
        help="the place of the weights in the checkpoint, for example model_ema or state.model; default: a moving "
        "average (EMA) if there is one, else what fits the network",
    )
    conversion.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="PATTERN",
        help="keys to leave out, for example 'aux_head.*'; repeatable",
    )
    conversion.add_argument(
        "--mean",
        type=float,
        nargs="+",
        default=[],
        metavar="M",
        help="mean of each channel that the weights expect, 0 to 1",
    )
    conversion.add_argument(
        "--std", type=float, nargs="+", default=[], metavar="S", help="standard deviation of each channel, with --mean"
    )
    conversion.set_defaults(command=_convert)

    deploy_arguments.add_to(commands)

    listing = commands.add_parser("catalog", help="list the names that a spec may use")
    listing.add_argument("--json", action="store_true", help="the whole catalog with parameters, as JSON")
    listing.set_defaults(command=_catalog, input=None)
    return parser


def _add_ranks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ranks",
        type=_process_count,
        default=1,
        metavar="N",
        help="processes that share each batch; if there are GPUs, N of them must be visible, one for each process",
    )


def _process_count(text: str) -> int:
    number = int(text) if re.fullmatch("[0-9]{1,4}", text) else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of processes")
    return number


def _json_object(text: str) -> dict[str, Any]:
    try:
        params = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not JSON: {error}") from None
    if not isinstance(params, dict):
        raise argparse.ArgumentTypeError(f"{text} is not a JSON object of parameters")
    return params


def _run(options: argparse.Namespace) -> int:
    from core.standalone import Parallelism, run_experiment, run_sweep  # imports torch, which takes seconds
    from core.train import MachineError

    parallelism = Parallelism(options.ranks, tuple(options.plugin))
    data = load_file(options.input)
    train: Callable[..., int]
    if isinstance(data, dict) and "experiment" in data:  # only a sweep has this field
        train = partial(run_sweep, expand(parse_sweep(data)))
    else:
        train = partial(run_experiment, parse_experiment(data))
    try:
        _make_folder(options.out)
        return train(options.out, parallelism, options.settings)
    except MachineError as error:
        sys.stderr.write(f"{error}\n")
        return MACHINE_EXIT
    except OSError as error:
        sys.stderr.write(f"{error.filename or options.out}: {error.strerror or error}\n")
        return MACHINE_EXIT if is_full_disk(error) else 1


def _make_folder(out: Path) -> None:
    """Create a folder if it is missing. Raises UsageError if that fails, or nothing can be written into it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return
    except OSError as error:
        if is_full_disk(error):
            raise
        reason = error.strerror or str(error)
        if isinstance(error, FileExistsError):
            reason = "it exists and is not a folder" if out.exists() else "it is a link to nothing"
        raise UsageError(f"--out {out}: {reason}") from None


def _train(options: argparse.Namespace) -> int:
    settings: TrainingSettings = options.settings
    request = training_command.TrainingRequest.read(options)
    info = launch.rank_from_env()
    if options.ranks > 1 and info is None:
        code = launch.launch(options.ranks, options.arguments, options.out, settings)
        return code if code >= 0 else launch.exit_by_signal(-code)
    with launch.collection_after_start() as begin:
        status = _train_here(request, info, settings, begin)
    with contextlib.suppress(OSError):  # stderr may be a file on the same disk
        sys.stderr.write(f"{status.text}\n" if status.text else "")
    return status.code


def _train_here(
    request: training_command.TrainingRequest,
    info: launch.RankInfo | None,
    settings: TrainingSettings,
    on_prepared: Callable[[], None],
) -> training_command.ExitStatus:
    """Train in this process; return how it ended."""
    from core.train import TrainOptions, run_rank, run_training, stop_on_sigterm

    start = TrainOptions(checkpoint_seconds=settings.checkpoint_seconds, on_prepared=on_prepared)
    arguments = request.arguments() | {"settings": settings}

    def train() -> Result:
        if info:
            return run_rank(info, options=start, **arguments)
        with stop_on_sigterm(start) as stoppable:
            return run_training(options=stoppable, **arguments)

    return training_command.exit_status(train)


def _group(options: argparse.Namespace) -> int:
    from core.group import serve  # imports torch, which takes seconds

    return serve(options.control, options.settings)


def _convert(options: argparse.Namespace) -> int:
    try:
        size = options.image_size or catalog.MODELS[options.model].usual_image_size
        from core.tasks.classification.models.convert import ConvertOptions, ModelShape, convert

        shape = ModelShape(options.model, options.num_classes, size, options.channels, options.params)
        choices = ConvertOptions(options.container, tuple(options.drop), tuple(options.mean), tuple(options.std))
        result = convert(options.input, options.out, shape, choices, max_bytes=options.settings.max_weights_bytes)
    except ValidationError as error:
        raise SpecError(problems_of(error)) from None
    except ValueError as error:
        raise SpecError([Problem("", str(error))]) from None
    except OSError as error:
        raise SpecError([Problem("", f"{options.out} cannot be written: {error.strerror or error}")]) from None
    for note in result.notes:
        print(f"note: {note}")  # noqa: T201
    metadata = result.metadata
    if metadata.classes:
        names = ", ".join(metadata.classes[:5])
        print(f"note: the weights name their classes: {names} …; the names are kept")  # noqa: T201
    if metadata.top1 is not None:
        claim = f"an accuracy of {metadata.top1:.2f} %"
        print(f"note: the file claims {claim}, which a run compares with its own measurement")  # noqa: T201
    print(f"{options.out}: {options.model}, {result.parameters:,} parameters")  # noqa: T201
    return 0


def _catalog(options: argparse.Namespace) -> int:
    if options.json:
        print(printable_json(json.dumps(catalog.describe(), indent=2, ensure_ascii=False)))  # noqa: T201
        return 0
    kinds = (catalog.METHODS, catalog.MODELS, catalog.DATASETS, catalog.OPTIMIZERS, catalog.AUGMENTATIONS)
    for kind in kinds:
        print(f"{kind.kind}s")  # noqa: T201
        for entry in kind:
            print(f"  {entry.name:<12} {entry.summary}")  # noqa: T201
    return 0
