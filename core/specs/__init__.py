"""Typed specs: what a person writes (``ExperimentSpec``) and one training of it (``RunSpec``). Free of torch."""

from core.specs.augment import AugmentationRef
from core.specs.components import (
    DatasetRef,
    MethodRef,
    ModelRef,
    Resources,
    WeightedMethod,
    WorkerLabel,
)
from core.specs.derivation import detach_derived_fields, editable_copy
from core.specs.experiment import ExperimentSpec, PlannedRun, StudentSpec
from core.specs.field_paths import field_at, with_field, with_fields
from core.specs.loading import (
    MAX_CHARACTERS,
    dump_text,
    load_bytes,
    load_file,
    load_text,
    parse_experiment,
    parse_stored_experiment,
    parse_text,
    read_experiment,
    to_yaml,
)
from core.specs.problems import Problem, SpecError, problems_of
from core.specs.run import RunSpec
from core.specs.seeds import UntilDecided
from core.specs.sweep import SweepSpec, parse_sweep
from core.specs.teachers import Ensemble, TeacherSpec, student_title, teacher_model, teacher_title
from core.specs.training import Optimizer, Schedule, Speed, Training
from core.specs.warnings import warnings_of
from core.specs.weights import Weights
from core.specs.yaml_loader import YamlDumper

__all__ = [
    "MAX_CHARACTERS",
    "AugmentationRef",
    "DatasetRef",
    "Ensemble",
    "ExperimentSpec",
    "MethodRef",
    "ModelRef",
    "Optimizer",
    "PlannedRun",
    "Problem",
    "Resources",
    "RunSpec",
    "Schedule",
    "SpecError",
    "Speed",
    "StudentSpec",
    "SweepSpec",
    "TeacherSpec",
    "Training",
    "UntilDecided",
    "WeightedMethod",
    "Weights",
    "WorkerLabel",
    "YamlDumper",
    "detach_derived_fields",
    "dump_text",
    "editable_copy",
    "field_at",
    "load_bytes",
    "load_file",
    "load_text",
    "parse_experiment",
    "parse_stored_experiment",
    "parse_sweep",
    "parse_text",
    "problems_of",
    "read_experiment",
    "student_title",
    "teacher_model",
    "teacher_title",
    "to_yaml",
    "warnings_of",
    "with_field",
    "with_fields",
]
