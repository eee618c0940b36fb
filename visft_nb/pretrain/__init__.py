"""Chapter 2: self-supervised pre-training.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "collapse": [
        "BarlowTwinsLoss", "VICRegLoss", "WatchCollapse", "effective_rank",
        "embedding_std", "project", "spectrum"],
    "contrast": [
        "NTXentLoss", "Views", "contrastive_step", "elastic", "embed", "gather_rows",
        "make_projector", "pretrain_contrast", "two_views"],
    "efficiency": ["labels_needed", "plot_efficiency"],
    "launcher": ["launch"],
    "mask": [
        "MaskedAutoencoder", "from_patches", "masked_loss", "masked_step",
        "pretrain_masked", "reconstruct_patches", "to_patches"],
    "measure": [
        "finetune_accuracy", "knn_accuracy", "label_efficiency", "linear_probe"],
    "reconstruct": [
        "Autoencoder", "Coder", "Decoder", "ReconstructionStep",
        "VariationalAutoencoder", "VariationalCoder", "gaussian_kl", "image_nll",
        "mask_pixels", "pretrain_autoencoder", "reconstruction_error", "reparametrise"],
    "scale": ["LARS", "RECIPES", "Recipe", "embed_stream", "pretrain"],
    "stream": ["FolderStream"],
    "timing": ["simclr_step_times"],
    "views": [
        "CIFAR_VIEWS", "ColourViews", "IMAGENET_VIEWS", "adjust_brightness",
        "adjust_contrast", "adjust_hue", "adjust_saturation", "blur_matrix",
        "crop_boxes", "gaussian_blur", "resized_crop", "shape_patches", "solarise",
        "to_grey"],
})
