"""Chapter 4: adversarial examples, training and evaluation. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "attacks": ["LOSSES", "NORMS", "fgsm", "pgd", "robust_accuracy"],
    "training": ["AdversarialStep", "AdversarialTrainer", "adversarial_step", "mart_loss", "trades_loss"],
})
