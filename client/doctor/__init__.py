"""``dkd doctor``: checks of this machine's installation, each with what to do if it fails."""

from client.doctor.checks import ALL_CHECKS
from client.doctor.runner import Check, Finding, Report, run_checks

__all__ = ["ALL_CHECKS", "Check", "Finding", "Report", "run_checks"]
