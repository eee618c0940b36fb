"""One loop for every training, and what surrounds it. Public names are loaded when they
are first used."""
import lazy_loader as lazy

from visft_nb.checks import old_names

_load, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "losses": ["Criterion", "IMAGE_KEYS", "Objective", "TARGET_KEYS", "as_double",
        "as_loss", "as_pair", "check_soon", "checked_later", "class_labels",
        "cross_entropy_step", "host_waits", "prediction", "raise_collected",
        "takes_targets", "without_partial"],
    "optim": ["OPTIMIZERS", "SCHEDULES", "constant", "cosine", "make_optimizer",
        "onecycle", "queue_step", "set_rate", "train_step"],
    "devices": ["batch_length", "check_batch_length", "make_accelerator", "move_model",
        "on_device", "share", "to_device"],
    "evaluation": ["RunningAccuracy", "RunningLoss", "eval_mode", "evaluate",
        "logits_accuracy", "metric_values", "named_metrics", "predict_logits",
        "run_metrics", "streams", "train_mode"],
    "history": ["History"],
    "checkpoint": ["cpu_rng_state", "differences", "load_checkpoint",
        "load_weights", "preserve_rng", "rng_state", "save_checkpoint", "set_rng_state",
        "unpack_state"],
    "loaders": ["batches_from", "check_resumable", "is_stateful", "unresumable",
        "warn_of_generators", "with_random_state"],
    "trackers": ["Interrupt", "TRACKERS", "check_trackers", "is_watched", "tracking"],
    "run": ["ONE_IMAGE", "TrainingRun", "loop"],
    "fitting": ["LOOK", "fit", "mean_cross_entropy", "start_run"],
})

__getattr__ = old_names(
    __name__, _load, kept_rng='preserve_rng', Run='TrainingRun')
