"""The distillation methods. An entry owns all that belongs to its method, whose code is in ``core.distill``.

One file per method: its parameters, and its entry with metrics, warnings and colour. A file that is added here is found
by itself, and curves, tables, form and reference follow from its entry.
"""

import importlib
import pkgutil

# In the order in which forms and lists show them.
# isort: off
from core.catalog.methods.ce import TEACHER_METHOD
from core.catalog.methods.kd import KDParams
from core.catalog.methods.dkd import DKDParams
from core.catalog.methods.dkd_align import DKDAlignParams
from core.catalog.methods.dkd_divergence import DKDDivergenceParams
from core.catalog.methods.dist import DISTParams
from core.catalog.methods.nkd import NKDParams
from core.catalog.methods.rld import RLDParams

# isort: on
from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, Momenta, SpecWarning
from core.catalog.methods.shared import DecoupledParams

__all__ = [
    "METHODS",
    "TEACHER_METHOD",
    "DISTParams",
    "DKDAlignParams",
    "DKDDivergenceParams",
    "DKDParams",
    "DecoupledParams",
    "KDParams",
    "MethodContext",
    "MethodEntry",
    "Momenta",
    "NKDParams",
    "RLDParams",
    "SpecWarning",
]

for _module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
