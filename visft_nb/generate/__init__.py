"""Chapter 5: codes, adversaries, pictures from text and from noise.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "adversaries": [
        "DigitDiscriminator", "DigitGenerator", "discriminator_loss", "gan_samples",
        "gan_step", "generator_loss", "score_gradient"],
    "gan_training": ["Gan", "GanTrainer", "image_draw", "make_gan"],
    "modes": ["Mixture", "ModeCount", "count_labels", "count_modes", "grid", "ring"],
    "toys": ["ToyDiscriminator", "ToyGenerator", "count_copies", "pack_samples"],
    "yardsticks": ["frechet_distance", "kid", "precision_recall"],
})
