"""The U-Net of the workflow specification as a table, framework-free (physics section 8).

Encoder-decoder without skip connections: one encoder, one decoder for the amplitude and one for the phase. 3x3
convolutions with bias, "same" padding, ReLU; encoder blocks end in 2x2 max-pooling, decoder blocks in 2x nearest
upsampling. `models/torch` and `models/tf` build their layers from this table and exchange weights by its names.
"""

from dataclasses import dataclass

from ptychoflow.config import ModelConfig
from ptychoflow.errors import ContractError

SUPPORTED_N = (64, 128, 256)


@dataclass(frozen=True)
class NetworkSpec:
    """Numbers of filters of one network.

    Attributes:
        n: side of a frame, px.
        channels_in: members of a group.
        channels_out: object patches that come out per group: one per member, or one for the whole group.
        encoder: filters of the encoder blocks, top to bottom.
        decoder: filters of the blocks of each decoder, bottom to top; they end at side N/2.
        border: channels of the last decoder block that feed the border head; 0 without one.
        head: filters of the head that upsamples from N/2 to N.
        output: `padded` or `full`, see ModelConfig.
    """

    n: int
    channels_in: int
    channels_out: int
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    border: int
    head: int
    output: str


def network_spec(n: int, gridsize: int, config: ModelConfig) -> NetworkSpec:
    """Return the layer table for frames of side n.

    Raises:
        ContractError: a side that the network does not support.
    """
    if n not in SUPPORTED_N:
        raise ContractError(
            f"the U-Net supports frames of {', '.join(map(str, SUPPORTED_N))} px, got {n}; crop, pad or bin"
        )
    stages = (n // 8).bit_length() - 1
    scale = config.n_filters_scale
    last = 32 * scale
    has_border = config.output == "padded" and config.predict_border
    return NetworkSpec(
        n=n,
        channels_in=gridsize**2,
        channels_out=gridsize**2 if config.object_big else 1,
        encoder=tuple(scale * 128 // 2 ** (stages - 1 - stage) for stage in range(stages)),
        decoder=tuple(last * 2**stage for stage in reversed(range(stages - 1))),
        border=last // 16 if has_border else 0,
        head=scale * 2048 // n,
        output=config.output,
    )


@dataclass(frozen=True)
class Conv:
    """One 3x3 convolution with bias; both frameworks know it by this name."""

    name: str
    channels_in: int
    channels_out: int


def conv_table(spec: NetworkSpec) -> tuple[Conv, ...]:
    """Return every convolution of the network, in the order of the data: encoder, amplitude, phase."""
    rows: list[Conv] = []

    def add(name: str, channels_in: int, channels_out: int) -> int:
        rows.append(Conv(name, channels_in, channels_out))
        return channels_out

    def blocks(prefix: str, channels: int, filters: tuple[int, ...]) -> int:
        for number, width in enumerate(filters, start=1):
            channels = add(f"{prefix}_{number}b", add(f"{prefix}_{number}a", channels, width), width)
        return channels

    def upsampling_head(prefix: str, channels: int) -> None:
        add(f"{prefix}_out", blocks(prefix, channels, (spec.head,)), spec.channels_out)

    code = blocks("encoder", spec.channels_in, spec.encoder)
    for part in ("amplitude", "phase"):
        last = blocks(part, code, spec.decoder)
        if spec.output == "full":
            upsampling_head(f"{part}_full", last)
        else:
            add(f"{part}_centre", last - spec.border, spec.channels_out)
        if spec.border:
            upsampling_head(f"{part}_border", spec.border)
    return tuple(rows)


def parameter_count(spec: NetworkSpec) -> int:
    """Return the number of trainable parameters of the convolutions; a trainable scale or probe is not counted."""
    return sum((9 * conv.channels_in + 1) * conv.channels_out for conv in conv_table(spec))
