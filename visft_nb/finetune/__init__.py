"""Chapter 3: fine-tuning. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "adapters": ["apply_adapters", "apply_bitfit", "apply_ia3", "apply_norm_only"],
    "hub": ["PixelClassifier", "from_hub", "from_transformers", "image_processor", "to_transformers"],
    "lora": ["apply_lora", "fingerprint", "load_delta", "merge_lora", "remove_delta", "save_delta", "trainable_parameters", "unmerge_lora"],
    "search": ["Pruning", "cross_validate", "folds", "tune"],
    "speed": ["fastai_contestant", "kit_contestant", "photo_root", "plain_contestant", "race", "trainer_contestant"],
})
