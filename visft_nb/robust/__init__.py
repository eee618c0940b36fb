"""Chapter 4: adversarial examples, training and evaluation.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "attacks": [
        "AttackResult", "LOSSES", "NORMS", "explore_eps", "fgsm", "pgd", "random_signs",
        "robust_accuracy", "show_eps"],
    "minimal": ["accuracy_curve", "carlini_wagner", "deepfool", "smallest_changes"],
    "ensemble": [
        "apgd", "autoattack", "autoattack_table", "fab", "project_l1_box", "square"],
    "evaluate": [
        "MaskingReport", "RobustnessReport", "averaged", "images_needed",
        "masking_report", "paired_difference", "robustness_report", "straight_through"],
    "beyond": [
        "CORRUPTIONS", "Placement", "adversarial_patch", "corrupt", "corruption_errors",
        "fooling_rate", "mean_corruption_error", "patch_success", "spatial_attack",
        "universal"],
    "headline": ["MnistNet", "RandomLength", "triangle"],
    "smoothing": [
        "GaussianNoise", "Smoothed", "certified_accuracy", "certified_radius",
        "certify", "clopper_pearson", "noisy_counts", "smooth_predict"],
    "dense": [
        "GOALS", "SegAdversarialStep", "WEIGHTINGS", "average_precision",
        "detection_counts", "detections", "detector_losses", "detector_pgd",
        "pixel_scores", "predict_masks", "seg_pgd"],
    "training": [
        "AdversarialStep", "AdversarialTrainer", "adversarial_step", "mart_loss",
        "trades_loss"],
})
