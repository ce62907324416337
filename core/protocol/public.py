"""The shapes of the public API, by name: experiments, runs, metrics, comparisons. All times are UTC, in ISO 8601.

Scripts and the rooms that read many of them import from here; each is defined in the module of its subject.
"""

from core.protocol.base import TERMINAL, Message, Page, ProblemDetails, ProblemField, RequestBody, RunState
from core.protocol.catalog import Catalog, CatalogExample
from core.protocol.comparisons import Comparison, Convergence, Interval, MethodResult, PairedDifference
from core.protocol.experiments import (
    ChosenSettings,
    Experiment,
    ExperimentPage,
    ExperimentSummary,
    SettingsChoice,
    StateCounts,
    TimeLeft,
)
from core.protocol.fleet import DrainChange, GpuUse, TeacherInfo, TeacherList, Worker, WorkerList, WorkerRun
from core.protocol.metrics import LogLine, LogsReply, MetricsReply, MetricValue, Series
from core.protocol.previews import DeviceTime, Estimate, FieldDifference, PlannedRunInfo, PlannedTeacher, Preview
from core.protocol.runs import AttemptInfo, PriorityChange, Run, RunPage, RunProgress, RunSummary

__all__ = [
    "TERMINAL",
    "AttemptInfo",
    "Catalog",
    "CatalogExample",
    "ChosenSettings",
    "Comparison",
    "Convergence",
    "DeviceTime",
    "DrainChange",
    "Estimate",
    "Experiment",
    "ExperimentPage",
    "ExperimentSummary",
    "FieldDifference",
    "GpuUse",
    "Interval",
    "LogLine",
    "LogsReply",
    "Message",
    "MethodResult",
    "MetricValue",
    "MetricsReply",
    "Page",
    "PairedDifference",
    "PlannedRunInfo",
    "PlannedTeacher",
    "Preview",
    "PriorityChange",
    "ProblemDetails",
    "ProblemField",
    "RequestBody",
    "Run",
    "RunPage",
    "RunProgress",
    "RunState",
    "RunSummary",
    "Series",
    "SettingsChoice",
    "StateCounts",
    "TeacherInfo",
    "TeacherList",
    "TimeLeft",
    "Worker",
    "WorkerList",
    "WorkerRun",
]
