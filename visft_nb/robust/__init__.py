"""Chapter 4: adversarial examples, training and evaluation.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "accuracy": ["AttackResult", "robust_accuracy"],
    "apgd_attack": ["apgd"],
    "attacks": ["LOSSES", "NORMS", "fgsm", "pgd", "random_signs"],
    "bench": ["averaged", "paired_difference"],
    "beyond": [
        "adversarial_patch", "fooling_rate", "patch_success", "spatial_attack",
        "universal"],
    "corruptions": [
        "CORRUPTIONS", "corrupt", "corruption_errors", "mean_corruption_error"],
    "dense": [
        "GOALS", "SegAdversarialStep", "WEIGHTINGS", "detector_pgd", "pixel_scores",
        "predict_masks", "seg_pgd"],
    "detectors": [
        "average_precision", "detection_counts", "detections", "detector_losses"],
    "ensemble": ["autoattack", "autoattack_table"],
    "evaluate": [
        "images_needed", "masking_report", "robustness_report", "straight_through"],
    "explore": ["explore_eps", "show_eps"],
    "fab_attack": ["fab"],
    "headline": ["MnistNet", "RandomLength", "triangle"],
    "minimal": ["accuracy_curve", "carlini_wagner", "deepfool", "smallest_changes"],
    "norms": ["project_l1_box"],
    "placement": ["Placement"],
    "reports": ["MaskingReport", "RobustnessReport"],
    "smoothing": [
        "GaussianNoise", "Smoothed", "certified_accuracy", "certified_radius",
        "certify", "clopper_pearson", "noisy_counts", "smooth_predict"],
    "square_attack": ["square"],
    "trainer": ["AdversarialTrainer"],
    "training": ["AdversarialStep", "adversarial_step", "mart_loss", "trades_loss"],
})
