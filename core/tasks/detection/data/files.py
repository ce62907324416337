"""Data sets made of photographs and annotation files, which are packed once."""

from __future__ import annotations

import logging
from pathlib import Path

from core.catalog.detection_datasets import PhotoParams
from core.settings import TrainingSettings
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.paths import PathRefusedError, contained
from core.tasks.detection.data.annotations import AnnotationFiles, sentences
from core.tasks.detection.data.dataset import DetectionData
from core.tasks.detection.data.packing import load_or_pack
from core.tasks.detection.data.resizing import ResizeRule
from core.undecodable import visible

_log = logging.getLogger(__name__)


def data_from_files(source: AnnotationFiles, params: PhotoParams, settings: TrainingSettings) -> DetectionData:
    """Return the data set of annotation files, with memory-mapped images. Notes about images and boxes are logged.

    Raises:
        DatasetError: See ``core.tasks.detection.data.packing.load_or_pack``.
    """
    rule = ResizeRule(params.min_size, params.max_size)
    pack = load_or_pack(source, rule, settings.pack_dir)
    for text, is_warning in (*pack.notes.sentences(), *sentences(pack.notes)):
        _log.log(logging.WARNING if is_warning else logging.INFO, "%s: %s", visible(str(source.root)), text)
    return DetectionData(
        pack.train,
        pack.test,
        pack.classes,
        rule,
        params.flip,
        pack.category_ids,
        pack_key=pack.key,
        content_hash=pack.content_hash,
    )


def check_contained(parts: tuple[Path, ...], settings: TrainingSettings) -> None:
    """Check that a spec may read the folder that it names and the parts of the data set in it.

    Raises:
        DatasetError: See ``core.tasks.classification.data.paths.contained``.
    """
    try:
        for part in parts:
            contained(part, "folder" if part.is_dir() else "file", settings)
    except PathRefusedError as error:
        raise DatasetError(str(error)) from None
