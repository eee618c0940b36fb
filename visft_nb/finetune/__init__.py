"""Chapter 3: fine-tuning. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "folder": ["FolderRun", "divide", "estimate_seconds", "find_splits", "finetune_folder", "read_splits"],
    "heads": ["HEADS", "Head", "corn_loss", "corn_probabilities", "corn_rank", "head_kind", "kappa", "mean_precision", "set_head"],
    "strategies": ["CORRUPTIONS", "FinetuneLoss", "RATES", "corrupt", "finetune", "layer_groups", "rate_groups"],
    "transfer": ["HeadSolver", "Pretrained", "cross_validate", "fit_head", "load_backbone", "load_body", "make_backbone", "read_weights"],
})
