"""``dkd doctor``: checks of this machine's installation, each with the action that solves its problem."""

from client.doctor.checks import ALL_CHECKS
from client.doctor.runner import Check, Finding, Report, run_checks

__all__ = ["ALL_CHECKS", "Check", "Finding", "Report", "run_checks"]
