"""The list of checks."""

from __future__ import annotations

from client.doctor.mps import check_mps
from client.doctor.packages import check_packages, check_python
from client.doctor.runner import Check
from client.doctor.services import check_backend, check_broker, check_ports, check_tokens
from client.doctor.settings import check_settings
from client.doctor.storage import check_database, check_datasets, check_disk
from client.doctor.torch_build import IMPORT_SECONDS, check_torch

ALL_CHECKS = (
    Check("python", check_python),
    Check("packages", check_packages),
    Check("torch", check_torch, seconds=IMPORT_SECONDS),
    Check("mps", check_mps),
    Check("disk", check_disk),
    Check("datasets", check_datasets),
    Check("ports", check_ports),
    Check("backend", check_backend),
    Check("tokens", check_tokens),
    Check("broker", check_broker),
    Check("database", check_database),
    Check("settings", check_settings),
)
