"Fixtures that several files share: the book, a data folder, the kit installed from its wheel."
import os, subprocess, sys
from pathlib import Path

import pytest

# One thread, before torch is loaded: with two, torch 2.14.1 frees memory twice in the backward pass of float32 convolutions with fewer
# than 16 channels (seen on a CPU with avx512: ResNet-18 of width 4 and 8, batch 3), and the tests are full of such small networks.
for _threads in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ.setdefault(_threads, '1')

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def root(): return ROOT


@pytest.fixture(scope='session')
def data_root():
    "The folder of real data sets that `VISFT_DATA` names."
    here = os.environ.get('VISFT_DATA')
    if not here or not Path(here).is_dir(): pytest.skip('VISFT_DATA names no folder, so the tests on real data sets are skipped')
    return Path(here)


@pytest.fixture(scope='session')
def wheel_env(tmp_path_factory):
    "An environment in which `visft_nb` is the one of a freshly built wheel, with an empty home."
    top = tmp_path_factory.mktemp('wheel')
    build = [sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', str(top/'dist'), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    wheel, = (top/'dist').glob('*.whl')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(top/'site'), str(wheel)], check=True, capture_output=True)
    (top/'home').mkdir()
    kept = 'VISFT_THREADS', 'VISFT_PRECISION'   # what a run of the suite forces is forced in the notebooks too
    env = {k: v for k, v in os.environ.items() if k in kept or not k.startswith(('VISFT_', 'XDG_', 'JUPYTER', 'IPYTHON'))}
    return {**env, 'PYTHONPATH': str(top/'site'), 'HOME': str(top/'home'), 'PYTHONDONTWRITEBYTECODE': '1'}
