"""The training engine."""

from core.errors import MachineError, TrainingError
from core.tasks.task import TeacherSource
from core.train.interruption import TrainOptions, stop_on_sigterm
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
