"""The hash of a prepared scan is computed once per array, and never reused for another one."""

import gc
import tracemalloc

import numpy as np

from med_transfer.finetuning import features
from med_transfer.finetuning.features import tensor_hash
from med_transfer.scans.volume import bytes_of


def test_equal_contents_have_one_hash_and_others_their_own():
    one = np.zeros((1, 4, 4, 4), np.float16)
    assert tensor_hash(one) == tensor_hash(one) == tensor_hash(one.copy())
    assert len({tensor_hash(one), tensor_hash(one + 1), tensor_hash(one.reshape(1, 2, 8, 4))}) == 3


def test_an_array_in_the_place_of_one_that_is_gone_has_its_own_hash():
    seen, kept = {}, len(features._HASHES)
    for number in range(200):  # freed and made anew: they often lie at the same place
        array = np.full((1, 4, 4, 4), number, np.float16)
        seen[number] = tensor_hash(array)
        del array
    gc.collect()
    assert len(set(seen.values())) == 200
    assert len(features._HASHES) <= kept


def test_a_scan_is_hashed_where_it_lies():
    scan = np.ones((64, 256, 256), np.float16)  # 8 MiB
    tracemalloc.start()
    tensor_hash(scan)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < scan.nbytes / 8


def test_what_is_hashed_of_an_array_are_its_bytes_in_order():
    turned = np.arange(24, dtype=np.float16).reshape(4, 6).T
    for array in (turned, turned.copy(), np.array(1.5), np.zeros((0, 3)), turned > 7):
        assert bytes_of(array).tobytes() == array.tobytes()
