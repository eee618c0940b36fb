"""Images as tensors: loading, splitting, leaks, augmentation. Public names are loaded
when they are first used."""
import lazy_loader as lazy

from visft_nb.checks import old_names

_load, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "images": ["concat_images", "Images"],
    "seeds": ["draw", "seeded"],
    "splits": ["label_subset", "split_data"],
    "batches": ["Batches"],
    "augment": [
        "affine", "Augment", "crop", "random_affine", "random_flip",
        "random_resized_crop", "warp"],
    "synthetic": ["COLOURS", "make_nodules", "make_shapes", "mask_boxes"],
    "catalog": [
        "data_file", "DataSet", "dataset_table", "DATASETS", "find_file",
        "get_dataset", "is_official", "medmnist_table", "require_file"],
    "loading": ["load_dataset"],
    "folders": ["corrupt_files", "csv_images", "image_folder", "mask_pairs"],
    "files": [
        "decode_image", "decode_pictures", "IMAGE_KINDS", "named_page",
        "pictures_at", "read_image", "read_pictures", "warn_of"],
    "entries": [
        "entry_stamp", "file_entries", "is_hidden", "LARGEST", "MOST",
        "read_bytes", "zip_entries"],
    "rasters": ["DecodedImage", "mask_numbers", "open_mask", "to_bytes", "to_floats"],
    "dicom": [
        "apply_window", "dicom_errors", "dicom_frames", "DICOM_KINDS",
        "frame_value", "open_dicom", "padding", "rescaled"],
    "sizes": ["fit_channels", "fit_image", "prepare_image"],
    "arrays": ["idx_shape", "read_arrays", "read_idx"],
    "tables": ["read_table"],
    "reading": ["read_entries"],
    "stored": [
        "FileTensor", "keep_rows", "memory_limit", "recall_rows", "take",
        "write_rows"],
    "downloads": ["fetch_file"],
    "likeness": [],
    "leaks": ["components", "find_leaks", "Leaks"],
})

__getattr__ = old_names(
    __name__, _load, few_labels='label_subset', Picture='DecodedImage')
