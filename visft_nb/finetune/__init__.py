"""Chapter 3: fine-tuning. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "anomaly": ["AnomalyDetector", "DEFECTS", "PaDiM", "PatchCore", "ReconstructionDetector", "conformal_threshold", "defect_table", "greedy_coreset", "nearest", "patch_features", "pixel_auc", "read_parts", "synthetic_fabric"],
    "costs": ["saved_bytes", "training_costs"],
    "adapters": ["apply_adapters", "apply_bitfit", "apply_ia3", "apply_norm_only"],
    "hub": ["PixelClassifier", "from_hub", "from_transformers", "image_processor", "to_transformers"],
    "lora": ["apply_lora", "fingerprint", "load_delta", "merge_lora", "remove_delta", "save_delta", "trainable_parameters", "unmerge_lora"],
    "context": ["ClipEncoder", "ContextPrompt", "DualEncoder", "ZeroShot", "clip_loss", "load_clip", "train_dual", "zero_shot_weights"],
    "prompts": ["PixelPrompt", "Prompted", "VisualPrompt", "frequency_mapping", "load_prompt_state", "prompt_attention", "prompt_state"],
    "folder": ["FolderRun", "divide", "estimate_seconds", "find_splits", "finetune_folder", "read_splits"],
    "heads": ["HEADS", "Head", "corn_loss", "corn_probabilities", "corn_rank", "head_kind", "kappa", "mean_precision", "set_head"],
    "strategies": ["CORRUPTIONS", "FinetuneLoss", "RATES", "corrupt", "finetune", "layer_groups", "rate_groups"],
    "transfer": ["HeadSolver", "Pretrained", "cross_validate", "fit_head", "load_backbone", "load_body", "make_backbone", "read_weights"],
    "search": ["Pruning", "folds", "tune"],
    "speed": ["fastai_contestant", "kit_contestant", "photo_root", "plain_contestant", "race", "trainer_contestant"],
})
