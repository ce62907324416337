"""Weights from elsewhere: found, read without running their code, their keys mapped, what does not fit named."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from core.data.paths import PathRefusedError, spec_path
from core.models.metadata import Metadata, claimed_top1
from core.models.network import Network, WeightsError
from core.models.state_dicts import find_state_dicts, match_state_dict, strip_prefixes
from core.models.weights_file import check_size, read_file
from core.settings import TrainingSettings

PRETRAINED = "pretrained"
_UPLOAD = "upload:"  # and the SHA-256: what the backend makes of a name
_SCHEMES = ("https", "s3", "gs", "file")
_NAMED = 4  # of each kind of mismatch, so that a message stays readable
_BLOCK = 1 << 20


@dataclass(frozen=True)
class SuppliedWeights:
    """Weights that were read and are not yet in a network.

    Attributes:
        source: as a spec names it.
        content: a state dict or a checkpoint around it; None for the published weights of the network's name.
        metadata: what the file says of its weights.
    """

    source: str
    content: Any = None
    metadata: Metadata = field(default_factory=Metadata)


def read_weights(path: Path, source: str, max_bytes: int) -> SuppliedWeights:
    """Read a file of weights, with what it or its name says of their accuracy. Raises WeightsError."""
    file = read_file(path, max_bytes)
    metadata = Metadata.parse(file.metadata)
    if metadata.top1 is None:
        claims = {**file.metadata} if file.form == "safetensors" else file.content
        metadata = replace(metadata, top1=claimed_top1(_numbers(claims), source))
    return SuppliedWeights(source, file.content, metadata)


def _numbers(claims: Any) -> Any:
    """A safetensors file's texts with numbers in them as numbers."""
    if not isinstance(claims, Mapping) or not all(isinstance(value, str) for value in claims.values()):
        return claims
    return {key: float(value) for key, value in claims.items() if re.fullmatch(r"\d{1,3}(\.\d{1,20})?", value)}


def load_state(network: Network, tensors: Mapping[str, Tensor], *, any_classes: bool = False) -> None:
    """Take over a state dict given under the network's own keys or under those of its published checkpoints.

    Args:
        any_classes: keep the network's own last layer where the weights have another class count.

    Raises WeightsError, which names the keys that do not fit, or weights that are NaN, infinite, integers or constant.
    """
    load_content(network, dict(tensors), any_classes=any_classes)


def load_content(
    network: Network,
    content: Any,
    *,
    any_classes: bool = False,
    fresh_last_layer: bool = False,
    container: str = "",
    drop: Sequence[str] = (),
) -> tuple[str, ...]:
    """Find the network's weights in a checkpoint and take them over.

    Args:
        any_classes: keep the network's own last layer where the weights have another class count.
        fresh_last_layer: keep it in any case.
        container, drop: as ``find_state_dicts`` takes them.

    Returns:
        What was chosen or left out, a sentence each.

    Raises WeightsError as ``load_state``, or where several state dicts fit.
    """
    found = find_state_dicts(content, container, drop)
    fitting = match_state_dict(network, found, any_classes=any_classes)
    if fitting is None:
        raise _misfit(network, found, any_classes)
    own = network.state_dict()
    last = _last_layer(network)
    kept = {
        key for key in last & fitting.tensors.keys() if fresh_last_layer or fitting.tensors[key].shape != own[key].shape
    }
    tensors = {key: tensor for key, tensor in fitting.tensors.items() if key not in kept}
    _refuse_damaged(own, tensors)
    network.load_state_dict(tensors | {key: own[key] for key in kept}, strict=False)
    return fitting.notes


def unwrap(content: Any) -> dict[str, Tensor]:
    """The likeliest state dict inside a checkpoint, its keys without what wrappers put in front of them.

    Raises WeightsError where there is no state dict.
    """
    return strip_prefixes(find_state_dicts(content)[0])


def _last_layer(network: Network) -> set[str]:
    last = {id(parameter) for parameter in network.linear.parameters()}
    return {key for key, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in last}


def _misfit(network: Network, found: Sequence[Any], any_classes: bool) -> WeightsError:
    """Which keys of the likeliest state dict do not fit."""
    own = network.state_dict()
    tensors = strip_prefixes(found[0])
    if len(own.keys() & tensors.keys()) < len(own.keys() & {network.map_published_key(key) for key in tensors}):
        tensors = {network.map_published_key(key): tensor for key, tensor in tensors.items()}
    shapes = {key: (tuple(tensors[key].shape), tuple(own[key].shape)) for key in own if key in tensors}
    free = _last_layer(network) if any_classes else set()
    differing = {key for key, (theirs, ours) in shapes.items() if theirs != ours and key not in free}
    missing = [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")]
    unknown = [key for key in tensors if key not in own]
    problems = [
        _listed("missing", missing),
        _listed("not of this network", unknown),
        _listed("of another shape", [f"{k} {shapes[k][0]}, not {shapes[k][1]}" for k in shapes if k in differing]),
    ]
    text = f"the weights are of another network: {'; '.join(filter(None, problems))}"
    if not missing and not differing and unknown:
        text += ". Keys that are no weights are left out by `python -m core convert --drop KEY`"
    if len(found) > 1:
        places = ", ".join(repr(item.location) for item in found[:_NAMED])
        text += f". This is said of {found[0].location!r}; there are weights under {places} (--container)"
    return WeightsError(text)


def _refuse_damaged(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Nobody learns from such a teacher, and a training would blame the learning rate."""
    floating = {key: tensor for key, tensor in tensors.items() if own[key].is_floating_point()}
    if integers := [f"{key} ({t.dtype})" for key, t in floating.items() if not t.is_floating_point()]:
        raise WeightsError(f"the weights are quantised or no weights: {_listed('not floating-point', integers)}")
    # Eight-bit floats have no arithmetic of their own.
    wide = {key: tensor.float() if tensor.element_size() == 1 else tensor for key, tensor in floating.items()}
    if broken := _listed("not finite", [key for key, tensor in wide.items() if not tensor.isfinite().all()]):
        raise WeightsError(f"the weights are damaged: {broken}")
    layers = [tensor for tensor in wide.values() if tensor.dim() > 1 and tensor.numel() > 1]
    if layers and all(bool((tensor == tensor.flatten()[0]).all()) for tensor in layers):
        what = "zero" if all(not bool(tensor.any()) for tensor in layers) else "constant"
        raise WeightsError(f"the weights are damaged: every layer is {what}, so that nothing can be learnt from them")


def _listed(title: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"{title}: {', '.join(keys[:_NAMED])}{more}"


def read_source(source: str, sha256: str | None, settings: TrainingSettings) -> SuppliedWeights:
    """Read what ``teacher.weights`` names: a path, an upload, or an address of https, s3, gs or file.

    Of "pretrained" nothing is read: the network that is built knows its published weights.

    Raises WeightsError, with what to do.
    """
    if source == PRETRAINED:
        return SuppliedWeights(source)
    with _opened(source, settings) as path:
        if sha256 is not None:
            check_size(path.stat().st_size, settings.max_weights_bytes)
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise WeightsError(f"{source} has the SHA-256 {found}, not {sha256}: it is another file than was meant")
        try:
            return read_weights(path, source, settings.max_weights_bytes)
        except WeightsError as error:
            raise WeightsError(f"{source}: {error}") from error


def load_supplied(
    network: Network,
    given: SuppliedWeights,
    *,
    any_classes: bool,
    allow_download: bool,
    fresh_last_layer: bool = False,
) -> tuple[str, ...]:
    """Take over weights that were read, or the published ones. Returns what was chosen or left out.

    Raises WeightsError, with what to do.
    """
    if given.source == PRETRAINED:
        network.load_pretrained(allow_download=allow_download)
        return ()
    try:
        return load_content(network, given.content, any_classes=any_classes, fresh_last_layer=fresh_last_layer)
    except WeightsError as error:
        raise WeightsError(f"{given.source}: {error}") from error


@contextmanager
def _opened(source: str, settings: TrainingSettings) -> Iterator[Path]:
    """A file on this machine with what the source names; one that was fetched is removed afterwards."""
    if source.startswith(_UPLOAD):
        yield _uploaded(source, settings.uploads)
        return
    scheme, separator, rest = source.partition("://")
    if not separator or scheme == "file":
        try:
            found = spec_path(rest if separator else source, "file", settings)
        except PathRefusedError as error:
            raise WeightsError(f"{error}. That is where a teacher's weights are looked for") from None
        yield found
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights")
        _fetch(source, path, settings)
        yield path


def _uploaded(source: str, folder: Path | None) -> Path:
    if folder is None:
        raise WeightsError(f"{source} is in a backend's store; without one, name the file itself")
    name = source.removeprefix(_UPLOAD)
    path = Path(folder, f"{name}.safetensors")
    if not re.fullmatch("[0-9a-f]{64}", name) or not path.is_file():
        raise WeightsError(f"{source} is not in the artifact store any more; upload it again")
    return path


def _fetch(source: str, path: Path, settings: TrainingSettings) -> None:
    """Download at most ``settings.max_weights_bytes``, whatever the other side says of the length."""
    scheme = source.partition("://")[0]
    if scheme not in _SCHEMES or "::" in source:
        raise WeightsError(f"weights cannot be read from {source}: give a path, or {', '.join(_SCHEMES)}://…")
    if scheme == "https" and not settings.download:
        raise WeightsError(f"downloads are off; set DKD_DOWNLOAD=1, or fetch {source} and name the file")
    import fsspec

    limit = settings.max_weights_bytes
    # As a stream: of a file whose length it is told, fsspec would hold as much in memory as it is sent.
    options = {"block_size": 0} if scheme == "https" else {}
    try:
        with fsspec.open(source, "rb", **options) as remote, path.open("wb") as local:
            check_size(getattr(remote, "size", None) or 0, limit)
            room = limit
            while block := remote.read(_BLOCK):
                room -= len(block)
                if room < 0:
                    check_size(limit + 1, limit)
                local.write(block)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
    except ImportError as error:
        raise WeightsError(f"reading {scheme}:// needs another package on the worker: {error}") from error
    except Exception as error:  # whatever a backend of fsspec raises: each has errors of its own
        raise WeightsError(
            f"cannot fetch {source}: {str(error).partition(chr(10))[0] or type(error).__name__}"
        ) from error
