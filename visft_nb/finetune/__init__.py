"""Chapter 3: fine-tuning. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "hub": ["PixelClassifier", "from_hub", "from_transformers", "image_processor", "to_transformers"],
    "adapters": ["apply_adapters", "apply_bitfit", "apply_ia3", "apply_norm_only"],
    "lora": ["apply_lora", "fingerprint", "load_delta", "merge_lora", "remove_delta", "save_delta", "trainable_parameters", "unmerge_lora"],
})
