"""Chapter 3: fine-tuning.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

from visft_nb.checks import old_names

_load, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "anomaly": [
        "AnomalyDetector", "DEFECTS", "PaDiM", "PatchCore", "ReconstructionDetector",
        "conformal_threshold", "defect_table", "greedy_coreset", "nearest",
        "patch_features", "pixel_auc", "read_parts", "synthetic_fabric"],
    "costs": ["saved_bytes", "training_costs"],
    "adapters": ["apply_adapters", "apply_bitfit", "apply_ia3", "apply_norm_only"],
    "hub": ["from_transformers", "image_processor", "to_transformers"],
    "hub_files": ["PixelClassifier", "from_hub"],
    "peft_files": ["load_peft", "save_peft"],
    "delta_files": ["fingerprint", "load_delta", "put_delta", "save_delta"],
    "deltas": ["remove_delta", "trainable_parameters"],
    "lora": ["apply_lora", "merge_lora", "unmerge_lora"],
    "clip": ["ClipEncoder", "load_clip"],
    "context": [
        "ContextPrompt", "DualEncoder", "ZeroShot", "clip_loss", "train_dual",
        "zero_shot_weights"],
    "prompts": [
        "PixelPrompt", "Prompted", "VisualPrompt", "frequency_mapping",
        "load_prompt_state", "prompt_attention", "prompt_state"],
    "detection": [
        "DetectionBatches", "Jitter", "LitePyramid", "average_precision", "box_area",
        "box_iou", "check_objects", "coco_map", "coco_mask_rcnn", "decode_boxes",
        "detect", "detection_loss", "encode_boxes", "finetune_detector", "fpn_level",
        "make_anchors", "mask_loss", "mask_rcnn", "match_boxes", "match_found", "nms",
        "precision_recall", "roi_align", "roi_loss", "rpn_loss", "show_found"],
    "folder": ["FolderRun", "finetune_folder"],
    "folder_report": ["duration", "machine_facts"],
    "folder_splits": ["Sides", "divide", "find_splits", "group_finder", "read_splits"],
    "folder_training": ["FolderSettings", "estimate_seconds"],
    "heads": [
        "HEADS", "Head", "corn_loss", "corn_probabilities", "corn_rank", "head_kind",
        "kappa", "mean_precision", "set_head"],
    "corruptions": ["CORRUPTIONS", "corrupt"],
    "strategies": ["FinetuneLoss", "RATES", "finetune", "layer_groups", "rate_groups"],
    "backbones": [
        "Pretrained", "load_backbone", "load_body", "make_backbone", "read_weights",
        "unloaded_backbone", "unloaded_imagenet"],
    "transfer": ["HeadSolver", "cross_validate", "fit_head"],
    "lung": [
        "Coverage", "Froc", "HU_WINDOWS", "LUNA_RATES", "PatchViews", "centre",
        "coverage_curve", "fit_temperature", "froc", "make_cubes", "nodule_slices",
        "operating_point", "ppv", "predict_turned", "read_hu", "threshold_for",
        "window"],
    "medmnist": [
        "GENERATED_SETS", "MedResult", "PUBLISHED", "VolumeNet", "comparable",
        "inflate", "load_medmnist", "medmnist_info", "medmnist_net", "medmnist_scores",
        "medmnist_step", "run_medmnist", "steps_down"],
    "pair_names": ["Match", "match_names", "match_pattern"],
    "pairs": [
        "Found", "PairData", "find_pairs", "is_mask", "read_mask", "read_pairs"],
    "search": ["Pruning", "folds", "tune"],
    "segmentation": [
        "EncoderUNet", "MedicalImageDataset", "Patches", "SegmentationLoss", "UNet",
        "dice_loss", "dihedral", "encoder_unet", "hausdorff", "paint_errors",
        "pixel_logits", "pixel_report", "segment", "train_segmenter"],
    "segmenter": [
        "SegmentRun", "SegmentSettings", "divide_pairs", "find_copies",
        "segment_folder"],
    "tile_training": [
        "Plan", "TileBatches", "answer", "best_threshold", "class_dice",
        "plan_training", "put_threshold", "train_tiles"],
    "video": [
        "CentreNet", "Clip", "Tracker", "Zone", "assign", "clear_mot", "judge_warnings",
        "make_clip", "show_tracks", "track", "train_centres"],
    "work": [
        "explain", "explain_file", "export_onnx", "export_program", "format_runs",
        "latency_table", "launch_app", "make_app", "model_card", "occlusion", "overlay",
        "peak_memory", "predict", "predict_files", "quantize_onnx", "write_dicom"],
    "contestants": [
        "fastai_contestant", "photo_root", "plain_contestant", "trainer_contestant"],
    "speed": ["kit_contestant", "race"],
})

__getattr__ = old_names(__name__, _load, look='explain_file')
