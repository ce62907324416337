"""The training engine."""

from core.training.errors import TrainingError
from core.training.run import TeacherSource, run_rank, run_training
from core.training.stopping import Options, stop_on_sigterm

__all__ = ["Options", "TeacherSource", "TrainingError", "run_rank", "run_training", "stop_on_sigterm"]
