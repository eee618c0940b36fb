"""Images as tensors: loading, splitting, leaks, augmentation. Public names are loaded when they are first used."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "files": ["DICOM_KINDS", "IMAGE_KINDS", "Picture", "apply_window", "decode_image", "decode_pictures", "dicom_frames", "entry_stamp", "file_entries",
              "fit_channels", "fit_image", "frame_value", "mask_numbers", "named_page", "open_dicom", "open_mask", "padding", "pictures_at",
              "prepare_image", "read_bytes", "read_idx", "read_image", "read_pictures", "rescaled", "to_bytes", "to_floats",
              "zip_entries"],
    "arrays": ["read_arrays"],
    "downloads": ["fetch_file"],
    "reading": ["read_entries"],
    "stored": ["FileTensor", "keep_rows", "memory_limit", "recall_rows", "take", "write_rows"],
    "tables": ["read_table"],
    "images": ["Augment", "Batches", "COLOURS", "DATASETS", "DataSet", "Images", "affine", "corrupt_files", "crop", "csv_images", "data_file",
               "dataset_table", "draw", "few_labels", "get_dataset", "image_folder", "is_official", "load_dataset", "make_nodules",
               "make_shapes", "mask_boxes", "mask_pairs", "medmnist_table", "random_affine", "random_flip", "random_resized_crop", "seeded", "split_data", "warp"],
    "leaks": ["Leaks", "find_leaks"],
})
