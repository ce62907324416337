"""The contract suite over every method of the catalog, and over a plug-in with an adapter of its own."""

from __future__ import annotations

from typing import Any, ClassVar

from core.testing import MethodContract

_RAMP = {"ramp_epochs": 1}


class TestCE(MethodContract):
    method = "ce"


class TestKD(MethodContract):
    method = "kd"


class TestStandardisedKD(MethodContract):
    method: ClassVar[Any] = {"name": "kd", "params": {"standardise": True, "temperature": 2.0}}


class TestDKD(MethodContract):
    method: ClassVar[Any] = {"name": "dkd", "params": _RAMP}


class TestDKDAlignSample(MethodContract):
    method: ClassVar[Any] = {"name": "dkd_align", "params": {"reduction": "sample", "epsilon": 3.0} | _RAMP}


class TestDKDAlignBatch(MethodContract):
    method: ClassVar[Any] = {"name": "dkd_align", "params": {"reduction": "batch", "epsilon": 100.0} | _RAMP}


class TestDKDAlignLogShare(MethodContract):
    method: ClassVar[Any] = {"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1} | _RAMP}
    has_exact_gradient = False


class TestDKDDivergence(MethodContract):
    method: ClassVar[Any] = {"name": "dkd_divergence", "params": _RAMP}


class TestDIST(MethodContract):
    method = "dist"


class TestNKD(MethodContract):
    method = "nkd"


class TestRLD(MethodContract):
    method: ClassVar[Any] = {"name": "rld", "params": _RAMP}


class TestPluginWithAdapter(MethodContract):
    method = "test_hint"
    plugins = ("tests.core.hint_plugin",)
    networks = ({"name": "small_cnn", "params": {"width": 8}}, {"name": "small_cnn", "params": {"width": 4}})


class TestPluginOnVectors(MethodContract):
    method: ClassVar[Any] = {"name": "test_hint", "params": {"student_tap": "features", "teacher_tap": "features"}}
    plugins = ("tests.core.hint_plugin",)
    networks = ({"name": "small_cnn", "params": {"width": 8}}, {"name": "small_cnn", "params": {"width": 4}})


class TestPluginOnModulePaths(MethodContract):
    method: ClassVar[Any] = {"name": "test_hint", "params": {"student_tap": "layers.stage1.0", "teacher_tap": "stem"}}
    plugins = ("tests.core.hint_plugin",)
    networks = ({"name": "small_cnn", "params": {"width": 8}}, {"name": "small_cnn", "params": {"width": 4}})
