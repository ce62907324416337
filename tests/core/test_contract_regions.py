"""The contract suite on regions over every method of the catalog that reads rows alone."""

from __future__ import annotations

from typing import Any

from core.catalog import METHODS
from core.testing_regions import RegionContract

_SETTINGS: dict[str, dict[str, Any]] = {
    "kd standardised": {"params": {"standardise": True, "temperature": 2.0}},
    "dkd standardised": {"params": {"standardise": True}},
    "dkd of share": {"shares": {"nckd": 0.3}},
    "dkd_align": {"params": {"reduction": "sample", "epsilon": 3.0}},
    "dkd_align batch": {"params": {"reduction": "batch", "epsilon": 100.0}},
    "dkd_align log": {"params": {"reduction": "log", "epsilon": 0.5}},
    "dkd_align share": {"params": {"reduction": "log", "epsilon_share": 0.1}},
    "nkd aligned": {"params": {"align": "sample", "align_epsilon": 1.0}},
    "gdkd": {"params": {"k": 2}},
    "gdkd3": {"params": {"k": 3}},
    "ldrld": {"params": {"depth": 3}},
    "ldrld aligned": {"params": {"depth": 3, "align": "sample", "align_epsilon": 1.0}},
    "ctkd instance": {"params": {"module": "instance"}},
    "ctkd of share": {"shares": {"kd": 0.3}},
    "mlkd": {"params": {"strong_view": False}},
    "skd": {"params": {"ce_weight": 1.0}},
    "kd with nkd": {"with": ["nkd"]},
    "dkd with ctkd": {"with": ["ctkd"], "shares": {"nckd": 0.3}},
}
"""By the name of a method, and a word that tells its settings apart, how a spec names it."""

_WEIGHTS_FOLLOW_GRADIENTS = {"dkd_align share", "dkd of share", "ctkd instance"}
_COMPARE_ROWS = {
    "dkd_align batch",
    "dkd of share",
    "dkd_align log",
    "dkd_align share",
    "dist",
    "mlkd",
    "skd",
    "ctkd instance",
}


def _contract(name: str) -> type[RegionContract]:
    choice = {"name": name.split()[0], **_SETTINGS.get(name, {})}
    return type(
        f"Test{name.title().replace(' ', '')}",
        (RegionContract,),
        {
            "method": choice,
            "has_exact_gradient": name not in _WEIGHTS_FOLLOW_GRADIENTS,
            "is_mean_over_rows": name not in _COMPARE_ROWS,
        },
    )


_NAMES = [*(entry.name for entry in METHODS if entry.reads_rows_alone), *(name for name in _SETTINGS if " " in name)]
for _contract_of in map(_contract, _NAMES):
    globals()[_contract_of.__name__] = _contract_of
