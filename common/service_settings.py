"""Settings of the services, from the environment and from secret files."""

from __future__ import annotations

import difflib
import os
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource

_FOLDERS = "DKD_SECRETS"
_PREFIX = "DKD_"
_MISSPELT = 0.85
"""Similarity of a misspelling. Variables of other processes are less similar: worker_token, worker_token_file."""

Seconds = Annotated[float, Field(ge=0, le=1e9)]
"""A duration of at most 30 years: with an infinite one, or with one of a million years, no time can be computed."""
Minutes = Annotated[float, Field(ge=0, le=1e7)]
Hours = Annotated[float, Field(ge=0, le=1e5)]


class ServiceSettings(BaseSettings):
    """Settings that may also be files ``dkd_NAME`` in one of the folders that ``DKD_SECRETS`` lists.

    The environment of a process can be read by anybody who can list processes or inspect the container, and every child
    inherits it. If both are given, the environment takes precedence. Folders are separated by colons, as in ``PATH``.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in the order of precedence; see pydantic-settings."""
        folders = [folder for folder in os.environ.get(_FOLDERS, "").split(os.pathsep) if folder]
        files = SecretsSettingsSource(settings_cls, secrets_dir=list(folders) if folders else None)
        return init_settings, env_settings, files

    @classmethod
    def misspelled_variables(cls) -> list[str]:
        """Return a sentence for each environment variable that seems to be a misspelled setting."""
        variables = [name for name in os.environ if name.upper().startswith(_PREFIX)]
        settings = {name.upper() for name in cls.model_fields}
        sentences = []
        for name in sorted(variables):
            setting = name.upper().removeprefix(_PREFIX)
            similar = difflib.get_close_matches(setting.replace("-", "_"), settings, n=1, cutoff=_MISSPELT)
            if setting not in settings and similar:
                sentences.append(f"{name} is not a setting and has no effect; did you mean {_PREFIX}{similar[0]}?")
        return sentences


def settings_problems(error: ValidationError) -> list[str]:
    """Return the problem of each setting, with the name of its variable."""
    sentences = []
    for item in error.errors(include_url=False):
        name = _PREFIX + "_".join(str(part) for part in item["loc"]).upper() if item["loc"] else ""
        message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        sentences.append(f"{name}: {message}" if name else message)
    return sentences
