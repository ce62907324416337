"""The training engine."""

from core.training.errors import MachineError, TrainingError
from core.training.run import TeacherSource, run_rank, run_training
from core.training.stopping import Options, stop_on_sigterm

__all__ = ["MachineError", "Options", "TeacherSource", "TrainingError", "run_rank", "run_training", "stop_on_sigterm"]
