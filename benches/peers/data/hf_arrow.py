"""Hugging Face datasets, map style: packed samples in Arrow files, shuffled by an index, given as torch tensors."""

import pathlib
import shutil

import datasets
import pyarrow
from source import BATCH_SIZE, SEQ_LEN


def make(corpus, work):
    folder = pathlib.Path(work) / "hf_arrow"
    if (folder / "dataset_info.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    samples = corpus.samples()
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(samples.reshape(-1)), SEQ_LEN)
    datasets.Dataset(pyarrow.table({"tokens": lists})).save_to_disk(folder)


def batches(corpus, work, epoch):
    dataset = datasets.load_from_disk(pathlib.Path(work) / "hf_arrow").with_format("torch").shuffle(seed=epoch)
    for batch in dataset.iter(BATCH_SIZE, drop_last_batch=True):
        yield batch["tokens"]
