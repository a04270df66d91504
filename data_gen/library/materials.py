"""Materials as plain data: colours and patterns. The renderer turns them into shader nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PATTERNS = ("noise", "voronoi", "checker", "brick", "wood", "marble")
"""Procedural patterns; ``"plain"`` is the absence of one."""

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class MaterialSpec:
    """One surface.

    Attributes:
        pattern: ``"plain"`` or one of :data:`PATTERNS`.
        colour: linear RGB in 0 … 1, the first colour of the pattern.
        second: the other colour.
        scale: repetitions of the pattern per metre.
        roughness: ``None`` is purely diffuse; else 0 (mirror) to 1.
        maps: name of a PBR material that replaces the pattern; empty: none.
    """

    pattern: str
    colour: Colour
    second: Colour
    scale: float
    roughness: float | None = None
    maps: str = ""


def luminance(colour: Colour) -> float:
    """Return the perceived lightness of a linear colour, 0 … 1 (the square root of its Rec. 709 luminance)."""
    return float(np.sqrt(0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]))


def sample_colour(rng: np.random.Generator) -> Colour:
    """Draw a colour: any hue, saturation and lightness as everyday things have them."""
    hue, saturation, value = rng.uniform(), rng.beta(1.6, 1.6), rng.uniform(0.08, 0.95)
    phase = (hue * 6 + np.array([0.0, 4.0, 2.0])) % 6
    wheel = np.clip(np.abs(phase - 3) - 1, 0, 1)
    red, green, blue = value * (1 - saturation * (1 - wheel))
    return round(float(red**2.0), 4), round(float(green**2.0), 4), round(float(blue**2.0), 4)


def sample_colour_against(rng: np.random.Generator, other: Colour, contrast: float) -> Colour:
    """Draw a colour whose lightness differs by at least ``contrast`` (0 … 0.45) from that of ``other``."""
    while abs(luminance(colour := sample_colour(rng)) - luminance(other)) < contrast:
        pass
    return colour


def sample_material(
    rng: np.random.Generator,
    patterned: bool,
    scale: tuple[float, float],
    against: Colour,
    contrast: float,
    glossy: float,
) -> MaterialSpec:
    """Draw a surface.

    Args:
        rng: the generator.
        patterned: with one of :data:`PATTERNS`, or plain.
        scale: range of the pattern's repetitions per metre.
        against: a colour that it should stand out from.
        contrast: by how much in lightness, 0 … 0.45.
        glossy: probability of a shiny surface.
    """
    pattern = str(rng.choice(PATTERNS)) if patterned else "plain"
    colour = sample_colour_against(rng, against, contrast)
    second = sample_colour(rng)
    roughness = round(float(rng.uniform(0.15, 0.6)), 4) if rng.uniform() < glossy else None
    return MaterialSpec(pattern, colour, second, round(float(rng.uniform(*scale)), 4), roughness)
