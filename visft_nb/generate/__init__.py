"""Chapter 5: codes, adversaries, pictures from text and from noise.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "denoiser": ["Denoiser", "PointDenoiser"],
    "modes": ["Mixture", "ModeCount", "count_labels", "count_modes", "grid", "ring"],
    "noise": ["Diffusion", "FlowMatching", "NoiseStep", "guided"],
    "yardsticks": ["frechet_distance", "kid", "precision_recall"],
})
