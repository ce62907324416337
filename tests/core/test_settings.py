"""The settings of a training: read from the environment, typed, and refused with the name of the variable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from core import cli
from core.events import MACHINE_EXIT
from core.settings import SettingsError, TrainingSettings

VARIABLES = [str(field.validation_alias) for field in TrainingSettings.model_fields.values()]


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_defaults_are_below_the_home_folder(tmp_path: Path) -> None:
    settings = TrainingSettings.from_environment()
    assert settings.data_dir == tmp_path / ".cache/dkd-lab/datasets"
    assert settings.pack_dir == settings.data_dir / ".packed"
    assert settings.cache_dir == tmp_path / ".cache/dkd-lab"
    assert (settings.download, settings.data_roots, settings.uploads, settings.plugins) == (False, (), None, ())
    assert (settings.max_weights_bytes, settings.teacher_logits_bytes) == (16 * 10**9, 20 * 10**9)
    assert (settings.checkpoint_seconds, settings.threads, settings.max_threads, settings.gpus_given) == (
        60,
        None,
        None,
        0,
    )


def test_empty_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = TrainingSettings.from_environment()
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    assert TrainingSettings.from_environment() == defaults


def test_values_are_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {
        "DATA_DIR": "~/data",
        "DKD_DATA_ROOTS": f"/a:~/b{os.pathsep}",
        "DKD_PACK_DIR": "/packs",
        "DKD_UPLOADS": "/uploads",
        "DKD_DOWNLOAD": "1",
        "DKD_TEACHER_LOGITS_GB": "0.5",
        "DKD_CHECKPOINT_SECONDS": "2.5",
        "DKD_THREADS": "3",
        "DKD_GPUS_GIVEN": "2",
        "DKD_PLUGINS": "one, two.three,",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = TrainingSettings.from_environment()
    assert (settings.data_dir, settings.data_roots) == (tmp_path / "data", (Path("/a"), tmp_path / "b"))
    assert (settings.pack_dir, settings.uploads, settings.download) == (Path("/packs"), Path("/uploads"), True)
    assert (settings.teacher_logits_bytes, settings.checkpoint_seconds) == (5 * 10**8, 2.5)
    assert (settings.threads, settings.gpus_given, settings.plugins) == (3, 2, ("one", "two.three"))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DKD_DOWNLOAD", "yes"),
        ("DKD_MAX_WEIGHTS_GB", "0"),
        ("DKD_MAX_WEIGHTS_GB", "nan"),
        ("DKD_TEACHER_LOGITS_GB", "-1"),
        ("DKD_MAX_WEIGHTS_GB", "inf"),
        ("DKD_TEACHER_LOGITS_GB", "nan"),
        ("DKD_CHECKPOINT_SECONDS", "soon"),
        ("DKD_CHECKPOINT_SECONDS", "nan"),
        ("DKD_CHECKPOINT_SECONDS", "inf"),
        ("DKD_CHECKPOINT_SECONDS", "-1"),
        ("DKD_THREADS", "0"),
        ("DKD_MOST_THREADS", "two"),
        ("DKD_GPUS_GIVEN", "-1"),
    ],
)
def test_invalid_value_is_refused_by_name(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=rf"^{variable} is '{value}'; it must be "):
        TrainingSettings.from_environment()


def test_all_invalid_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_THREADS", "many")
    monkeypatch.setenv("DKD_DOWNLOAD", "maybe")
    with pytest.raises(SettingsError, match=r"DKD_DOWNLOAD .*; DKD_THREADS "):
        TrainingSettings.from_environment()


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainingSettings.from_environment().threads = 2  # type: ignore[misc]


def test_command_line_reports_an_invalid_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DKD_THREADS", "many")
    assert cli.main(["catalog"]) == 2
    assert "DKD_THREADS is 'many'; it must be a positive number of threads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("DKD_CHECKPOINT_SECONDS", "nan", "DKD_CHECKPOINT_SECONDS is 'nan'; it must be a number of seconds"),
        ("DKD_PLUGINS", "plugin_of_nobody", "the plug-in plugin_of_nobody cannot be imported: No module named"),
        ("DKD_PLUGINS", "broken_plugin", "the plug-in broken_plugin cannot be imported: not on this machine"),
    ],
)
def test_unusable_environment_is_a_machine_error_in_a_run_of_a_worker(
    variable: str,
    value: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('not on this machine')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(variable, value)
    assert cli.main(["train", "--run", "run.json", "--out", str(tmp_path)]) == MACHINE_EXIT
    assert capsys.readouterr().err.startswith(reason)
    assert cli.main(["catalog"]) == 2, "a person started this one"


def test_settings_need_no_torch() -> None:
    code = "import sys, core.settings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
