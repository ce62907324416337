"""Where the services' settings come from: the environment, then files that are secret."""

from __future__ import annotations

import difflib
import os

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource

_FOLDERS = "DKD_SECRETS"
_PREFIX = "DKD_"
_MISSPELT = 0.85
"""Alike enough to be a slip. The variables of the other processes are less alike: worker_token, worker_token_file."""


class ServiceSettings(BaseSettings):
    """Settings of which each may also be a file ``dkd_NAME`` in one of the folders that ``DKD_SECRETS`` lists.

    What is in a process's environment is seen by whoever lists processes or inspects a container, and is handed to
    every child; the environment wins all the same, since it is the nearer word of the two. Folders are separated by
    colons, as in ``PATH``.
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
        """See pydantic-settings."""
        folders = [folder for folder in os.environ.get(_FOLDERS, "").split(os.pathsep) if folder]
        files = SecretsSettingsSource(settings_cls, secrets_dir=list(folders) if folders else None)
        return init_settings, env_settings, files

    @classmethod
    def misspelled_variables(cls) -> list[str]:
        """A sentence for each variable of the environment that is nearly, and not quite, a setting."""
        given = [name for name in os.environ if name.upper().startswith(_PREFIX)]
        known = {name.upper() for name in cls.model_fields}
        said = []
        for name in sorted(given):
            bare = name.upper().removeprefix(_PREFIX)
            near = difflib.get_close_matches(bare.replace("-", "_"), known, n=1, cutoff=_MISSPELT)
            if bare not in known and near:
                said.append(f"{name} is no setting and has no effect; did you mean {_PREFIX}{near[0]}?")
        return said


def settings_problems(error: ValidationError) -> list[str]:
    """What is wrong with each setting, by the name of its variable."""
    said = []
    for item in error.errors(include_url=False):
        name = _PREFIX + "_".join(str(part) for part in item["loc"]).upper() if item["loc"] else ""
        message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        said.append(f"{name}: {message}" if name else message)
    return said
