"""Chapter 2: self-supervised pre-training. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "contrast": ["NTXentLoss", "Views", "contrastive_step", "elastic", "embed", "pretrain_contrast", "two_views"],
    "measure": ["knn_accuracy", "linear_probe"],
    "reconstruct": ["Autoencoder", "Coder", "Decoder", "ReconstructionStep", "VariationalAutoencoder", "VariationalCoder", "gaussian_kl", "image_nll", "mask_pixels",
                    "pretrain_autoencoder", "reconstruction_error", "reparametrise"],
})
