"""Chapter 3: fine-tuning.

Public names are loaded when they are first used.
"""
import lazy_loader as lazy

from visft_nb.checks import old_names

_load, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "anomaly": [
        "PaDiM", "PatchCore", "ReconstructionDetector", "conformal_threshold",
        "greedy_coreset", "nearest", "patch_features"],
    "anomaly_detector": ["AnomalyDetector"],
    "anomaly_fabric": ["DEFECTS", "synthetic_fabric"],
    "anomaly_metrics": ["defect_table", "pixel_auc"],
    "anomaly_parts": ["read_parts"],
    "app": ["launch_app", "make_app"],
    "app_answers": ["explain_file"],
    "costs": ["saved_bytes", "training_costs"],
    "adapters": ["apply_adapters", "apply_bitfit", "apply_ia3", "apply_norm_only"],
    "hub": [
        "PixelClassifier", "from_hub", "from_transformers", "image_processor",
        "to_transformers"],
    "peft_files": ["load_peft", "save_peft"],
    "lora": [
        "apply_lora", "fingerprint", "load_delta", "merge_lora", "put_delta",
        "remove_delta", "save_delta", "trainable_parameters", "unmerge_lora"],
    "context": [
        "ClipEncoder", "ContextPrompt", "DualEncoder", "ZeroShot", "clip_loss",
        "load_clip", "train_dual", "zero_shot_weights"],
    "prompts": [
        "PixelPrompt", "Prompted", "VisualPrompt", "frequency_mapping",
        "load_prompt_state", "prompt_attention", "prompt_state"],
    "detection": [
        "average_precision", "box_area", "box_iou", "decode_boxes", "detection_loss",
        "encode_boxes", "finetune_detector", "fpn_level", "make_anchors", "mask_loss",
        "match_boxes", "match_found", "nms", "precision_recall", "roi_align",
        "roi_loss", "rpn_loss", "show_found"],
    "detection_answers": ["detect"],
    "detection_coco": ["coco_map"],
    "detection_models": ["LitePyramid", "coco_mask_rcnn", "mask_rcnn"],
    "detection_targets": ["DetectionBatches", "Jitter", "check_objects"],
    "dicom_writing": ["write_dicom"],
    "evidence": ["explain", "occlusion", "overlay"],
    "folder": [
        "FolderRun", "Sides", "divide", "duration", "estimate_seconds", "find_splits",
        "finetune_folder", "group_finder", "machine_facts", "read_splits"],
    "formats": ["format_runs", "latency_table", "peak_memory"],
    "heads": [
        "HEADS", "Head", "corn_loss", "corn_probabilities", "corn_rank", "head_kind",
        "kappa", "mean_precision", "set_head"],
    "strategies": [
        "CORRUPTIONS", "FinetuneLoss", "RATES", "corrupt", "finetune", "layer_groups",
        "rate_groups"],
    "transfer": [
        "HeadSolver", "Pretrained", "cross_validate", "fit_head", "load_backbone",
        "load_body", "make_backbone", "read_weights", "unloaded_backbone",
        "unloaded_imagenet"],
    "lung": [
        "Coverage", "HU_WINDOWS", "coverage_curve", "fit_temperature",
        "operating_point", "ppv", "threshold_for", "window"],
    "lung_froc": ["Froc", "LUNA_RATES", "froc"],
    "lung_hounsfield": ["read_hu"],
    "lung_patches": ["PatchViews", "centre", "predict_turned"],
    "lung_slices": ["make_cubes", "nodule_slices"],
    "medmnist": [
        "MedResult", "PUBLISHED", "VolumeNet", "inflate", "medmnist_net",
        "medmnist_scores", "medmnist_step", "run_medmnist", "steps_down"],
    "medmnist_sets": [
        "GENERATED_SETS", "comparable", "load_medmnist", "medmnist_info"],
    "pairs": [
        "Found", "Match", "PairData", "find_pairs", "is_mask", "match_names",
        "read_mask", "read_pairs"],
    "search": ["Pruning", "folds", "tune"],
    "mask_answers": ["dihedral", "segment"],
    "mask_dataset": ["MedicalImageDataset"],
    "mask_errors": ["paint_errors", "pixel_report"],
    "mask_logits": ["pixel_logits"],
    "mask_windows": ["Patches"],
    "segmentation": [
        "SegmentationLoss", "UNet", "dice_loss", "hausdorff", "train_segmenter"],
    "segmenter": [
        "Plan", "SegmentRun", "TileBatches", "answer", "best_threshold", "class_dice",
        "divide_pairs", "find_copies", "plan_training", "put_threshold",
        "segment_folder", "train_tiles"],
    "unet_encoder": ["EncoderUNet", "encoder_unet"],
    "video": [
        "CentreNet", "Tracker", "Zone", "assign", "clear_mot", "judge_warnings",
        "track", "train_centres"],
    "video_clip": ["Clip", "make_clip"],
    "video_pictures": ["show_tracks"],
    "work": [
        "export_onnx", "export_program", "model_card", "predict", "predict_files",
        "quantize_onnx"],
    "speed": [
        "fastai_contestant", "kit_contestant", "photo_root", "plain_contestant", "race",
        "trainer_contestant"],
})

__getattr__ = old_names(__name__, _load, look='explain_file')
