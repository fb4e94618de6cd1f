"""First weights for training: a fresh video tokenizer is a code already, that of the coarsest wavelet coefficients.

Nothing is learned here and nothing is fixed: all weights are trained from there. Random weights have to find out first
that brightness must pass through some twenty layers; these begin where that is known.

Signals. The first convolution picks the coarsest Haar bands, as brightness and two colour differences. Where the
encoder halves the resolution, free channels take the differences of the neighbours whose average the layer makes
anyway: one more level of the wavelet. Latents are the coarsest of all these. The decoder repeats a value over the
places that it stands for, and a convolution behind that can not tell those places apart: SMOOTH and SLOPE are the best
that three taps can do. The path's other weights are faint noise, so that free channels have something to learn from;
residual branches add nothing.

Linear, in spite of the norm and the activation that end either half. Each signal stands in one channel and, negated, in
another, and swish(x) - swish(-x) = x. Two channels hold CONSTANT and its negative: a norm divides by the size of what a
frame shows, which would be lost, and beside a constant that size hardly changes. Norms have the weight 0 there, because
weights that read a constant learn like biases at a multiple of the learning rate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, product

import torch
from torch import Tensor, nn

from cosmos_tok.layers import PointwiseConv, ResBlock, SpatialAttention, TemporalAttention
from cosmos_tok.network import Decoder, Encoder
from cosmos_tok.resampling import Downsample, Upsample

COLOURS = torch.nn.functional.normalize(torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]]))
"""Of R, G, B: brightness, red against blue, green against both."""
ALONG_W, ALONG_H, ALONG_T = 1, 2, 4
NOISE = 0.01
"""Deviation of the path's other weights, as a share of what would preserve variance."""
CONSTANT, TYPICAL_ENERGY = 3.0, 0.5
"""The constant, and the sum of the mean squares of all signals, nearly all of it brightness, in an ordinary frame."""
AVERAGE, DIFFERENCE = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([-0.5, 0.5, 0.0])
"""Taps of a convolution of stride 2, for a value and the next one."""
SMOOTH, SLOPE = torch.tensor([1 / 6, 2 / 3, 1 / 6]), torch.tensor([0.5, 0.0, -0.5])
"""Taps on repeated averages and differences that together come nearest to the values: by least squares for a signal of
correlation rho^|distance|, rho near 1. They leave a quarter of the error of averages alone."""
SMOOTH_IN_TIME, SLOPE_IN_TIME = torch.tensor([-1 / 6, 1 / 3, 5 / 6]), torch.tensor([-0.5, 1.0, -0.5])
"""The same where nothing later may be seen."""
REPEATED = torch.tensor([0.0, 1.0, 0.0])
"""What the layer adds to its convolution anyway; in time its last tap."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A wavelet coefficient: of a colour, averaged or differenced at each halving."""

    colour: int
    """Row of COLOURS."""
    along: tuple[int, ...]
    """Axes of the differences, 4 t + 2 h + w, at the patch's last halving and then at each of the encoder's."""

    def rank(self) -> tuple[int, ...]:
        """What is coded first sorts first: few differences, over long ways, in space."""
        num_differences = sum(axes.bit_count() for axes in self.along) + (self.colour > 0)
        in_time = sum(axes & ALONG_T for axes in self.along)
        return num_differences, self.along[0].bit_count(), in_time, self.colour, *self.along

    def averaged(self, axes: int) -> "Signal":
        """The one that is not differenced along these axes at the last halving."""
        return Signal(self.colour, (*self.along[:-1], self.along[-1] & ~axes))


@dataclass(frozen=True, slots=True)
class Path:
    """What the channels of a residual stream carry."""

    channel_of: dict[Signal, int]
    constants: dict[int, int]
    """Channel -> sign of its constant."""

    def mapped(self, conv: nn.Module, *, paired: bool) -> "Path":
        """Through a linear map, the coarsest first, as many as it has room for."""
        out_channels, in_channels = _centre(conv).shape
        signals = _coarsest(self.channel_of, _room(out_channels, paired=paired))
        rows_NC = torch.eye(in_channels)[[self.channel_of[signal] for signal in signals]]
        constants = _write_rows(conv, rows_NC, paired=paired)
        [constant] = self.constants  # a second one comes with the last map
        for channel, sign in constants.items():
            _centre(conv)[channel, constant] = sign
        return Path({signal: k for k, signal in enumerate(signals)}, constants)

    def mute_constants(self, norm: nn.Module) -> None:
        norm.get_parameter("norm.weight")[list(self.constants)] = 0

    def make_linear(self, norm: nn.Module) -> None:
        """Undo the division by what the constants and an ordinary frame, each there twice, have as their size."""
        weight = norm.get_parameter("norm.weight")
        weight.fill_((2 * (CONSTANT**2 + TYPICAL_ENERGY) / len(weight)) ** 0.5)
        self.mute_constants(norm)


@torch.no_grad()
def start_as_wavelet_code(encoder: Encoder, decoder: Decoder, between: Sequence[nn.Module]) -> None:
    """Make a code of both halves of a video tokenizer and the linear maps between them. Branches are silent already."""
    for conv in (*_path_convs(encoder), *_path_convs(decoder), *between):
        _weight(conv).mul_(NOISE)
    in_time = [list(end.children())[1] for end in (*_ends(encoder), *_ends(decoder))]
    for conv in (*between, *in_time):
        _centre(conv).diagonal().add_(1)  # channel k to channel k
    path = _start_encoder(encoder)
    latents = _coarsest(path.channel_of, min(encoder.config.z_channels, encoder.config.latent_channels))
    _start_decoder(decoder, latents)
    out_C = _centre(next(encoder.conv_out.children()))
    for k, signal in enumerate(latents):
        _read_pair(out_C[k : k + 1], path.channel_of[signal], torch.ones(1))


def _start_encoder(encoder: Encoder) -> Path:
    bands = range(8 if encoder.config.patch > 1 else 1)
    signals = [Signal(colour, (axes,)) for colour, axes in product(range(len(COLOURS)), bands)]
    conv, layers = next(encoder.conv_in.children()), _layers(*encoder.down, encoder.mid)
    out_channels, in_channels = _centre(conv).shape
    signals = _coarsest(signals, _room(out_channels, paired=not any(map(_has_map, layers))))
    rows_NC = torch.zeros(len(signals), in_channels)
    for row_C, signal in zip(rows_NC, signals, strict=True):
        row_C[_channels_of_band(signal, in_channels)] = COLOURS[signal.colour]
    path = _follow(layers, conv, rows_NC, signals)
    path.make_linear(encoder.norm_out)
    return path


def _start_decoder(decoder: Decoder, latents: Sequence[Signal]) -> None:
    conv, layers = next(decoder.conv_in.children()), _layers(decoder.mid, *reversed(decoder.up))
    out_channels, in_channels = _centre(conv).shape
    signals = latents[: _room(out_channels, paired=not any(map(_has_map, layers)))]
    path = _follow(layers, conv, torch.eye(in_channels)[: len(signals)], signals)
    path.make_linear(decoder.norm_out)
    weight_OC = _centre(next(decoder.conv_out.children()))
    for signal, channel in path.channel_of.items():
        _read_pair(weight_OC[_channels_of_band(signal, len(weight_OC))], channel, COLOURS[signal.colour])


def _follow(layers: Sequence[nn.Module], conv_in: nn.Module, rows_NC: Tensor, signals: Sequence[Signal]) -> Path:
    """From the first convolution to the last norm. The last linear map makes the pairs."""
    maps = [conv_in, *filter(_has_map, layers)]
    constants = _write_rows(conv_in, rows_NC, paired=conv_in is maps[-1])
    for channel, sign in constants.items():
        conv_in.get_parameter("conv3d.bias")[channel] = sign * CONSTANT
    path = Path({signal: k for k, signal in enumerate(signals)}, constants)
    for layer in layers:
        if isinstance(layer, ResBlock):
            path.mute_constants(layer.norm1)
            if _has_map(layer):
                path = path.mapped(layer.nin_shortcut, paired=layer is maps[-1])
        elif isinstance(layer, SpatialAttention | TemporalAttention):
            path.mute_constants(layer.norm)
        elif isinstance(layer, Downsample | Upsample) and _has_map(layer):
            path = _halve(layer, path) if isinstance(layer, Downsample) else _double(layer, path)
            path = path.mapped(layer.conv3, paired=layer is maps[-1])
    return path


def _halve(layer: Downsample, path: Path) -> Path:
    """Averages stay where they are, free channels take the coarsest differences."""
    along = (ALONG_W | ALONG_H) * layer.spatial | ALONG_T * layer.temporal
    choices = [axes for axes in range(1, 8) if not axes & ~along]
    found = {Signal(signal.colour, (*signal.along, 0)): channel for signal, channel in path.channel_of.items()}
    differences = [Signal(s.colour, (*s.along, axes)) for s, axes in product(path.channel_of, choices)]
    taken = {*path.channel_of.values(), *path.constants}
    free = [channel for channel in range(len(_centre(layer.conv3))) if channel not in taken]
    for signal, channel in zip(_coarsest(differences, len(free)), free, strict=False):
        axes = signal.along[-1]
        if axes & ALONG_T:
            source = found[signal.averaged(ALONG_T)]
            _weight(layer.conv2)[channel, source, :, 0, 0] += DIFFERENCE.roll(1)  # of frames t - 2, t - 1 and t
        else:
            source = found[signal.averaged(axes)]
            down, right = (DIFFERENCE if axes & axis else AVERAGE for axis in (ALONG_H, ALONG_W))
            _weight(layer.conv1)[channel, source, 0] += torch.outer(down, right)
        found[signal] = channel
    return Path(found, path.constants)


def _double(layer: Upsample, path: Path) -> Path:
    """Averages and differences become values, in time first, as the layer doubles time first."""
    for signal, channel in path.channel_of.items():
        axes = signal.along[-1]
        target = path.channel_of.get(signal.averaged(axes & ALONG_T or axes))
        if target is None:
            continue
        if layer.temporal and (axes & ALONG_T or not axes):
            taps = SLOPE_IN_TIME if axes else SMOOTH_IN_TIME - REPEATED.roll(1)
            _weight(layer.conv1)[target, channel, :, 0, 0] += taps
        if layer.spatial and not axes & ALONG_T:
            down, right = (SLOPE if axes & axis else SMOOTH for axis in (ALONG_H, ALONG_W))
            repeated = torch.outer(REPEATED, REPEATED) if not axes else 0.0
            _weight(layer.conv2)[target, channel, 0] += torch.outer(down, right) - repeated
    kept = {Signal(s.colour, s.along[:-1]): channel for s, channel in path.channel_of.items() if not s.along[-1]}
    return Path(kept, path.constants)


def _write_rows(conv: nn.Module, rows_NC: Tensor, *, paired: bool) -> dict[int, int]:
    """Signals into the first channels and, paired, their negatives from the middle on. Returns the constants' signs."""
    weight = _weight(conv)
    half = len(weight) // 2
    _centre(conv)[: len(rows_NC)] += rows_NC
    if paired:
        _centre(conv)[half : half + len(rows_NC)] -= rows_NC
    constants = {half - 1: 1, len(weight) - 1: -1} if paired else {len(weight) - 1: 1}
    weight[list(constants)] = 0
    return constants


def _read_pair(weight_NC: Tensor, channel: int, values_N: Tensor) -> None:
    """Read a signal from its channel and from its negative's."""
    weight_NC[:, channel] += values_N
    weight_NC[:, channel + weight_NC.shape[1] // 2] -= values_N


def _room(width: int, *, paired: bool) -> int:
    """Signals that a stream can carry beside its constants."""
    return width // 2 - 1 if paired else width - 1


def _coarsest(signals: Iterable[Signal], count: int) -> list[Signal]:
    return sorted(signals, key=Signal.rank)[:count]


def _channels_of_band(signal: Signal, num_channels: int) -> slice:
    """Where in wavelet patches the coarsest band that is differenced along these axes has its R, G and B."""
    first = signal.along[0] * num_channels // 8
    return slice(first, first + len(COLOURS))


def _weight(conv: nn.Module) -> Tensor:
    """[O, C, T, H, W]"""
    return conv.get_parameter("conv3d.weight")


def _centre(conv: nn.Module) -> Tensor:
    """Weight [O, C] of the place itself, in time of the newest frame."""
    weight = _weight(conv)
    return weight[:, :, -1, weight.shape[3] // 2, weight.shape[4] // 2]


def _has_map(layer: nn.Module) -> bool:
    """Whether the stream goes through a linear map there."""
    if isinstance(layer, ResBlock):
        return isinstance(layer.nin_shortcut, PointwiseConv)
    return isinstance(layer, Downsample | Upsample) and (layer.spatial or layer.temporal)


def _layers(*modules: nn.Module) -> list[nn.Module]:
    """All of them and all in them, in the order in which they are run."""
    return list(chain.from_iterable(module.modules() for module in modules))


def _ends(half: Encoder | Decoder) -> tuple[nn.Module, nn.Module]:
    """Two convolutions each, in space and in time."""
    return half.conv_in, half.conv_out


def _path_convs(half: Encoder | Decoder) -> Iterable[nn.Module]:
    """All that is on the way and not in a branch."""
    for conv in _ends(half):
        yield from conv.children()
    for layer in filter(_has_map, half.modules()):
        yield from [layer.nin_shortcut] if isinstance(layer, ResBlock) else layer.children()
