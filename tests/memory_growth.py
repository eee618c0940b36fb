"""What a fine-tuning of a folder takes at its peak, for several numbers of images: python tests/memory_growth.py VISFT_MEMORY SIDE N N …

Prints the peaks of resident memory that belongs to the process alone (files that the system keeps in its cache are not counted),
what each image adds between the last two, and what 200,000 would take."""
import json, os, sys, tempfile, threading
from pathlib import Path

# freed blocks go back to the system at once, so that peaks can be compared
if os.environ.get('MALLOC_ARENA_MAX') != '1':
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, 'MALLOC_MMAP_THRESHOLD_': str(2**18), 'MALLOC_ARENA_MAX': '1'})

import numpy as np
import torch
from PIL import Image

from visft_nb.core import set_seed
from visft_nb.finetune.folder import finetune_folder


def make_folder(top, n, side=8):
    "Small pictures of noise in two classes; they are enlarged when they are read."
    rng = np.random.default_rng(n)
    for c in ('ant', 'bee'):
        (top/c).mkdir(parents=True)
        for i in range(n//2): Image.fromarray(rng.integers(0, 256, (side, side, 3)).astype(np.uint8)).save(top/c/f'{i:06}.png')
    return top


def resident():
    "Bytes of anonymous memory that are in use."
    return 1024*int(next(line for line in open('/proc/self/status') if line.startswith('RssAnon')).split()[1])


def peak(run):
    "The most that was in use while a function ran."
    seen, over = [resident()], threading.Event()
    def watch():
        while not over.wait(.005): seen.append(max(seen.pop(), resident()))
    thread = threading.Thread(target=watch)
    thread.start()
    try: run()
    finally: over.set(); thread.join()
    return seen[0]


def main(memory, side, *sizes):
    torch.set_num_threads(1)
    os.environ['VISFT_MEMORY'] = memory
    with tempfile.TemporaryDirectory() as top:
        os.environ['VISFT_CACHE'], peaks = f'{top}/cache', []
        for k, n in enumerate((sizes[0], *sizes)):   # the first run loads what is loaded once
            folder = make_folder(Path(top)/f'photos{k}', int(n))
            set_seed(0)
            run = lambda k=k, folder=folder: finetune_folder(folder, f'{top}/out{k}', 'small_cnn', None, 'linear', size=int(side), log=lambda s: None)
            peaks.append(peak(run))
    each = (peaks[-1] - peaks[-2])/(int(sizes[-1]) - int(sizes[-2]))
    print(json.dumps(dict(peaks_mb=[round(p/2**20) for p in peaks[1:]], bytes_an_image=round(each),
                          gb_of_200000=round((peaks[-1] + each*(200000 - int(sizes[-1])))/2**30, 2))))


if __name__ == '__main__': main(*sys.argv[1:])
