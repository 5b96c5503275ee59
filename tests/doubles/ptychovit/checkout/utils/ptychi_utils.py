"""Patches out of an object and into one, at fractional centres: whole pixels by index, the rest by a Fourier shift.

Centres are (y, x) in object pixels, `[N,2]`; the first pixel of a patch of h x w lies at centre - (h - 1, w - 1) / 2.
"""

import torch
from switches import has


def extract_patches_fourier_shift(image, positions, shape, pad=1):
    """Return patches `[N,h,w]`; `pad` pixels more are read on each side, and pixels outside the image are zero."""
    whole, rest = _first_pixels(positions, shape)
    rows, cols = shape
    top, left, canvas = _widened(image, whole - pad, (rows + 2 * pad, cols + 2 * pad))
    windows = []
    for row, col in (whole - pad).tolist():
        windows.append(canvas[row + top : row + top + rows + 2 * pad, col + left : col + left + cols + 2 * pad])
    patches = _shifted(torch.stack(windows), -rest)
    return patches[:, pad : pad + rows, pad : pad + cols]


def _place_patches_fourier_shift(image, positions, patches, op, adjoint_mode, pad):
    """Return the image with patches `[N,h,w]` added (or set); what falls outside is dropped.

    With `adjoint_mode` off, `pad` pixels are cut off each side after the shift; on, they are filled with zeros before it.
    """
    whole, rest = _first_pixels(positions, patches.shape[-2:])
    if adjoint_mode:
        patches = _shifted(torch.nn.functional.pad(patches, (pad, pad, pad, pad)), rest)
        first = whole - pad
    else:
        patches = _shifted(patches, rest)[:, pad : patches.shape[1] - pad, pad : patches.shape[2] - pad]
        first = whole + pad
    rows, cols = patches.shape[-2:]
    top, left, canvas = _widened(image, first, (rows, cols))
    canvas = canvas.clone()
    for (row, col), patch in zip(first.tolist(), patches.to(image.dtype), strict=True):
        window = canvas[row + top : row + top + rows, col + left : col + left + cols]
        if op == "add":
            window += patch
        elif op == "set":
            window[:] = patch
        else:
            raise ValueError(f"Unknown op: {op}")
    placed = canvas[top : top + image.shape[0], left : left + image.shape[1]]
    if has("place_raises"):
        raise RuntimeError("the double cannot place patches")
    return placed[:, :-1] if has("wrong_shape") else placed


if not has("no_place"):
    place_patches_fourier_shift = _place_patches_fourier_shift


def _first_pixels(positions, shape):
    """Return whole first pixels `[N,2]` and what is left of them, in [0, 1)."""
    first = positions - (torch.tensor(shape, dtype=torch.float64, device=positions.device) - 1) / 2
    whole = torch.floor(first)
    return whole.to(torch.int64), first - whole


def _widened(image, first, shape):
    """Return what was added above and on the left, and the image with zeros round it so that every window fits."""
    low = first.amin(dim=0).clamp(max=0).neg()
    size = torch.tensor(image.shape[-2:], device=first.device)
    high = (first.amax(dim=0) + torch.tensor(shape, device=first.device) - size).clamp(min=0)
    (top, left), (bottom, right) = low.tolist(), high.tolist()
    return top, left, torch.nn.functional.pad(image, (left, right, top, bottom))


def _shifted(patches, shifts):
    """Return patches moved by (rows, cols) `[N,2]`, periodically; real stays real."""
    if torch.all(shifts.abs() < 1e-7):
        return patches
    rows = torch.fft.fftfreq(patches.shape[-2], dtype=torch.float64, device=patches.device)[:, None]
    cols = torch.fft.fftfreq(patches.shape[-1], dtype=torch.float64, device=patches.device)
    angle = -2 * torch.pi * (rows * shifts[:, 0, None, None] + cols * shifts[:, 1, None, None])
    spectrum = torch.fft.fft2(patches)
    moved = torch.fft.ifft2(spectrum * torch.exp(1j * angle).to(spectrum.dtype))
    return moved if patches.is_complex() else moved.real
