"""Take the screenshots of the dashboard in docs/images: ``python -m docs.screenshots``.

The script needs Chromium and takes some minutes. It starts an embedded stack with real content on scikit-learn's
digits: the finished comparison of the demo, a finished one of object detection, a finished sweep, a long experiment
that is training, one that fails, and some that wait. Each page is captured at widths of 1440 and 390 px, some pages
also in dark mode. ``--home DIR`` keeps the stack's folder, so that the next call does not train the demo again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from client import Client
from client.demo import example
from client.stack import Stack, StackOptions, StopSignals, embedded_plan
from client.stack.services import connect
from common.home import Home
from core.protocol.public import TERMINAL, Experiment
from core.specs import read_experiment
from tests import browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

OUT = Path(__file__).parent / "images"
_HIGHEST = {"1440": 2400, "390": 2600}
"""Maximum height of a screenshot in px by width; the rest of the page is cut off."""
_MINUTES = 30
_STUDENT: dict[str, Any] = {"model": {"name": "small_cnn", "params": {"width": 8}}}
_LONG: dict[str, Any] = {
    "name": "longer-training",
    "notes": "Does the order of the methods hold after 2,000 epochs?",
    "tags": ["convergence"],
    "dataset": "digits",
    "teacher": {"model": "resnet20", "training": {"epochs": 30, "optimizer": {"lr": 0.1}}},
    "student": _STUDENT,
    "methods": ["dkd", "kd"],
    "seeds": [0, 1],
    "training": {"epochs": 2000, "optimizer": {"lr": 0.05}},
    "priority": 5,
}
_DETECTOR: dict[str, Any] = {"name": "faster_rcnn", "params": {"backbone": "resnet8", "fpn_channels": 32}}
_SCENES = {"train_size": 320, "test_size": 300, "image_size": 72, "max_digits": 4, "max_digit": 32, "clutter": 3}
_DETECTION: dict[str, Any] = {
    "name": "scenes-of-digits",
    "tags": ["detection"],
    "dataset": {"name": "digit_scenes", "params": _SCENES},
    "teacher": {
        "model": {"name": "faster_rcnn", "params": {"backbone": "resnet20", "fpn_channels": 32}},
        "training": {"epochs": 14},
    },
    "student": {"model": _DETECTOR},
    "methods": ["pkd"],
    "seeds": [0],
    "training": {"epochs": 8},
}
_SWEEP: dict[str, Any] = {
    "name": "rates-and-batches",
    "experiment": {
        "dataset": "digits",
        "student": _STUDENT,
        "methods": ["ce"],
        "seeds": [0, 1],
        "training": {"epochs": 4},
    },
    "grid": {"training.optimizer.lr": [0.01, 0.05, 0.2], "training.batch_size": [32, 128]},
}
_OTHERS: tuple[dict[str, Any], ...] = (
    {
        "name": "teacher-from-a-file",
        "tags": ["weights"],
        "dataset": "digits",
        "teacher": {"model": "resnet20", "weights": "resnet20-digits.safetensors"},
        "student": _STUDENT,
        "methods": ["dkd"],
        "seeds": [0, 1],
        "training": {"epochs": 40},
        "priority": 10,
    },
    {
        "name": "wide-students-on-the-cluster",
        "tags": ["paper", "gpu"],
        "dataset": "cifar100",
        "teacher": {"model": "resnet56", "training": {"epochs": 240}},
        "student": {"model": "resnet20"},
        "methods": ["kd", "dkd"],
        "seeds": "0..4",
        "training": {"epochs": 240},
        "resources": {"device": "gpu", "labels": ["h200"]},
    },
    {
        "name": "temperatures",
        "tags": ["paper"],
        "dataset": "digits",
        "student": _STUDENT,
        "methods": ["ce"],
        "seeds": "0..9",
        "training": {"epochs": 40},
        "priority": -5,
    },
)


@dataclass(frozen=True)
class Shot:
    """A page and how it is captured.

    Attributes:
        name: name of the image.
        address: address relative to the dashboard's root.
        charts: number of traces that must be drawn first.
        dark: whether the page is also captured in dark mode.
        before: interaction with the page before the screenshot.
    """

    name: str
    address: str
    charts: int = 0
    dark: bool = False
    before: Callable[[Page], None] | None = None


def _demo_form(page: Page) -> None:
    page.get_by_role("button", name="Digits demo").click()
    page.get_by_text("This experiment has").first.wait_for()
    page.mouse.move(700, 700)  # away from the button, whose tooltip would cover the title
    browser.wait_until_drawn(page)


def shots(finished: Experiment, detection: Experiment, active: Experiment) -> list[Shot]:
    """Return the screenshots of all pages.

    Args:
        finished: an experiment whose runs have succeeded.
        detection: an experiment of object detection whose runs have succeeded.
        active: an experiment with a running run.
    """
    student = next(run for run in finished.runs if run.label.startswith("dkd_align"))
    running = next((run for run in active.runs if run.state == "running"), active.runs[-1])
    return [
        Shot("overview", "", dark=True),
        Shot("new", "new", before=_demo_form),
        Shot("runs", "runs?sort=last+started", dark=True),
        Shot("experiments", "runs?view=Experiments"),
        Shot("experiment", f"experiment?id={active.id}"),
        Shot("sweep", f"sweep?name={_SWEEP['name']}"),
        Shot("run", f"run?id={student.id}", charts=4),
        Shot("run-live", f"run?id={running.id}", charts=2),
        Shot("predictions", f"run?id={student.id}&part=Predictions", charts=4),
        Shot("detections", f"run?id={detection.runs[-1].id}&part=Detections", charts=5),
        Shot("compare", f"compare?experiment={finished.id}", charts=3, dark=True),
        Shot("results", "results", dark=True),
        Shot("leaderboard", "leaderboard"),
        Shot("loss", "loss", charts=1, dark=True),
        Shot("teachers", "teachers"),
        Shot("workers", "workers"),
    ]


def take(shot: Shot, stack: Stack, running: Browser, width: str, scheme: str) -> None:
    """Take one screenshot with at most 256 colours, which is a fifth of the size without a visible difference."""
    wide, high = browser.WIDTHS[width]
    context = running.new_context(
        viewport={"width": wide, "height": high}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(stack.dashboard_address(shot.address))
    browser.wait_until_drawn(page, charts=shot.charts)
    if shot.before:
        shot.before(page)
    path = OUT / f"{shot.name}-{width}{'-dark' if scheme == 'dark' else ''}.png"
    browser.save_screenshot(page, path, most=_HIGHEST[width])
    if errors := browser.error_texts(page):
        raise RuntimeError(f"{shot.name} shows {errors}")
    context.close()
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


@contextmanager
def content(api: Client) -> Iterator[tuple[Experiment, Experiment, Experiment]]:
    """Create the content; yield the two finished experiments and the active one. Unfinished ones are deleted."""
    existing = {item.name for item in api.experiments(limit=500).items}
    spec = read_experiment(example())
    kept: dict[str, Any] = {spec.name: spec, _DETECTION["name"]: _DETECTION}
    for name, made_once in kept.items():
        if name not in existing:
            api.submit(made_once)
    finished, detection = (
        _until(api, name, lambda item: item.state in ("finished", "failed", "cancelled")) for name in kept
    )
    if not any(item.name == _SWEEP["name"] for item in api.sweeps.list().items):
        for one in api.sweep(_SWEEP).items:
            _until(api, one.id, lambda item: item.state == "finished")
    for other in _OTHERS[:1]:  # it fails at once, before the slots are in use
        if other["name"] not in existing:
            api.submit(other)
            _until(api, other["name"], lambda item: item.state == "failed")
    made = [api.submit({**one, "name": _free(one["name"], existing)}) for one in (_LONG, *_OTHERS[1:])]
    try:
        active = _until(
            api, made[0].id, lambda item: any(run.state == "running" and run.epoch > 25 for run in item.runs)
        )
        yield finished, detection, active
    finally:
        for experiment in made:
            api.cancel_experiment(experiment.id)
            _until(api, experiment.id, lambda item: all(run.state in TERMINAL for run in item.runs))
            api.delete_experiment(experiment.id)


def _free(name: str, existing: set[str]) -> str:
    return name if name not in existing else _free(f"{name}-again", existing)


def _until(api: Client, key: str, ready: Callable[[Experiment], bool]) -> Experiment:
    end = time.monotonic() + 60 * _MINUTES
    while not ready(experiment := api.experiment(key)):
        if time.monotonic() > end:
            raise TimeoutError(f"{key} is {experiment.counts.model_dump()} after {_MINUTES} min")
        time.sleep(1)
    return experiment


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="folder of the stack; by default a temporary one")
    parser.add_argument("--only", nargs="*", help="names of the pages to capture; by default all")
    given = parser.parse_args(arguments)
    OUT.mkdir(exist_ok=True)
    os.environ["DATA_DIR"] = "/data"  # appears in the reason of the failed run
    with contextlib.ExitStack() as cleared, StopSignals() as signals:
        home = Home(given.home or Path(cleared.enter_context(tempfile.TemporaryDirectory())))
        options = StackOptions(home=home, slots=2)
        with Stack(options, embedded_plan(options), signals, _say) as stack:
            stack.start()
            with connect(home, stack.api_url) as api, content(api) as experiments, browser.browser() as running:
                for shot in shots(*experiments):
                    if given.only and shot.name not in given.only:
                        continue
                    for width in browser.WIDTHS:
                        take(shot, stack, running, width, "light")
                    if shot.dark:
                        take(shot, stack, running, "1440", "dark")
                    _say(shot.name)


if __name__ == "__main__":
    main()
