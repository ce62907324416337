"""The training engine."""

from core.training.engine import Options
from core.training.errors import TrainingError
from core.training.run import TeacherSource, run_training, stop_on_sigterm

__all__ = ["Options", "TeacherSource", "TrainingError", "run_training", "stop_on_sigterm"]
