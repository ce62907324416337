"""A small lab whose runs a real worker has trained: a database and its artifacts, recorded once.

``python -m tests.recorded_lab.record`` records it again, after a change of what runs report or leave.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

ARCHIVE = Path(__file__).with_name("lab.zip")

METHODS = "digits-methods"
"""Classification: CE, KD, DKD and DKD-Align over three seeds, with a teacher."""
COPY = "digits-methods-longer"
"""A copy of ``METHODS`` with one seed and more epochs, whose runs keep penultimate features."""
SWEEP = "rates-and-batches"
"""A sweep of two fields with six settings of two seeds."""
DETECTION = "scenes"
"""Object detection: PKD with a teacher, one seed. Its trainings are long enough for curves of their machine."""
FAILED = "teacher-from-a-file"
"""Its teacher has failed, because its file of weights is missing."""
WAITING = "on-the-cluster"
"""It waits for a worker that does not exist."""
LABELS = ("ce", "kd", "dkd", "dkd_align (log)")
"""Labels of the methods of ``METHODS``, the baseline first."""


def unpack(folder: Path) -> None:
    """Write the lab's database and artifacts into a folder, for ``tests.served.backend``."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
