"""The training engine."""

from core.training.errors import MachineError, TrainingError
from core.training.interruption import TrainOptions, stop_on_sigterm
from core.training.job import TeacherSource
from core.training.run import run_rank, run_training

__all__ = [
    "MachineError",
    "TeacherSource",
    "TrainOptions",
    "TrainingError",
    "run_rank",
    "run_training",
    "stop_on_sigterm",
]
