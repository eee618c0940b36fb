"""Chapter 4: adversarial examples, training and evaluation. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "attacks": ["LOSSES", "NORMS", "fgsm", "pgd", "robust_accuracy"],
    "beyond": ["CORRUPTIONS", "Placement", "adversarial_patch", "corrupt", "corruption_errors", "fooling_rate", "mean_corruption_error", "patch_success", "spatial_attack", "universal"],
    "smoothing": ["GaussianNoise", "Smoothed", "certified_accuracy", "certified_radius", "certify", "clopper_pearson", "noisy_counts", "smooth_predict"],
    "training": ["AdversarialStep", "adversarial_step"],
})
