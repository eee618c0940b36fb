"""Chapter 3: fine-tuning.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

from visft_nb.checks import old_names

_load, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "anomaly": [
        "conformal_threshold", "greedy_coreset", "nearest", "PaDiM", "patch_features",
        "PatchCore", "ReconstructionDetector"],
    "anomaly_detector": ["AnomalyDetector"],
    "anomaly_fabric": ["DEFECTS", "synthetic_fabric"],
    "anomaly_metrics": ["defect_table", "pixel_auc"],
    "anomaly_parts": ["read_parts"],
    "app": ["launch_app", "make_app"],
    "app_answers": ["explain_file"],
    "costs": ["saved_bytes", "training_costs"],
    "adapters": ["apply_adapters", "apply_bitfit", "apply_ia3", "apply_norm_only"],
    "hub": ["from_transformers", "image_processor", "to_transformers"],
    "peft_files": ["load_peft", "save_peft"],
    "lora": ["apply_lora", "merge_lora", "unmerge_lora"],
    "context": [
        "clip_loss", "ContextPrompt", "DualEncoder", "train_dual", "zero_shot_weights",
        "ZeroShot"],
    "prompts": [
        "frequency_mapping", "load_prompt_state", "PixelPrompt", "prompt_attention",
        "prompt_state", "Prompted", "VisualPrompt"],
    "detection": [
        "average_precision", "box_area", "box_iou", "decode_boxes", "detection_loss",
        "encode_boxes", "finetune_detector", "fpn_level", "make_anchors", "mask_loss",
        "match_boxes", "match_found", "nms", "precision_recall", "roi_align",
        "roi_loss", "rpn_loss", "show_found"],
    "detection_answers": ["detect"],
    "detection_coco": ["coco_map"],
    "detection_models": ["coco_mask_rcnn", "LitePyramid", "mask_rcnn"],
    "detection_targets": ["check_objects", "DetectionBatches", "Jitter"],
    "dicom_writing": ["write_dicom"],
    "evidence": ["explain", "occlusion", "overlay"],
    "folder": ["finetune_folder", "FolderRun"],
    "formats": ["format_runs", "latency_table", "peak_memory"],
    "heads": [
        "corn_loss", "corn_probabilities", "corn_rank", "Head", "head_kind", "HEADS",
        "kappa", "mean_precision", "set_head"],
    "strategies": ["finetune", "FinetuneLoss", "layer_groups", "rate_groups", "RATES"],
    "transfer": ["cross_validate", "fit_head", "HeadSolver"],
    "lung": [
        "Coverage", "coverage_curve", "fit_temperature", "HU_WINDOWS",
        "operating_point", "ppv", "threshold_for", "window"],
    "lung_froc": ["Froc", "froc", "LUNA_RATES"],
    "lung_hounsfield": ["read_hu"],
    "lung_patches": ["centre", "PatchViews", "predict_turned"],
    "lung_slices": ["make_cubes", "nodule_slices"],
    "medmnist": [
        "inflate", "medmnist_net", "medmnist_scores", "medmnist_step", "MedResult",
        "PUBLISHED", "run_medmnist", "steps_down", "VolumeNet"],
    "medmnist_sets": ["comparable", "GENERATED_SETS", "load_medmnist", "medmnist_info"],
    "pairs": ["find_pairs", "Found", "is_mask", "PairData", "read_mask", "read_pairs"],
    "search": ["folds", "Pruning", "tune"],
    "mask_answers": ["dihedral", "segment"],
    "mask_dataset": ["MedicalImageDataset"],
    "mask_errors": ["paint_errors", "pixel_report"],
    "mask_logits": ["pixel_logits"],
    "mask_windows": ["Patches"],
    "segmentation": [
        "dice_loss", "hausdorff", "SegmentationLoss", "train_segmenter", "UNet"],
    "segmenter": [
        "divide_pairs", "find_copies", "segment_folder", "SegmentRun",
        "SegmentSettings"],
    "unet_encoder": ["encoder_unet", "EncoderUNet"],
    "video": [
        "assign", "CentreNet", "clear_mot", "judge_warnings", "track", "Tracker",
        "train_centres", "Zone"],
    "video_clip": ["Clip", "make_clip"],
    "video_pictures": ["show_tracks"],
    "work": [
        "export_onnx", "export_program", "model_card", "predict", "predict_files",
        "quantize_onnx"],
    "speed": ["kit_contestant", "race"],
    "hub_files": ["from_hub", "PixelClassifier"],
    "delta_files": ["fingerprint", "load_delta", "put_delta", "save_delta"],
    "deltas": ["remove_delta", "trainable_parameters"],
    "clip": ["ClipEncoder", "load_clip"],
    "folder_report": ["duration", "machine_facts"],
    "folder_splits": ["divide", "find_splits", "group_finder", "read_splits", "Sides"],
    "folder_training": ["estimate_seconds", "FolderSettings"],
    "corruptions": ["corrupt", "CORRUPTIONS"],
    "backbones": [
        "load_backbone", "load_body", "make_backbone", "Pretrained", "read_weights",
        "unloaded_backbone", "unloaded_imagenet"],
    "pair_names": ["Match", "match_names", "match_pattern"],
    "tile_training": [
        "answer", "best_threshold", "class_dice", "Plan", "plan_training",
        "put_threshold", "TileBatches", "train_tiles"],
    "contestants": [
        "fastai_contestant", "photo_root", "plain_contestant", "trainer_contestant"],
})

__getattr__ = old_names(__name__, _load, look='explain_file')
