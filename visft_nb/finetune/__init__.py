"""Chapter 3: fine-tuning. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "hub": ["PixelClassifier", "from_hub", "from_transformers", "image_processor", "to_transformers"],
})
