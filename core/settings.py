"""The settings that a training takes from its environment, read once at the entrance. Free of torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from core.events import GPUS_GIVEN, MOST_THREADS, THREADS

_CACHE = "~/.cache/dkd-lab"


class SettingsError(ValueError):
    """One or more environment variables have a value that cannot be used; the message names each of them."""


def _absolute_path(value: Any) -> Any:
    # A Path from here on: a byte of a path that is not UTF-8 is a lone surrogate, which pydantic refuses in a str.
    return Path(os.path.expanduser(value)).absolute() if isinstance(value, str | Path) else value


def _paths(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(_absolute_path(name) for name in value.split(os.pathsep) if name)
    return value


def _names(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


def _switch(value: Any) -> Any:
    if value not in ("0", "1", False, True):
        raise ValueError("neither 0 nor 1")
    return value in ("1", True)


def _whole_number(value: Any) -> Any:
    if isinstance(value, str) and not value.isdecimal():
        raise ValueError("not a whole number")
    return value


AbsolutePath = Annotated[Path, BeforeValidator(_absolute_path)]
Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]
Switch = Annotated[bool, BeforeValidator(_switch)]
WholeNumber = Annotated[int, BeforeValidator(_whole_number)]


class TrainingSettings(BaseSettings):
    """The settings of a training on this machine. None of them is part of a spec or changes what a spec means.

    An empty environment variable counts as unset. The description of a field completes the sentence "the variable
    must be …", which ``from_environment`` raises for a value that cannot be used.

    Attributes:
        data_dir: The folder with the data sets. It need not exist.
        data_roots: Other folders in which a spec may name a path.
        packs: The folder for packed images; ``pack_dir`` completes it with the default.
        cache_dir: The folder for what a training can compute again. It need not exist.
        uploads: The folder with the uploaded weights that the worker has fetched for the run; None without a worker.
        download: Whether a missing data set or missing published weights may be downloaded.
        max_weights_gb: The largest file of weights that is read or fetched, in gigabytes (10⁹ bytes).
        teacher_logits_gb: The limit of all cached outputs of teachers together, in gigabytes; 0 caches none.
        checkpoint_seconds: The least time between two checkpoints of a run that a worker starts.
        threads: The number of CPU threads; None lets the trainer decide by the work.
        max_threads: The largest number of CPU threads; None for as many as the process may use processors.
        gpus_given: The number of GPUs that a worker has reserved for the training.
        plugins: Modules that add entries to the catalog.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, case_sensitive=True, validate_by_name=True
    )

    data_dir: AbsolutePath = Field(
        default_factory=lambda: _absolute_path(f"{_CACHE}/datasets"),
        validation_alias="DATA_DIR",
        description="a folder",
    )
    data_roots: Paths = Field(
        (), validation_alias="DKD_DATA_ROOTS", description="a list of folders, separated by colons"
    )
    packs: AbsolutePath | None = Field(None, validation_alias="DKD_PACK_DIR", description="a folder")
    cache_dir: AbsolutePath = Field(
        default_factory=lambda: _absolute_path(_CACHE), validation_alias="DKD_CACHE_DIR", description="a folder"
    )
    uploads: AbsolutePath | None = Field(None, validation_alias="DKD_UPLOADS", description="a folder")
    download: Switch = Field(
        False, validation_alias="DKD_DOWNLOAD", description="1 to allow downloads, 0 or empty to forbid them"
    )
    max_weights_gb: float = Field(
        16.0, gt=0, lt=1e9, validation_alias="DKD_MAX_WEIGHTS_GB", description="a number of gigabytes above 0"
    )
    teacher_logits_gb: float = Field(
        20.0,
        ge=0,
        lt=1e9,
        validation_alias="DKD_TEACHER_LOGITS_GB",
        description="a number of gigabytes, 0 to cache no teacher logits",
    )
    checkpoint_seconds: float = Field(
        60.0, ge=0, le=1e9, validation_alias="DKD_CHECKPOINT_SECONDS", description="a number of seconds from 0 to 1e9"
    )
    threads: WholeNumber | None = Field(
        None, ge=1, validation_alias=THREADS, description="a positive number of threads"
    )
    max_threads: WholeNumber | None = Field(
        None, ge=1, validation_alias=MOST_THREADS, description="a positive number of threads"
    )
    gpus_given: WholeNumber = Field(0, ge=0, validation_alias=GPUS_GIVEN, description="a number of GPUs")
    plugins: Names = Field(
        (), validation_alias="DKD_PLUGINS", description="a list of Python modules, separated by commas"
    )

    @property
    def pack_dir(self) -> Path:
        """The folder for packed images: by default ``.packed`` in ``data_dir``."""
        return self.packs or self.data_dir / ".packed"

    @property
    def max_weights_bytes(self) -> int:
        """The largest file of weights that is read or fetched, in bytes."""
        return int(self.max_weights_gb * 1e9)

    @property
    def teacher_logits_bytes(self) -> int:
        """The limit of all cached outputs of teachers together, in bytes."""
        return int(self.teacher_logits_gb * 1e9)

    @classmethod
    def from_environment(cls) -> Self:
        """Read the settings from the environment of this process.

        Raises:
            SettingsError: A variable has a value that cannot be used.
        """
        try:
            return cls()
        except ValidationError as error:
            raise SettingsError("; ".join(_problem(name) for name in _variables(error))) from None


def _variables(error: ValidationError) -> list[str]:
    """Return the names of the variables at fault, each once."""
    return list(dict.fromkeys(str(item["loc"][0]) for item in error.errors(include_url=False)))


def _problem(variable: str) -> str:
    field = next(field for field in TrainingSettings.model_fields.values() if field.validation_alias == variable)
    return f"{variable} is {os.environ.get(variable, '')!r}; it must be {field.description}"
