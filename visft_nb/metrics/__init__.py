"""Figures that mean what they say. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "checks": ["check_order", "renamed"],
    "classes": ["accuracy", "auc", "classification_report", "confusion_matrix"],
    "masks": ["dice", "iou"],
    "calibration": ["calibration_error", "reliability"],
    "intervals": ["bootstrap_interval", "mean_interval", "proportion_interval"],
})
