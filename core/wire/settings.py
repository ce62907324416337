"""Where the services' settings come from: the environment, then files that are secret."""

from __future__ import annotations

import os

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource

_FOLDERS = "DKD_SECRETS"


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
