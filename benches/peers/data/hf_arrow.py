"""Hugging Face datasets, map style: packed samples in Arrow files, shuffled by an index, given as arrays and cast."""

import pathlib
import shutil

import datasets
import numpy
import pyarrow
import torch
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
    dataset = datasets.load_from_disk(pathlib.Path(work) / "hf_arrow").with_format("numpy")
    # Its own format for torch is slower than this cast.
    for batch in dataset.shuffle(seed=epoch, keep_in_memory=True).iter(BATCH_SIZE, drop_last_batch=True):
        yield torch.from_numpy(batch["tokens"].astype(numpy.int64))
