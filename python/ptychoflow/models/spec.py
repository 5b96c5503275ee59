"""The U-Net of the workflow specification as a table, framework-free (physics section 8).

Encoder-decoder without skip connections: one encoder, one decoder for the amplitude and one for the phase. 3x3
convolutions with bias, "same" padding, ReLU; encoder blocks end in 2x2 max-pooling, decoder blocks in 2x nearest
upsampling. `models/torch` and, with it, every other framework builds its layers from this table.
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
        channels_out: object patches that come out per group.
        encoder: filters of the encoder blocks, top to bottom.
        decoder: filters of the blocks of each decoder, bottom to top; they end at side N/2.
        border: channels of the last decoder block that feed the border head; 0 without one.
        head: filters of the head that upsamples from N/2 to N.
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
        channels_out=1,
        encoder=tuple(scale * 128 // 2 ** (stages - 1 - stage) for stage in range(stages)),
        decoder=tuple(last * 2**stage for stage in reversed(range(stages - 1))),
        border=last // 16 if has_border else 0,
        head=scale * 2048 // n,
        output=config.output,
    )


def parameter_count(spec: NetworkSpec) -> int:
    """Return the number of trainable parameters of the network."""

    def conv(channels_in: int, channels_out: int) -> int:
        return 9 * channels_in * channels_out + channels_out

    def blocks(channels: int, filters: tuple[int, ...]) -> int:
        total = 0
        for width in filters:
            total += conv(channels, width) + conv(width, width)
            channels = width
        return total

    last = spec.decoder[-1]
    upsampled = conv(spec.head, spec.head) + conv(spec.head, spec.channels_out)
    if spec.output == "full":
        head = conv(last, spec.head) + upsampled
    else:
        head = conv(last - spec.border, spec.channels_out)
        if spec.border:
            head += conv(spec.border, spec.head) + upsampled
    return blocks(spec.channels_in, spec.encoder) + 2 * (blocks(spec.encoder[-1], spec.decoder) + head)
