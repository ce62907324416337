"""The training engine."""

from core.train.errors import MachineError, TrainingError
from core.train.interruption import TrainOptions, stop_on_sigterm
from core.train.job import TeacherSource
from core.train.run import run_rank, run_training

__all__ = [
    "MachineError",
    "TeacherSource",
    "TrainOptions",
    "TrainingError",
    "run_rank",
    "run_training",
    "stop_on_sigterm",
]
