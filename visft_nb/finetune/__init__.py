"""Chapter 3: fine-tuning. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "context": ["ClipEncoder", "ContextPrompt", "DualEncoder", "ZeroShot", "clip_loss", "load_clip", "train_dual", "zero_shot_weights"],
    "prompts": ["PixelPrompt", "Prompted", "VisualPrompt", "frequency_mapping", "load_prompt_state", "prompt_attention", "prompt_state"],
})
