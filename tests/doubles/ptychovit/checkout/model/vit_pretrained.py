"""The encoder of encoder_type `pretrained`; upstream imports timm here, always, and downloads weights unless told not to."""

from switches import has

from model.vit import Encoder

if has("import_missing"):
    raise ModuleNotFoundError("No module named 'timm'", name="timm")


def pretrained_encoder(timm_kwargs, **geometry):
    if timm_kwargs.get("pretrained", True):
        raise ConnectionError("weights of the pretrained encoder would be downloaded")
    return Encoder(**geometry)
