"How the suite is spread over processes (tests/conftest.py): a crash has a name, the rest goes on, what is named runs here."
import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip('xdist', reason='the suite is spread by pytest-xdist: pip install pytest-xdist')

INI = '[tool.pytest.ini_options]\ntestpaths = ["tests"]\naddopts = "-q --strict-markers"\n'
TOGETHER = 'import os\n\ndef say(): open(f"worker-{os.environ.get(\'PYTEST_XDIST_WORKER\')}", "a").close()\n\n' \
           'def test_one(): say()\ndef test_two(): say()\ndef test_three(): say()\ndef test_four(): say()\n'


@pytest.fixture
def suite(root, tmp_path):
    "Runs a small suite under our conftest.py: `suite(arguments, name=source)`."
    (tmp_path/'tests').mkdir()
    (tmp_path/'pyproject.toml').write_text(INI)
    shutil.copy(root/'tests/conftest.py', tmp_path/'tests')

    def run(*args, **files):
        for name, source in files.items(): (tmp_path/f'tests/test_{name}.py').write_text(source)
        command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', *args]
        env = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')}   # we may be a worker ourselves
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True), {p.name for p in tmp_path.glob('worker-*')}
    return run


def test_a_crash_has_a_name_and_the_rest_goes_on(suite):
    done, workers = suite(together=TOGETHER, dies='import os\n\ndef test_that_dies(): os.abort()\n', last='def test_last(): pass\n')
    assert workers and workers != {'worker-None'}, workers
    assert done.returncode == 1 and 'crashed' in done.stdout and 'test_dies.py::test_that_dies' in done.stdout, done.stdout + done.stderr
    assert '1 failed, 5 passed' in done.stdout


@pytest.mark.parametrize('args', [['tests/test_together.py'], ['-k', 'one or two'], ['-n', '0']])
def test_what_is_named_runs_in_one_process(suite, args):
    done, workers = suite(*args, together=TOGETHER)
    assert done.returncode == 0 and workers == {'worker-None'}, done.stdout + done.stderr
