"""Any network of timm, by its name there."""

from __future__ import annotations

import difflib
from typing import Any

from torch import Tensor, nn

from core.models.network import Network, WeightsError


class TimmNetwork(Network):
    """timm's own module under ``network``, with its initialisation; a checkpoint's keys are timm's.

    Args:
        name: timm's, without the ``timm:`` of the catalog; with or without the tag of its weights.
        patch_size: of a vision transformer; None keeps the name's.

    Raises ValueError where timm has no such model (with the nearest names), where it does not take a patch size, or
    where it cannot read such images; ImportError where timm is not installed.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_channels: int,
        image_size: int,
        patch_size: int | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        _known(name)
        self.name = name
        self._arguments: dict[str, Any] = {
            "num_classes": num_classes,
            "in_chans": in_channels,
        }
        if drop_path_rate:  # some networks refuse it, even where it is 0
            self._arguments["drop_path_rate"] = drop_path_rate
        if patch_size is not None:
            self._arguments["patch_size"] = patch_size
        if _sized(name):
            self._arguments["img_size"] = image_size
        self.network = _create(name, self._arguments)
        self._check(image_size)

    def _check(self, image_size: int) -> None:
        if not hasattr(self.network, "forward_intermediates"):
            raise ValueError(f"timm:{self.name} hands out no stages, which every model here must")
        if not isinstance(self.network.get_classifier(), nn.Linear):
            raise ValueError(f"timm:{self.name} does not end in a linear layer, so it has no penultimate features")
        patch = getattr(getattr(self.network, "patch_embed", None), "patch_size", (1, 1))[0]
        if image_size % patch:
            raise ValueError(f"timm:{self.name} cuts images into patches of {patch} px, which {image_size} px are not")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.forward_head(self.network.forward_features(images), pre_logits=True)
        return features

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """One map a stage; of a transformer without stages, one a block (its tokens laid out as an image)."""
        maps = self.network.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
        return {f"stage{number}": one for number, one in enumerate(maps, start=1)}

    @property
    def linear(self) -> nn.Linear:
        layer: nn.Linear = self.network.get_classifier()
        return layer

    def map_published_key(self, key: str) -> str:
        return f"network.{key}"

    def load_pretrained(self, *, allow_download: bool = False) -> None:
        import timm

        config = timm.get_pretrained_cfg(self.name)
        if config is None or not config.has_weights:
            raise WeightsError(
                f"timm has no pretrained weights for {self.name}; those with weights: timm.list_pretrained()"
            )
        where = f"huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        advice = (
            "Fetch them where there is network and copy the folder that HF_HOME names, or make a file of them with "
            "`python -m core convert` and name that in teacher.weights"
        )
        cached = _in_cache(config)
        if cached is None and not allow_download:
            raise WeightsError(
                f"the weights of timm:{self.name} are not on this machine, and downloads are off. They are at {where}. "
                f"{advice}; or set DKD_DOWNLOAD=1"
            )
        overlay = {"pretrained_cfg_overlay": {"file": cached}} if cached else {}
        try:
            # timm itself fits position embeddings and a last layer of another class count.
            source = _create(self.name, self._arguments | {"pretrained": True} | overlay)
        except (OSError, RuntimeError) as error:  # what the hub's client raises for a network that is not there
            raise WeightsError(f"cannot load the weights from {where}: {_first_line(error)}. {advice}") from error
        self.network.load_state_dict(source.state_dict())


def _known(name: str) -> None:
    import timm

    plain, _, tag = name.partition(".")
    known = timm.list_models()
    if plain in known:
        tags = [found.partition(".")[2] for found in timm.list_pretrained(f"{plain}.*")]
        if tag and tag not in tags:
            raise ValueError(f"timm has no weights {tag!r} of {plain}; it has: {', '.join(tags) or 'none'}")
        return
    nearest = difflib.get_close_matches(plain, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(f'timm:{found}' for found in nearest)}?" if nearest else "see timm.list_models()"
    raise ValueError(f"unknown timm model {name!r}; {hint}")


def _in_cache(config: Any) -> str | None:
    """The hub's file where it has been downloaded before: read as a file, timm does not ask the network about it."""
    from huggingface_hub import try_to_load_from_cache

    if not config.hf_hub_id:
        return None
    found = try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    return found if isinstance(found, str) and found.endswith(".safetensors") else None


def _sized(name: str) -> bool:
    """Whether the image size is a part of the network, as where positions are embedded."""
    import timm

    config = timm.get_pretrained_cfg(name)
    return bool(config is not None and config.fixed_input_size)


def _create(name: str, arguments: dict[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(name, **arguments)
    except (TypeError, AssertionError) as error:
        given = ", ".join(f"{key} {value}" for key, value in arguments.items())
        raise ValueError(f"timm:{name} cannot be built with {given}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
