"""The error about a package that an exporter needs."""

from __future__ import annotations


class MissingPackageError(Exception):
    """A package is not installed; the message says how to install it.

    Args:
        package: The package.
        extra: The extra that contains it; empty if none does.
    """

    def __init__(self, package: str, extra: str = "export") -> None:
        own = f"pip install 'dkd-lab[{extra}]', or " if extra else ""
        super().__init__(f"{package} is not installed; {own}pip install {package}")
