"Names that have become others: the old one still works, for one version, and says what it is called now."
import importlib
import warnings

import pytest

MOVED = [
    ('visft_nb.robust.attacks', 'lent', 'frozen_eval'), ('visft_nb.robust.attacks', 'standing', 'not_fooled'),
    ('visft_nb.train', 'kept_rng', 'preserve_rng'), ('visft_nb.train.checkpoint', 'kept_rng', 'preserve_rng'),
    ('visft_nb.train', 'Run', 'TrainingRun'), ('visft_nb.train.run', 'Run', 'TrainingRun'),
    ('visft_nb.course.runs', 'Run', 'NotebookRun'),
    ('visft_nb.data', 'few_labels', 'label_subset'), ('visft_nb.data.splits', 'few_labels', 'label_subset'),
    ('visft_nb.data', 'Picture', 'DecodedImage'), ('visft_nb.data.rasters', 'Picture', 'DecodedImage'),
    ('visft_nb.deploy', 'Picture', 'DecodedImage'), ('visft_nb.deploy', 'answers', 'iter_answers'),
    ('visft_nb.deploy.asking', 'answers', 'iter_answers'), ('visft_nb.plot', 'Picture', 'FigureImage'),
    ('visft_nb.plot.pictures', 'Picture', 'FigureImage'), ('visft_nb.finetune', 'look', 'explain_file'),
    ('visft_nb.finetune.work', 'look', 'explain_file'), ('visft_nb.finetune.work', 'Look', 'FileAnswer')]

KEYWORDS = [
    ('visft_nb.deploy', 'predict', dict(sure='min_confidence')), ('visft_nb.finetune.work', 'predict_files', dict(sure='min_confidence')),
    ('visft_nb.finetune.work', 'launch_app', dict(sure='min_confidence', say='log')), ('visft_nb.finetune', 'finetune_folder', dict(say='log')),
    ('visft_nb.finetune', 'segment_folder', dict(say='log')), ('visft_nb.course.calibrate', 'calibrate', dict(say='log'))]


@pytest.mark.parametrize('module, old, new', MOVED)
def test_an_old_name_is_the_new_one(module, old, new):
    m = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f'{old} is now .*{new}'): was = getattr(m, old)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert was is getattr(m, new)
    assert old not in m.__all__


@pytest.mark.parametrize('module, name, pairs', KEYWORDS)
def test_an_old_keyword_is_taken_for_the_new_one(module, name, pairs):
    import inspect
    fn = getattr(importlib.import_module(module), name)
    assert set(pairs.values()) <= set(inspect.signature(fn).parameters)
    for old, new in pairs.items():
        with pytest.warns(DeprecationWarning, match=f'{old}= is now {new}='), pytest.raises(TypeError): fn(**{old: object()})


def test_a_name_that_never_was_is_none():
    from visft_nb import data
    with pytest.raises(AttributeError, match='nonsense'): _ = data.nonsense
